"""Tells an interrupt that a person sent from one that code raised by itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """`came`: whether a signal that ends this process has come while `heard` was entered."""

    def __init__(self) -> None:
        self.came = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Inside, signals are noted, and handled as before. Only the main thread can be signalled."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def note(number: int, frame: FrameType | None) -> None:
            self.came = True
            handler = before[signal.Signals(number)]
            assert callable(handler)
            handler(number, frame)

        ours = [number for number, handler in before.items() if callable(handler)]
        for number in ours:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, before[number])
