"""Who may move bytes now: a few at a time, and nobody waits for one that is slow.

What is on its way lies in memory, so the memory of a coordinator whose members all deliver at once would grow
with their number; and few transfers at a time end sooner, on the average, than many. A step that takes
longer than `PATIENCE` is its peer's slowness: it does not count any more, and another may begin.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 0.05  # seconds


class Turns:
    """May be used from any thread."""

    def __init__(self, most: int, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._now = most, now
        self._changed = threading.Condition()
        self._since: dict[int, float] = {}  # of each step that is going on, when it began
        self._serial = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Inside is one step, such as to receive and write one piece."""
        with self._changed:
            while (wait := self._until_free()) > 0.0:
                self._changed.wait(wait)
            self._serial += 1
            serial = self._serial
            self._since[serial] = self._now()
        try:
            yield
        finally:
            with self._changed:
                del self._since[serial]
                self._changed.notify()

    def _until_free(self) -> float:
        """Seconds until there is room without anything happening; 0 if there is now."""
        now = self._now()
        quick = sorted(since for since in self._since.values() if now - since < PATIENCE)
        if len(quick) < self._most:
            return 0.0
        return max(1e-4, quick[-self._most] + PATIENCE - now)
