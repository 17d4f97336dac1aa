"""The processes of one worker, by way of a store that lies in this one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from barnraise.client.node.crew import Crew, OutOfStep


class Shelf:
    """As much of torch.distributed's store as a crew needs; nothing is waited for."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def set(self, key: str, value: str, /) -> None:
        self.held[key] = value.encode()

    def get(self, key: str, /) -> bytes:
        return self.held[key]

    def wait(self, keys: list[str], timeout: timedelta, /) -> None:
        if not self.held.keys() >= {*keys}:
            raise RuntimeError("wait timeout")

    def delete_key(self, key: str, /) -> bool:
        return self.held.pop(key, None) is not None


def test_of_an_order_that_is_settled_nothing_stays() -> None:
    """It brings its envelopes: hundreds of kilobytes for each order, in a worker that lives for weeks."""
    shelf = Shelf()
    first, other = (Crew(shelf, rank, 2) for rank in range(2))
    for number in range(3):
        first.share({"order": number})
        assert other.next() == {"order": number}
        other.report("")
        first.settle("")
        assert shelf.held == {}


def test_who_is_out_of_step_is_named() -> None:
    shelf = Shelf()
    first, other = (Crew(shelf, rank, 2) for rank in range(2))
    first.share({})
    other.next()
    with pytest.raises(OutOfStep, match="did not answer"):
        first.settle("")
    other.report("E1")
    with pytest.raises(OutOfStep, match="process 1: E1"):
        first.settle("")
