"""The lines under the rows: the open batch, who is at which step, and for whom it waits.

They are taken away at the end. rich's own thread draws them, from a snapshot that the run's thread
replaces and never changes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from textwrap import wrap

from rich.console import Console
from rich.live import Live
from rich.text import Text

from barnraise.cli import words
from barnraise.coordinator import events

Clock = Callable[[], float]


class Now:
    """Sees every event; draws between `start` and `stop`."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._batch: events.BatchSent | None = None
        self._since = clock()
        self._answered = 0
        self._waiting = ""
        self._steps: dict[str, events.Progress] = {}
        self._snapshot: tuple[str, ...] = ()
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
        self._snapshot = ()
        self._live.stop()

    def see(self, event: events.Event) -> None:
        if isinstance(event, events.BatchSent) and not event.replayed:
            self._batch, self._since = event, self._clock()
            self._answered, self._waiting = 0, ""
            self._steps = {}
        elif isinstance(event, events.Progress):
            self._steps[event.member] = event
        elif isinstance(event, events.Answered):
            self._answered += event.verdict != "late"
            self._steps.pop(event.member, None)
        elif isinstance(event, events.Waiting):
            self._waiting = event.text
        elif isinstance(event, events.BatchClosed):
            self._batch = None
        self._snapshot = self._lines()

    def _lines(self) -> tuple[str, ...]:
        if self._batch is None:
            return ()
        asked = len(self._batch.members)
        steps = [f"{p.member} {p.what} {p.done}/{p.total}" for p in list(self._steps.values())[-3:]]
        head = f"{self._batch.type} · {self._answered}/{asked} answered"
        return (" · ".join([head, *steps]), self._waiting)

    def _render(self) -> Text:
        """The lines, short of the terminal's edge: an echoed ^C must not move the cursor down."""
        width = max(20, self._console.width - 4)
        wrapped = [
            piece
            for line in self.text()
            for piece in wrap(line, width, initial_indent="  ", subsequent_indent="  ")
        ]
        return Text("\n".join(wrapped), "dim", no_wrap=True)

    def text(self) -> list[str]:
        """The lines as they are now; none between batches."""
        lines = [line for line in self._snapshot if line]
        if lines:
            lines[0] += f" · {words.duration(self._clock() - self._since)}"
        return lines
