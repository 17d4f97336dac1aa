"""Tells a transfer's progress, some times a second."""

from __future__ import annotations

import math
import time

from barnraise.client.node.link import Link

_SAY_EVERY = 0.2  # seconds between two reports


class Teller:
    """Called with how many bytes of how many are moved."""

    def __init__(self, link: Link, order: str, what: str) -> None:
        self._link, self._order, self._what, self._last = link, order, what, -math.inf

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _SAY_EVERY or done == total:
            self._last = now
            self._link.progress(self._order, self._what, done, total)
