"""What each member is doing, as far as it says, for whoever shows it to a person. Decides nothing.

Many threads note things; the Grid's thread asks what is worth telling: a new state at once, a new detail
of the same state (such as its percentage) a few times a second. Time is an argument; no I/O is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from barnraise.coordinator.events import MemberState

ABSENT, RESTARTING, OBJECTS = "absent", "restarting", "objects"
DETAIL_EVERY = 0.3  # seconds between two details of one state
AT_ONCE = 8  # new states of a member told at once; more of them wait like details, or one could flood a log
LONGEST = 80  # characters of what a node says of itself


@dataclass
class _Seat:
    now: MemberState
    told: MemberState | None = None
    told_at: float = float("-inf")
    many: float = 0.0  # how much was told lately; one less with each `DETAIL_EVERY`

    def due_at(self) -> float | None:
        """When this is to be told; None if it was."""
        if self.told is not None and self.now == self.told:
            return None
        new = self.told is None or self.now.state != self.told.state
        return float("-inf") if new and self.many < AT_ONCE else self.told_at + DETAIL_EVERY

    def tell(self, now: float) -> MemberState:
        """It counts as told."""
        self.many = max(0.0, self.many - (now - self.told_at) / DETAIL_EVERY) + 1.0
        self.told, self.told_at = self.now, now
        return self.now


class Presence:
    """All state is under `_lock`. `wake` is called, outside it, whenever there is more to tell."""

    def __init__(
        self, members: Iterable[str], now: Callable[[], float], wake: Callable[[], None]
    ) -> None:
        self._lock = threading.Lock()
        self._now, self._wake = now, wake
        since = now()
        self._seats = {name: _Seat(MemberState(name, ABSENT, "", since)) for name in members}

    def state(self, member: str, state: str, detail: str = "") -> None:
        """The member is in this state; `since` stays if it was."""
        with self._lock:
            seat = self._seats[member]
            same = seat.now.state == state
            since = seat.now.since if same else self._now()
            before = seat.due_at()
            seat.now = MemberState(member, state, detail, since)
            sooner = _sooner(seat.due_at(), before)
        if sooner:  # else who tells knows already when
            self._wake()

    def detail(self, member: str, state: str, detail: str) -> None:
        """More about the state that the member is in; nothing if it is in another by now."""
        with self._lock:
            seat = self._seats[member]
            if seat.now.state != state or seat.now.detail == detail:
                return
            waits = seat.due_at() is not None
            seat.now = MemberState(member, state, detail, seat.now.since)
        if not waits:  # else who tells knows already when
            self._wake()

    def progress(self, member: str, what: str, done: int, total: int) -> None:
        """The member's handler is at `done` of `total` of `what`, such as "training step"."""
        state = self.of(member).state
        unit = what.removeprefix(state).strip()
        self.detail(member, state, f"{unit} {done}/{total}".strip())

    def of(self, member: str) -> MemberState:
        with self._lock:
            return self._seats[member].now

    def due(self) -> list[MemberState]:
        """What is to be told now; it counts as told."""
        now = self._now()
        with self._lock:
            found = []
            for seat in self._seats.values():
                due = seat.due_at()
                if due is not None and due <= now:
                    found.append(seat.tell(now))
            return found

    def next_due(self) -> float | None:
        """When there will be something to tell if nothing changes; None if never."""
        with self._lock:
            return min(
                (due for seat in self._seats.values() if (due := seat.due_at()) is not None),
                default=None,
            )


def _sooner(due: float | None, before: float | None) -> bool:
    return due is not None and (before is None or due < before)


def shown(text: str) -> str:
    """One line of at most `LONGEST` printable characters of what a node said."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:LONGEST])


def percent(done: int, total: int) -> str:
    return f"{100 * min(done, total) // max(total, 1)} %"
