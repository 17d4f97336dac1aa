"""A run's rounds as its log tells them. Pure: entries in, rounds out, the same for whoever reads the log.

A run whose app seals its rounds is told by its seals; of any other each train batch is a round.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from barnraise.protocols.entries import Entry
from barnraise.protocols.log_rules import orders_of

REVOKED = "its member was revoked before the batch closed"
_UNTOLD = ("report", "contents")
_NOTHING: Mapping[str, Any] = {}


def code_aside(reason: str) -> str:
    """The code with which a reply was set aside for this reason."""
    return "M112" if reason == REVOKED else "M109"


@dataclass(frozen=True)
class RoundTold:
    """One round; round 0 is the evaluation of the initial model.

    `started` and `ended` are RFC 3339; `phases` (train, evaluate, other) and `seconds_of` (member → from
    its train order to its verdict) are seconds of the coordinator's wall clock, a pause included. `asked`
    to `absent` are of train batches. `before`, `after` are the federation's mean metrics, `members` each
    member's; all of them stand in `report`, as the app sealed it. `contents` is what was ordered, by
    digest, and of how many members. `received` counts the bytes of replies.
    """

    number: int
    model: str
    started: str
    ended: str
    phases: Mapping[str, float]
    asked: tuple[str, ...]
    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    late: tuple[str, ...]
    absent: tuple[str, ...]
    void: bool
    why: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    members: Mapping[str, Mapping[str, Any]]
    train: Mapping[str, Any]
    decision: Mapping[str, Any]
    received: int
    seconds_of: Mapping[str, float]
    contents: tuple[tuple[str, int], ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Batch:
    train: bool
    evaluate: bool
    since: datetime.datetime
    orders: Mapping[str, str]


@dataclass
class _Gathered:
    """What happened since a moment (RFC 3339)."""

    since: str
    phases: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "evaluate": 0.0})
    asked: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    void: bool = False
    received: int = 0
    seconds_of: dict[str, float] = field(default_factory=dict)
    contents: list[tuple[str, int]] = field(default_factory=list)

    def sent(self, batch: _Batch, body: Mapping[str, Any]) -> None:
        if batch.train:
            self.asked |= set(batch.orders.values())
        self.contents += [(group["content"], len(group["members"])) for group in body["orders"]]

    def judged(self, entry: Entry, batch: _Batch) -> None:
        body, name = entry.body, entry.body["member"]
        if entry.type != "reply.late":
            self.received += body["bytes"]
        elif batch.train:
            self.late.add(name)
        if entry.type == "reply.refused":
            self.refused[name] = f"{body['code']}: {body['reason']}"
        if batch.train:
            taken = (_time(entry) - batch.since).total_seconds()
            self.seconds_of[name] = self.seconds_of.get(name, 0.0) + taken

    def closed(self, entry: Entry, batch: _Batch) -> None:
        body = entry.body
        for order, reason in body["set_aside"].items():
            self.refused[batch.orders[order]] = f"{code_aside(reason)}: {reason}"
        if batch.train or batch.evaluate:
            taken = (_time(entry) - batch.since).total_seconds()
            self.phases["train" if batch.train else "evaluate"] += taken
        if batch.train:
            self.accepted |= {batch.orders[order] for order in body["accepted"]}
            self.absent |= set(body["absent"])
            self.void = self.void or body["void"]

    def told(self, number: int, entry: Entry, report: Mapping[str, Any]) -> RoundTold:
        whole = (_time(entry) - datetime.datetime.fromisoformat(self.since)).total_seconds()
        other = max(0.0, whole - sum(self.phases.values()))
        return RoundTold(
            number,
            str(entry.body.get("model", "")),
            self.since,
            entry.time,
            {**self.phases, "other": other},
            tuple(sorted(self.asked)),
            tuple(sorted(self.accepted)),
            dict(sorted(self.refused.items())),
            tuple(sorted(self.late)),
            tuple(sorted(self.absent)),
            self.void or (bool(self.asked) and bool(report.get("void"))),
            str(report.get("why", "")),
            report.get("before") or {},
            report.get("after") or {},
            report.get("members") or {},
            report.get("train") or {},
            report.get("decision") or {},
            self.received,
            dict(sorted(self.seconds_of.items())),
            tuple(self.contents),
            report,
        )


class Telling:
    """Of one run; entries of others are passed over. Give it whole bodies, also of entries {run, blob}."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.opened: Mapping[str, Any] = _NOTHING
        self.closed: Mapping[str, Any] = _NOTHING
        self.opened_at = self.closed_at = ""
        self._sealed: list[RoundTold] = []
        self._trained: list[RoundTold] = []
        self._batches: dict[int, _Batch] = {}
        self._since_seal, self._since_train = _Gathered(""), _Gathered("")

    @property
    def rounds(self) -> tuple[RoundTold, ...]:
        """The sealed rounds, or, where the app seals none, one for each train batch."""
        return tuple(self._sealed or self._trained)

    def see(self, entry: Entry) -> None:
        """Take the next entry into account."""
        if entry.body.get("run") != self.run:
            return
        match entry.type:
            case "run.opened":
                self.opened, self.opened_at = entry.body, entry.time
                self._since_seal, self._since_train = _Gathered(entry.time), _Gathered(entry.time)
            case "run.closed":
                self.closed, self.closed_at = entry.body, entry.time
            case "batch.sent":
                self._sent(entry)
            case "reply.accepted" | "reply.refused" | "reply.late":
                for gathered in (self._since_seal, self._since_train):
                    gathered.judged(entry, self._batches[entry.body["batch"]])
            case "batch.closed":
                self._closed(entry)
            case "round.sealed":
                body = entry.body
                self._sealed.append(self._since_seal.told(body["round"], entry, body["report"]))
                self._since_seal = _Gathered(entry.time)

    def _sent(self, entry: Entry) -> None:
        body = entry.body
        kinds = {group["type"].partition(".")[0] for group in body["orders"]}
        orders = dict(orders_of(body))
        batch = _Batch("train" in kinds, "evaluate" in kinds, _time(entry), orders)
        self._batches[body["batch"]] = batch
        for gathered in (self._since_seal, self._since_train):
            gathered.sent(batch, body)

    def _closed(self, entry: Entry) -> None:
        batch = self._batches[entry.body["batch"]]
        for gathered in (self._since_seal, self._since_train):
            gathered.closed(entry, batch)
        if batch.train:
            self._trained.append(self._since_train.told(len(self._trained) + 1, entry, _NOTHING))
            self._since_train = _Gathered(entry.time)


def metrics(telling: Telling) -> dict[str, Any]:
    """What `metrics.json` of a release holds, as JSON; it follows from the log alone."""
    return {
        "run": telling.run,
        "model": telling.closed.get("model", ""),
        "opened": telling.opened_at,
        "closed": telling.closed_at,
        "final": dict((telling.closed.get("report") or {}).get("metrics") or {}),
        "rounds": [_row(one) for one in telling.rounds],
    }


def _row(one: RoundTold) -> dict[str, Any]:
    row = {f.name: getattr(one, f.name) for f in fields(one) if f.name not in _UNTOLD}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def _time(entry: Entry) -> datetime.datetime:
    return datetime.datetime.fromisoformat(entry.time)
