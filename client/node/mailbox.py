"""What the daemon's threads tell its main thread: facts, in the order in which they came."""

from __future__ import annotations

import queue
import threading
from typing import Any

ROOM = 256


class Mailbox:
    """`post` blocks while ROOM facts lie unread, which holds a chattering peer back; `urge` never does.

    `urge` may be called from a signal handler.
    """

    def __init__(self) -> None:
        self._facts: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._room = threading.BoundedSemaphore(ROOM)

    def post(self, fact: Any) -> None:
        self._room.acquire()
        self._facts.put((True, fact))

    def urge(self, fact: Any) -> None:
        self._facts.put((False, fact))

    def take(self, seconds: float | None) -> Any:
        """The next fact; None when `seconds` have passed without one."""
        try:
            counted, fact = self._facts.get(timeout=seconds)
        except queue.Empty:
            return None
        if counted:
            self._room.release()
        return fact
