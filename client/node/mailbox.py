"""What the daemon's threads tell its main thread: facts, in the order in which they came."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import Any

ROOM = 256


class Mailbox:
    """`post` blocks while ROOM facts lie unread, which holds a chattering peer back; `urge` never does.

    `urge` may be called from a signal handler.
    """

    def __init__(self) -> None:
        self._facts: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._room = threading.BoundedSemaphore(ROOM)
        self._aside: deque[tuple[bool, Any]] = deque()  # the reader's own

    def post(self, fact: Any) -> None:
        self._room.acquire()
        self._facts.put((True, fact))

    def urge(self, fact: Any) -> None:
        self._facts.put((False, fact))

    def take(self, seconds: float | None) -> Any:
        """The next fact; None when `seconds` have passed without one."""
        try:
            counted, fact = (
                self._aside.popleft() if self._aside else self._facts.get(timeout=seconds)
            )
        except queue.Empty:
            return None
        if counted:
            self._room.release()
        return fact

    def hold(self, seconds: float, unless: type) -> bool:
        """Wait, leaving every fact for `take`. True as soon as one of this kind has come."""
        end = time.monotonic() + seconds
        while not any(isinstance(fact, unless) for _, fact in self._aside):
            try:
                self._aside.append(self._facts.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                return False
        return True
