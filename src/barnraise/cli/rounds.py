"""A run as it happens, for a person: one row per round, and below it what is going on now.

An app that seals rounds gets a row per seal; any other a row per batch. What a directory already held
is told in one line. It decides nothing, and is called in the thread that drives the run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.text import Text

from barnraise.cli import words
from barnraise.cli.now import Clock, Now
from barnraise.coordinator import events

_INITIAL = "the initial model"  # what a seal without training is about


class Rounds(AbstractContextManager["Rounds"]):
    """A watcher.

    `seals`: whether the app is known to seal rounds; `replays`: whether no client is asked at all;
    `live`: whether to draw below the rows.
    """

    def __init__(
        self,
        console: Console,
        directory: Path | None,
        *,
        seals: bool = False,
        replays: bool = False,
        live: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self._console, self._directory, self._clock = console, directory, clock
        self._seals, self._replays = seals, replays
        self._members: tuple[str, ...] = ()
        self._sent: dict[int, tuple[float, int]] = {}
        self._round = _Round(clock())
        self._replayed = 0
        self._replayed_round = 0
        self._now = Now(console, clock) if live else None

    def __enter__(self) -> Rounds:
        if self._now is not None:
            self._now.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._now is not None:
            self._now.stop()
        self._tell_replayed()

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.RunOpened):
            self._opened(event)
        elif isinstance(event, events.BatchSent):
            self._batch_sent(event)
        elif isinstance(event, events.BatchClosed):
            self._batch_closed(event)
        elif isinstance(event, events.Sealed):
            self._sealed(event)
        elif isinstance(event, events.DiskFull):
            self._line(Text(f"  {event.text}", "yellow"))
        elif isinstance(event, events.MemberState) and event.state == "restarting":
            self._line_each({event.member: event.detail}, "starts again")
        if self._now is not None:
            self._now.see(event)

    # --- what happens -----------------------------------------------------------------------------

    def _opened(self, event: events.RunOpened) -> None:
        self._members = event.members
        line = Text(event.app, "bold")
        line.append(f" · {words.count(len(event.members), 'member')}: ", "default")
        line.append(words.listed(event.members), "default")
        self._line(line)
        where = f"directory {self._directory}" if self._directory else "no --dir: nothing is kept"
        if self._replays:
            where += " · replayed with no client"
        elif event.resumed:
            where += " · continues where it stopped"
        self._line(Text(where, "dim"))
        self._round = _Round(self._clock())

    def _batch_sent(self, event: events.BatchSent) -> None:
        if not event.replayed:
            self._tell_replayed()
        self._sent[event.batch] = (self._clock(), event.bytes)

    def _batch_closed(self, event: events.BatchClosed) -> None:
        now = self._clock()
        started, sent = self._sent.pop(event.batch, (now, 0))
        if event.replayed:
            self._replayed += 1
            self._round.add(event, 0)
            return
        self._tell_replayed()
        moved = sent + event.bytes
        self._round.add(event, moved)
        if not self._seals:
            self._line(self._batch_row(event, now - started, moved))
            self._line_each(event.refused, "refused")
            self._line_each(event.absent, "absent")

    def _sealed(self, event: events.Sealed) -> None:
        if event.replayed:
            self._replayed_round = event.round
        else:
            self._tell_replayed()
            self._line(self._round_row(event))
            if why := event.report.get("why"):
                self._line(Text(f"  {why}", "yellow"))
            if self._seals:
                self._line_each(self._round.refused, "refused")
                self._line_each(self._round.absent, "absent")
            self._seals = True
        self._round = _Round(self._clock())

    def _tell_replayed(self) -> None:
        if self._replayed:
            what = f"replayed {words.count(self._replayed, 'batch')} from the journal"
            if self._replayed_round:
                what += f", up to the seal of round {self._replayed_round}"
            self._line(Text(f"{what}; no member was asked", "dim"))
        self._replayed = self._replayed_round = 0

    # --- rows -------------------------------------------------------------------------------------

    def _batch_row(self, event: events.BatchClosed, seconds: float, moved: int) -> Text:
        asked = len(event.accepted) + len(event.refused) + len(event.absent)
        width = 2 * len(str(len(self._members))) + 1
        parts = [
            f"batch {event.batch:>3}",
            f"{event.type:<8}",
            f"{f'{len(event.accepted)}/{asked}':>{width}} answered",
            f"{words.duration(seconds):>6}",
            f"{words.size(moved):>6}",
        ]
        return _row(parts, " · ", void=event.void)

    def _round_row(self, event: events.Sealed) -> Text:
        report, this = event.report, self._round
        total = report.get("rounds")
        number = f"{event.round:>{len(str(total))}}/{total}" if total else f"{event.round:>3}"
        before, after = (report.get(k) for k in ("before", "after"))
        moved = words.change(before or {}, after or {}) if isinstance(after, Mapping) else ""
        numbers = [
            *([moved] if moved else []),
            f"{words.duration(self._clock() - this.started):>6}",
            f"{words.size(this.bytes):>6}",
        ]
        who, between = self._who(f"round {number}", numbers)
        return _row([f"round {number}", who, *numbers], between, void=this.void)

    def _who(self, head: str, numbers: list[str]) -> tuple[str, str]:
        """The members that answered, by name where all names fit beside the numbers, else counted;
        and what goes between the columns."""
        all_names = " ".join(self._members)
        taken = len(head) + sum(map(len, numbers)) + len(all_names)
        columns = len(numbers) + 1
        room = self._console.width - 1 if self._console.is_terminal else 120
        if len(self._members) <= words.FEW:
            for between in (" · ", "  "):
                if taken + columns * len(between) <= room:
                    return f"{self._answered():<{len(all_names)}}", between
        n = str(len(self._members))
        count = f"{len(self._round.accepted):>{len(n)}} of {n} members"
        return (count if self._round.trained else f"{_INITIAL:<{len(count)}}"), " · "

    def _answered(self) -> str:
        """Each member's name in its place; who did not answer leaves a gap."""
        if not self._round.trained:
            return _INITIAL
        answered = self._round.accepted
        return " ".join(m if m in answered else " " * len(m) for m in self._members)

    def _line_each(self, reasons: Mapping[str, str], what: str) -> None:
        for member in sorted(reasons)[: words.FEW]:
            line = Text("  ")
            line.append(f"{member} {what}", "yellow")
            self._line(line.append(f": {reasons[member]}", "default"))
        if (more := len(reasons) - words.FEW) > 0:
            self._line(Text(f"  and {more} more {what}", "yellow"))

    def _line(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)


def _row(parts: list[str], between: str, *, void: bool) -> Text:
    head, rest = parts[0], parts[1:]
    line = Text(head, "bold").append(between + between.join(rest), "not bold")
    return line.append(f"{between}void: below quorum, the model stays", "red") if void else line


class _Round:
    """What happened since the last seal."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.bytes = 0
        self.void = self.trained = False
        self.accepted: set[str] = set()
        self.refused: dict[str, str] = {}
        self.absent: dict[str, str] = {}

    def add(self, event: events.BatchClosed, moved: int) -> None:
        self.bytes += moved
        self.void = self.void or event.void
        self.refused |= event.refused
        self.absent |= event.absent
        if event.type.partition(".")[0] == "train":
            self.trained = True
            self.accepted |= set(event.accepted)
