"""The processes of one worker: the first speaks to the daemon, the others do each training order with it.

    first frame, orders     from rank 0 to the others, by the store through which they found each other
    outcome                 of each order, from the others to rank 0: "" or why it failed

An order is shared as it came; each process reads its files itself. When one process fails where others do
not, they are out of step: the order is answered with an error and the worker ends, to be started afresh.
Knows neither ClientApps nor the network beneath the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

STALL = 600.0  # seconds after which a process that does not answer has failed
BRIEF = 10.0  # seconds in which the others must have failed as well, where one has
_LOOK = 60.0  # seconds that one look for the next order lasts


class Store(Protocol):
    """As torch.distributed's; `wait` raises where the time is over or the other side is gone."""

    def set(self, key: str, value: str, /) -> None: ...

    def get(self, key: str, /) -> bytes: ...

    def wait(self, keys: list[str], timeout: timedelta, /) -> None: ...

    def delete_key(self, key: str, /) -> bool: ...


class OutOfStep(Exception):
    """The processes of this worker do not do the same; `str` says who failed, by number and reason."""


class Crew:
    """One of `size` processes. `number` counts what was shared."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store, self._number = store, 0

    # --- the first ----------------------------------------------------------------------------------

    def share(self, message: Mapping[str, Any] | None) -> None:
        """Hand this to the others; None: there is nothing more."""
        self._number += 1
        self._store.set(f"shared/{self._number}", json.dumps(message))

    def settle(self, failure: str) -> None:
        """Hear how the others fared with what was shared last. `failure` is why it failed here, or "".

        Raises OutOfStep unless all fared alike.
        """
        keys = [f"outcome/{self._number}/{rank}" for rank in range(1, self.size)]
        try:
            self._store.wait(keys, timedelta(seconds=BRIEF if failure else STALL))
            found = [json.loads(self._store.get(key)) for key in keys]
            for key in (f"shared/{self._number}", *keys):  # all have read it; an order may be large
                self._store.delete_key(key)
        except RuntimeError:
            raise OutOfStep(failure or "a process did not answer") from None
        for rank, other in enumerate(found, 1):
            if bool(other) != bool(failure):
                raise OutOfStep(failure or f"process {rank}: {other}")

    # --- the others ---------------------------------------------------------------------------------

    def next(self) -> dict[str, Any] | None:
        """What the first shares next, whenever that is."""
        self._number += 1
        key = f"shared/{self._number}"
        while True:
            try:
                self._store.wait([key], timedelta(seconds=_LOOK))
            except RuntimeError as error:
                if "imeout" not in str(error):
                    raise
                continue
            found = json.loads(self._store.get(key))
            return dict(found) if found is not None else None

    def report(self, failure: str) -> None:
        self._store.set(f"outcome/{self._number}/{self.rank}", json.dumps(failure))
