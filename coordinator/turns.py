"""Whose bytes move now: a few transfers at a time, and nobody waits for one that is slow.

What is on its way lies in memory, so the memory of a coordinator whose members all move content at once would
grow with their number; and few transfers at a time end sooner, on the average, than many. A transfer that has
fallen behind `PACE` is its peer's slowness: it goes on, does not count any more, and another may begin.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 0.25  # seconds that a transfer may be behind
PACE = 8 << 20  # bytes a second


class Turn:
    """One transfer that goes on. Owned by its thread; `moved` may be asked by any."""

    def __init__(self, began: float) -> None:
        self.began, self._bytes = began, 0

    def moved(self, count: int) -> None:
        self._bytes += count

    def counts_until(self) -> float:
        """When it counts as slow unless more is moved by then."""
        return self.began + PATIENCE + self._bytes / PACE


class Turns:
    """May be used from any thread."""

    def __init__(self, most: int, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._now = most, now
        self._changed = threading.Condition()
        self._quick: set[Turn] = set()

    @contextmanager
    def taken(self) -> Iterator[Turn]:
        """Inside, one transfer moves. Waits until there is room for it."""
        with self._changed:
            while (wait := self._until_free()) > 0.0:
                self._changed.wait(wait)
            turn = Turn(self._now())
            self._quick.add(turn)
        try:
            yield turn
        finally:
            with self._changed:
                self._quick.discard(turn)
                self._changed.notify()

    def _until_free(self) -> float:
        """Seconds until there is room without anything happening; 0 if there is now."""
        now = self._now()
        self._quick = {turn for turn in self._quick if turn.counts_until() > now}
        if len(self._quick) < self._most:
            return 0.0
        return max(1e-3, min(turn.counts_until() for turn in self._quick) - now)
