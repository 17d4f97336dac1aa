"""What a run's journal tells of its rounds, for reports. Reads only; decides nothing."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from barnraise.coordinator.batches import code_aside
from barnraise.coordinator.directory import opened
from barnraise.coordinator.evidence import StoredEvidence
from barnraise.coordinator.runlog import RunLog
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.entries import Entry


@dataclass(frozen=True)
class Round:
    """One sealed round. `accepted` trained in it; `bytes` counts what crossed the Grid in both
    directions; `seconds` are between the seal before and this one, by the coordinator's wall clock,
    a pause included. Round 0 is the initial model."""

    number: int
    model: str
    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    absent: tuple[str, ...]
    void: bool
    bytes: int
    seconds: float
    report: Mapping[str, Any]


def history(directory: Path) -> list[Round]:
    """The sealed rounds of the run in `directory`. Raises what `directory.opened` raises."""
    with opened(directory) as place:
        for _, entry in place.journal.entries():
            if entry.type == "run.opened":
                log = RunLog(entry.body["run"], place.journal, place.blobs, lambda: "")
                return list(_rounds(log, place.blobs))
    return []


def _rounds(log: RunLog, blobs: BlobStore) -> Iterator[Round]:
    sizes = _Sizes(blobs)
    this = _Gathered()
    since: datetime.datetime | None = None
    for _, entry in log.read():
        since = since or _time(entry)
        if entry.type == "round.sealed":
            yield this.sealed(entry.body, (_time(entry) - since).total_seconds())
            this, since = _Gathered(), _time(entry)
        else:
            this.see(entry, sizes)


def _time(entry: Entry) -> datetime.datetime:
    return datetime.datetime.fromisoformat(entry.time)


@dataclass
class _Gathered:
    """What happened since the last seal."""

    bytes: int = 0
    train: set[int] = field(default_factory=set)
    members: dict[str, str] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    void: bool = False

    def see(self, entry: Entry, sizes: _Sizes) -> None:
        body = entry.body
        if entry.type == "batch.sent":
            for orders in body["orders"]:
                self.bytes += sizes.of(orders["content"]) * len(orders["members"])
                if orders["type"].partition(".")[0] == "train":
                    self.train.add(body["batch"])
        elif entry.type in ("reply.accepted", "reply.refused"):
            self.bytes += body["bytes"]
            self.members[body["order"]] = body["member"]
            if entry.type == "reply.refused":
                self.refused[body["member"]] = f"{body['code']}: {body['reason']}"
        elif entry.type == "batch.closed":
            for order, reason in body["set_aside"].items():
                self.refused[self.members[order]] = f"{code_aside(reason)}: {reason}"
            if body["batch"] in self.train:
                self.accepted |= {self.members[order] for order in body["accepted"]}
                self.absent, self.void = tuple(body["absent"]), body["void"]

    def sealed(self, body: Mapping[str, Any], seconds: float) -> Round:
        return Round(
            body["round"],
            body["model"],
            tuple(sorted(self.accepted)),
            self.refused,
            self.absent,
            self.void,
            self.bytes,
            seconds,
            body["report"],
        )


class _Sizes:
    """How many bytes a content is: its envelope and its blobs."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs, self._evidence = blobs, StoredEvidence(blobs)
        self._known: dict[str, int] = {}

    def of(self, content: str) -> int:
        if content not in self._known:
            parts = [content, *self._evidence.envelope(content).blobs()]
            self._known[content] = sum(self._blobs.size(part) for part in parts)
        return self._known[content]
