"""What is going on in a run at this moment: who is doing what, and for whom it waits.

A fold over events, with the time as an argument; drawn by `now`, kept on disk by `status`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from barnraise.cli import words
from barnraise.coordinator import events

PATIENCE = 5.0  # seconds after which a wait is put in a sentence


@dataclass(frozen=True)
class Doing:
    """A member's state, such as `training` with the detail `step 31/200`, since a moment."""

    state: str
    detail: str
    since: float

    def text(self, now: float) -> str:
        said = f"{self.state} {self.detail}".strip()
        return (
            f"{said} since {words.duration(now - self.since)}" if self.state == "absent" else said
        )


@dataclass
class Picture:
    """`see` every event; `lines` for a person, `as_dict` for a program. Times are of one clock."""

    members: tuple[str, ...] = ()
    round: int = 0
    rounds: int | None = None
    batch: events.BatchSent | None = None
    since: float = 0.0
    answered: dict[str, str] = field(default_factory=dict)
    waiting: events.Waiting | None = None
    full: events.DiskFull | None = None
    told: float = 0.0
    doing: dict[str, Doing] = field(default_factory=dict)

    def see(self, event: events.Event, now: float) -> None:
        if isinstance(event, events.RunOpened):
            self.members = event.members
        elif isinstance(event, events.BatchSent) and not event.replayed:
            self.batch, self.since = event, now
            self.answered, self.waiting = {}, None
        elif isinstance(event, events.Progress):
            detail = f"{event.what} {event.done}/{event.total}"
            self.doing[event.member] = Doing(detail.split()[0], detail.partition(" ")[2], now)
        elif isinstance(event, events.MemberState):
            known = self.doing.get(event.member)
            since = known.since if known and known.state == event.state else now
            self.doing[event.member] = Doing(event.state, event.detail, since)
        elif isinstance(event, events.Answered):
            self._answered(event)
        elif isinstance(event, events.Waiting):
            self.waiting, self.told = event, now
        elif isinstance(event, events.DiskFull):
            self.full = event if event.needed else None
        elif isinstance(event, events.Sealed):
            self.round, self.rounds = event.round, event.report.get("rounds")
        elif isinstance(event, events.BatchClosed):
            self.batch = self.waiting = None

    def _answered(self, event: events.Answered) -> None:
        if event.verdict != "late":
            self.answered[event.member] = event.verdict
        if (doing := self.doing.get(event.member)) is not None and doing.state != "absent":
            self.doing[event.member] = Doing("idle", "", doing.since)

    def lines(self, now: float) -> list[str]:
        """The open batch, a line per member (or how many are doing what), and the wait in a sentence."""
        if self.batch is None:
            return self._wait(now)
        asked = len(self.batch.members)
        spent = words.duration(now - self.since)
        head = f"{self._which()}{self.batch.type} · {len(self.answered)}/{asked} answered · {spent}"
        return [head, *self._who(now), *self._wait(now)]

    def _which(self) -> str:
        return f"round {self.round + 1}/{self.rounds} · " if self.rounds else ""

    def _wait(self, now: float) -> list[str]:
        """For whom it waits, once that has lasted."""
        if self.full is not None:
            return [self.full.text]
        if self.waiting is None or self.waiting.waited + now - self.told < PATIENCE:
            return []
        return [self.waiting.said(now - self.told)]

    def _who(self, now: float) -> list[str]:
        if len(self.members) <= words.FEW:
            width = max(map(len, self.members), default=0)
            return [f"{m:{width}}  {self._text(m, now)}" for m in self.members]
        counts = Counter(self._state(m) for m in self.members)
        said = ", ".join(f"{n} {state}" for state, n in counts.most_common())
        absent = [m for m in self.members if self._state(m) == "absent"]
        return [said, *([f"absent: {words.listed(absent)}"] if absent else [])]

    def _state(self, member: str) -> str:
        if member in self.answered:
            return self.answered[member]
        doing = self.doing.get(member)
        return doing.state if doing is not None else "idle"

    def _text(self, member: str, now: float) -> str:
        doing = self.doing.get(member)
        if member in self.answered and (doing is None or doing.state != "absent"):
            return self.answered[member]
        return doing.text(now) if doing is not None else "idle"

    def as_dict(self, now: float) -> dict[str, Any]:
        """`members` by name: state, detail and for how many seconds; `waiting` in one sentence or null."""
        return {
            "round": self.round,
            "rounds": self.rounds,
            "batch": self._batch_dict(now),
            "members": {m: self._member_dict(m, now) for m in self.members},
            "waiting": self._waiting(now),
        }

    def _waiting(self, now: float) -> str | None:
        if self.full is not None:
            return self.full.text
        return self.waiting.said(now - self.told) if self.waiting is not None else None

    def waits(self, now: float) -> dict[str, Any] | None:
        """For whom it waits, as the fields of `events.Waiting` at this time; else None."""
        if self.full is not None or self.waiting is None:
            return None
        later, one = now - self.told, self.waiting
        left = one.left - later if one.left is not None else None
        return {**asdict(one), "waited": one.waited + later, "left": left}

    def _batch_dict(self, now: float) -> dict[str, Any] | None:
        if self.batch is None:
            return None
        return {
            "number": self.batch.batch,
            "type": self.batch.type,
            "asked": list(self.batch.members),
            "answered": self.answered,
            "seconds": round(now - self.since, 3),
        }

    def _member_dict(self, member: str, now: float) -> dict[str, Any]:
        doing = self.doing.get(member) or Doing("idle", "", now)
        return {
            "state": doing.state,
            "detail": doing.detail,
            "seconds": round(now - doing.since, 3),
        }
