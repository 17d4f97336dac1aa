"""What the ServerApp prints, marked while it is a replay of what was printed before."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

MARK = "replayed | "


class Marked:
    """A text stream that puts `MARK` before each line written while `replaying()`."""

    def __init__(self, stream: TextIO, replaying: Callable[[], bool]) -> None:
        self._stream, self._replaying = stream, replaying
        self._at_start = True

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            if self._at_start and self._replaying():
                self._stream.write(MARK)
            self._stream.write(line)
            self._at_start = line.endswith("\n")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def marked(replaying: Callable[[], bool]) -> Iterator[None]:
    """Inside, stdout, stderr and Flower's log are marked."""
    outer = sys.stdout, sys.stderr
    handlers = [
        (h, h.stream)
        for h in logging.getLogger("flwr").handlers
        if isinstance(h, logging.StreamHandler)
    ]
    sys.stdout, sys.stderr = (Marked(stream, replaying) for stream in outer)
    try:
        for handler, stream in handlers:
            handler.setStream(Marked(stream, replaying))
        yield
    finally:
        sys.stdout, sys.stderr = outer
        for handler, stream in handlers:
            handler.setStream(stream)
