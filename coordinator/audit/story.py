"""What a log tells of one run: its rounds, each with the batches between two seals. Facts in, facts out.

It decides nothing and opens no file; `blob` gives it the bodies that were too large for an entry. That the
entries are sound is for `protocols.log_rules` to say, which sees them first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from barnraise.coordinator.batches import Batch, Draft, close, in_canonical_order, number_orders
from barnraise.protocols.entries import Entry
from barnraise.protocols.identity import Member

TRAIN, EVALUATE = "train", "evaluate"


@dataclass(frozen=True)
class RoundRecord:
    """One sealed round. `before` is the body of the seal before it, None for round 0; `roster` who could be
    asked to train, in canonical order."""

    number: int
    seal: Mapping[str, Any]
    before: Mapping[str, Any] | None
    batches: Sequence[Batch]
    roster: Sequence[str]

    def of(self, category: str) -> list[Batch]:
        """Its batches that train, or evaluate, or query."""
        return [batch for batch in self.batches if batch.category == category]

    def contents(self) -> dict[str, str]:
        """Member to the content of its contribution; a member's last where it gave several."""
        return {
            batch.orders[order].member.name: content
            for batch in self.of(TRAIN)
            if not batch.void
            for order, content in batch.accepted.items()
        }


@dataclass
class RunRecord:
    """A run as its entries tell it. `late` are orders that were answered after their batch was closed."""

    opened: Mapping[str, Any]
    rounds: list[RoundRecord] = field(default_factory=list)
    closed: Mapping[str, Any] | None = None
    late: set[str] = field(default_factory=set)

    @property
    def run(self) -> str:
        return str(self.opened["run"])

    @property
    def members(self) -> dict[str, Member]:
        return {name: Member(name, bytes.fromhex(key)) for name, key in self.opened["members"]}

    def round(self, number: int) -> RoundRecord | None:
        return next((one for one in self.rounds if one.number == number), None)


class Story:
    """Takes a run's entries in order; `told` is the run, None before it was opened."""

    def __init__(self, run: str, blob: Callable[[str], bytes | None]) -> None:
        self._run, self._blob = run, blob
        self._batches: dict[int, Batch] = {}
        self._roster: Sequence[str] = ()
        self._asked: Sequence[str] = ()
        self.told: RunRecord | None = None

    def see(self, data: bytes) -> None:
        entry = Entry.decode(data)
        if entry.body.get("run") != self._run:
            return
        body = self._whole(entry)
        if entry.type == "run.opened":
            self.told = RunRecord(body)
        elif self.told is not None:
            self._apply(entry.type, body, self.told)

    def _whole(self, entry: Entry) -> Mapping[str, Any]:
        if set(entry.body) != {"run", "blob"}:
            return entry.body
        held: dict[str, Any] = json.loads(self._blob(entry.body["blob"]) or b"{}")
        return held

    def _apply(self, type_: str, body: Mapping[str, Any], told: RunRecord) -> None:
        match type_:
            case "roster.seen":
                self._roster = body["members"]
            case "batch.sent":
                self._sent(body, told)
            case "reply.accepted":
                self._batches[body["batch"]].accepted[body["order"]] = body["content"]
            case "reply.refused":
                refused = self._batches[body["batch"]].refused
                refused[body["order"]] = (body["code"], body["reason"])
            case "reply.late":
                told.late.add(body["order"])
            case "batch.closed":
                close(self._batches[body["batch"]], body)
            case "round.sealed":
                self._sealed(body, told)
            case "run.closed":
                told.closed = body

    def _sent(self, body: Mapping[str, Any], told: RunRecord) -> None:
        members = told.members
        drafts = [
            Draft(members[name], group["type"], group["group"], group["content"], group["ttl"])
            for group in body["orders"]
            for name in group["members"]
        ]
        number = body["batch"]
        orders = in_canonical_order(number_orders(self._run, number, drafts))
        batch = Batch(number, body["kind"], drafts[0].type, orders, None)
        self._batches[number] = batch
        if batch.category == TRAIN:
            self._asked = tuple(self._roster)

    def _sealed(self, body: Mapping[str, Any], told: RunRecord) -> None:
        batches = [b for b in self._batches.values() if b.closed is not None]
        before = told.rounds[-1].seal if told.rounds else None
        told.rounds.append(RoundRecord(body["round"], body, before, batches, self._asked))
        for batch in batches:
            del self._batches[batch.number]
