"""A federation's log in numbers: what its entries amount to for whoever watches many machines.

A pure fold, so the numbers are the same after a restart, and count what happened before it as well. Time is
the coordinator's wall clock as the entries have it, also while nobody served.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from barnraise.coordinator.rounds import category_of
from barnraise.protocols.entries import Entry
from barnraise.protocols.telling import code_aside

OTHER = "other"  # of the phases: neither waiting for members nor closed, such as aggregating and sealing


@dataclass
class OpenBatch:
    """A batch that is not closed yet: `missing` members owe a reply, `since` is in seconds since 1970."""

    type: str
    since: float
    missing: int


@dataclass
class Counts:
    """Totals since the federation was founded. `see` is given every entry once, in sequence, each with
    its whole body."""

    entries: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    batches: Counter[tuple[str, bool]] = field(default_factory=Counter)
    replies: Counter[str] = field(default_factory=Counter)
    not_taken: Counter[str] = field(default_factory=Counter)
    received: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    open: dict[tuple[str, int], OpenBatch] = field(default_factory=dict)
    _until: dict[str, float] = field(default_factory=dict)  # run -> up to when its time is told

    def see(self, entry: Entry) -> None:
        """Take one more entry into account."""
        self.entries[entry.type] += 1
        body, at = entry.body, seconds_of(entry.time)
        match entry.type:
            case "run.opened":
                self._until[body["run"]] = at
            case "batch.sent":
                self._sent(body, at)
            case "reply.accepted" | "reply.refused" | "reply.late":
                self._judged(entry.type.removeprefix("reply."), body)
            case "batch.closed":
                self._closed(body, at)
            case "round.sealed":
                self.rounds += 1
                self._tell(body["run"], OTHER, at)
            case "run.closed":
                self.runs["aborted" if body["report"].get("aborted") else "finished"] += 1
                self._tell(body["run"], OTHER, at)
                self._forget(body["run"])

    def _sent(self, body: Mapping[str, Any], at: float) -> None:
        self._tell(body["run"], OTHER, at)
        names = [name for group in body["orders"] for name in group["members"]]
        type_ = body["orders"][0]["type"] if body["orders"] else OTHER
        self.open[body["run"], body["batch"]] = OpenBatch(type_, at, len(names))

    def _judged(self, verdict: str, body: Mapping[str, Any]) -> None:
        self.replies[verdict] += 1
        self.received += body["bytes"]
        if verdict != "accepted":
            self.not_taken[body["code"]] += 1
        batch = self.open.get((body["run"], body["batch"]))
        if batch is not None and verdict != "late":
            batch.missing = max(0, batch.missing - 1)

    def _closed(self, body: Mapping[str, Any], at: float) -> None:
        batch = self.open.pop((body["run"], body["batch"]), None)
        if batch is None:
            return
        self.batches[batch.type, bool(body["void"])] += 1
        self.not_taken.update(code_aside(reason) for reason in body["set_aside"].values())
        self._tell(body["run"], category_of(batch.type), at)

    def _tell(self, run: str, phase: str, at: float) -> None:
        """The run's time up to now was spent on this; a clock that went back costs nothing."""
        spent = max(0.0, at - self._until.get(run, at))
        self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
        self._until[run] = max(at, self._until.get(run, at))

    def _forget(self, run: str) -> None:
        self._until.pop(run, None)
        for key in [key for key in self.open if key[0] == run]:
            del self.open[key]


def seconds_of(time: str) -> float:
    """An entry's time in seconds since 1970."""
    return datetime.datetime.fromisoformat(time).timestamp()
