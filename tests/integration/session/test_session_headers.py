"""Calls that are opened and never say anything: they count as their member's, and hold up nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from session_kit import Feed, House, Node


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "house")
    yield made
    made.close()


METHODS = ("Exchange/Fetch", "Transparency/Checkpoint", "Transparency/Entries")


def opened(node: Node, method: str, feed: Feed) -> grpc.Call:
    """Only the headers of a call; whether its method has one request or many is not said there."""
    call: grpc.Call = node.channel.stream_stream(f"/barnraise.v1.{method}")(iter(feed))
    return call


def test_calls_without_a_request_keep_nobody_waiting(house: House) -> None:
    """More of them than the port has threads."""
    feed = Feed()
    calls = [
        opened(node, method, feed)
        for node in [house.node("bob") for _ in range(6)]
        for method in METHODS
        for _ in range(5)
    ]
    house.node("ada").attend().welcomed()
    content = house.content(1.0)
    house.fleet.dispatch([house.order("ada", content=content)])
    assert house.node("ada").fetch(content)
    for call in calls:
        call.cancel()
    feed.end()
