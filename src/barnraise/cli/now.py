"""The lines under the rows: the open batch, what each member is doing, and for whom the run waits.

They are taken away at the end. rich's own thread draws them; the run's thread changes the picture, both
under one lock.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from textwrap import wrap

from rich.console import Console
from rich.live import Live
from rich.text import Text

from barnraise.cli.picture import Picture
from barnraise.coordinator import events

Clock = Callable[[], float]


class Now:
    """Sees every event; draws between `start` and `stop`."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._lock = threading.Lock()
        self._picture = Picture()
        self._drawn = True
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=5,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._drawn = False
        self._live.stop()

    def see(self, event: events.Event) -> None:
        with self._lock:
            self._picture.see(event, self._clock())

    def _render(self) -> Text:
        """The lines, short of the terminal's edge: an echoed ^C must not move the cursor down."""
        width = max(20, self._console.width - 4)
        wrapped = [
            piece
            for line in self.text()
            for piece in wrap(
                line, width, initial_indent="  ", subsequent_indent="  ", replace_whitespace=False
            )
        ]
        return Text("\n".join(wrapped), "dim", no_wrap=True)

    def text(self) -> list[str]:
        """The lines as they are now; none between batches."""
        with self._lock:
            return self._picture.lines(self._clock()) if self._drawn else []
