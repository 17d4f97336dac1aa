"""Whose bytes move now: a few transfers at a time, and nobody waits for one that is slow.

What is on its way lies in memory, so the memory of a coordinator whose members all move content at once would
grow with their number; and few transfers at a time end sooner, on the average, than many. A transfer that has
fallen behind `PACE` is its peer's slowness: it goes on, does not count any more, and another may begin.
Of one member only one transfer counts at a time, or it could have all turns for as long as it is quick.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 0.25  # seconds that a transfer may be behind
PACE = 8 << 20  # bytes a second
LOOK = 1.0  # seconds after which who waits is asked whether it still does


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
        self._quick: dict[Turn, str] = {}  # with whose it is

    @contextmanager
    def taken(self, member: str = "", waits: Callable[[], bool] = lambda: True) -> Iterator[Turn]:
        """Inside, one transfer of this member moves. Waits until there is room for it; whoever does not
        wait any more (`waits`) is let through, for it moves nothing."""
        with self._changed:
            while waits() and (wait := self._until_free(member)) > 0.0:
                self._changed.wait(min(wait, LOOK))
            turn = Turn(self._now())
            self._quick[turn] = member
        try:
            yield turn
        finally:
            with self._changed:
                self._quick.pop(turn, None)
                self._changed.notify_all()

    def _until_free(self, member: str) -> float:
        """Seconds until there is room without anything happening; 0 if there is now."""
        now = self._now()
        self._quick = {t: whose for t, whose in self._quick.items() if t.counts_until() > now}
        before = [t for t, whose in self._quick.items() if member and whose == member]
        if not before and len(self._quick) < self._most:
            return 0.0
        return max(1e-3, min(t.counts_until() for t in before or self._quick) - now)
