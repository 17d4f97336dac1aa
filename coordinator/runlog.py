"""One run's entries in the journal: what is written for each fact, and how it is read back.

`RunLog` writes. `Cursor` walks what an earlier process wrote, one operation of the app at a time:
`batch.sent`, `batch.pulled` and `round.sealed` are operations; everything between two of them is what
happened to the batches that were open.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from barnraise.coordinator.blobs import BlobStore
from barnraise.coordinator.fleet import Order
from barnraise.coordinator.journal import Journal
from barnraise.protocols.canonical import canonical, digest
from barnraise.protocols.entries import Entry, TooLarge
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member, order_id

OPERATIONS = frozenset({"batch.sent", "batch.pulled", "round.sealed", "run.closed"})


@dataclass
class Batch:
    """The orders of one `send_and_receive` or `push_messages`, and what became of each.

    Owned by the Grid. `accepted` maps an order to its content's digest, `refused` to (code, reason).
    """

    number: int
    kind: str
    type: str
    orders: dict[str, Order]
    limit: float | None
    sent_at: float = 0.0
    sent_bytes: int = 0
    quorum_at: float | None = None
    accepted: dict[str, str] = field(default_factory=dict)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    received: int = 0
    pulled: set[str] = field(default_factory=set)
    closed: str | None = None
    void: bool = False

    def pending(self) -> list[Order]:
        """The orders without a verdict, in canonical order."""
        return [o for o in self.orders.values() if o.id not in self.judged()]

    def judged(self) -> set[str]:
        return self.accepted.keys() | self.refused.keys()

    def digest(self) -> Any:
        """What the batch came to, for the digest of a run that names no model."""
        accepted = sorted([self.orders[o].member.name, o, c] for o, c in self.accepted.items())
        return [self.number, accepted]


@dataclass(frozen=True)
class Draft:
    """An order before it has a number: what the app asked for."""

    member: Member
    type: str
    group: str
    content: str
    ttl: float


def number_orders(run: str, batch: int, drafts: Sequence[Draft], created: float) -> list[Order]:
    """The batch's orders in the sequence of `drafts`; `n` counts identical ones (DESIGN §6)."""
    seen: dict[tuple[str, ...], int] = {}
    orders = []
    for d in drafts:
        key = (d.member.name, d.type, d.group, d.content)
        n = seen.get(key, 0)
        seen[key] = n + 1
        id_ = order_id(run, batch, *key, n)
        orders.append(Order(id_, batch, d.member, d.type, d.group, d.content, d.ttl, created))
    return orders


class RunLog:
    """Writes one run's facts. Each method returns when they are durable."""

    def __init__(
        self, run: str, journal: Journal, blobs: BlobStore, clock: Callable[[], str]
    ) -> None:
        self.run = run
        self.journal = journal
        self._blobs = blobs
        self._clock = clock

    def write(self, *facts: tuple[str, Mapping[str, Any]]) -> list[str]:
        """Append (type, body) facts together; returns the digest of each entry."""
        now = self._clock()
        encoded = [self._encode(Entry(type_, now, {"run": self.run, **b})) for type_, b in facts]
        self.journal.append(encoded)
        return [digest(data) for data in encoded]

    def _encode(self, entry: Entry) -> bytes:
        """The entry's bytes; what is larger than an entry goes into a blob, named by digest."""
        try:
            return entry.encode()
        except TooLarge:
            blob = self._blobs.put([canonical(entry.body)])
            self._blobs.sync()
            return Entry(entry.type, entry.time, {"run": self.run, "blob": blob}).encode()

    def read(self, start: int = 0) -> Iterator[tuple[int, Entry]]:
        """This run's entries, with bodies that were too large for one read back from their blobs."""
        for index, entry in self.journal.entries(start):
            if entry.body.get("run") == self.run:
                yield index, self.whole(entry)

    def last(self, type_: str, before: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """The index and body of this run's last entry of a type, before an index if one is given."""
        for index, entry in self.journal.backwards(before):
            if entry.type == type_ and entry.body.get("run") == self.run:
                return index, self.whole(entry).body
        return None

    def whole(self, entry: Entry) -> Entry:
        """The entry with its body, read back from a blob if it was too large."""
        if set(entry.body) != {"run", "blob"}:
            return entry
        return Entry(entry.type, entry.time, json.loads(self._blobs.read(entry.body["blob"])))


def sent_body(batch: Batch) -> dict[str, Any]:
    """`batch.sent`: orders grouped by what they carry, so that different content stands out."""
    groups: dict[tuple[str, str, str, float], list[str]] = {}
    for order in batch.orders.values():
        key = (order.type, order.group, order.content, order.ttl)
        groups.setdefault(key, []).append(order.member.name)
    return {
        "batch": batch.number,
        "kind": batch.kind,
        "timeout": batch.limit,
        "orders": [
            {"type": t, "group": g, "content": c, "ttl": ttl, "members": members}
            for (t, g, c, ttl), members in groups.items()
        ],
    }


def verdict_fact(
    batch: Batch,
    order: str,
    kind: str,
    content: str,
    size: int,
    statement: Any,
    code: str,
    why: str,
) -> tuple[str, dict[str, Any]]:
    """`reply.accepted`, `reply.refused` or `reply.late`."""
    body: dict[str, Any] = {
        "batch": batch.number,
        "order": order,
        "member": batch.orders[order].member.name,
        "content": content,
        "bytes": size,
        "statement": statement,
    }
    if kind != "accepted":
        body |= {"code": code, "reason": why}
    return f"reply.{kind}", body


class Cursor:
    """Walks what the journal already holds of a run. Reads forward only; holds the open batches."""

    def __init__(
        self, log: RunLog, members: Mapping[str, Member], start: int, created: float
    ) -> None:
        self._log = log
        self._members = members
        self._created = created
        self._entries = log.read(start)
        self._next: tuple[int, Entry] | None = next(self._entries, None)
        self.batches: dict[int, Batch] = {}
        self.late: list[tuple[int, str]] = []

    def upcoming(self) -> Entry | None:
        """The next operation or roster in the journal; None once everything has been replayed."""
        while self._next is not None:
            entry = self._next[1]
            if entry.type in OPERATIONS or entry.type == "roster.seen":
                return entry
            self._apply(entry)
            self._step()
        return None

    def take(self) -> Entry:
        """Consume the entry that `upcoming` showed."""
        assert self._next is not None
        entry = self._next[1]
        self._step()
        if entry.type == "batch.sent":
            self._sent(entry.body)
        elif entry.type == "batch.pulled":
            self._pulled(entry.body)
        return entry

    def _step(self) -> None:
        self._next = next(self._entries, None)

    def _sent(self, body: Mapping[str, Any]) -> None:
        drafts = [
            Draft(self._member(name), o["type"], o["group"], o["content"], o["ttl"])
            for o in body["orders"]
            for name in o["members"]
        ]
        orders = number_orders(self._log.run, body["batch"], drafts, self._created)
        self.batches[body["batch"]] = Batch(
            body["batch"],
            body["kind"],
            drafts[0].type,
            {o.id: o for o in sorted(orders, key=lambda o: o.member)},
            body["timeout"],
        )

    def _member(self, name: str) -> Member:
        return self._members.get(name) or Member(name, b"")

    def _apply(self, entry: Entry) -> None:
        body = entry.body
        batch = self.batches.get(body.get("batch", -1))
        if entry.type == "reply.late":
            self.late.append((body["batch"], body["order"]))
        if batch is None:
            return
        if entry.type == "reply.accepted":
            batch.accepted[body["order"]] = body["content"]
            batch.received += body["bytes"]
        elif entry.type == "reply.refused":
            batch.refused[body["order"]] = (body["code"], body["reason"])
            batch.received += body["bytes"]
        elif entry.type == "batch.closed":
            close(batch, body)

    def _pulled(self, body: Mapping[str, Any]) -> None:
        for batch in self.batches.values():
            batch.pulled |= set(body["orders"]) & batch.orders.keys()


def close(batch: Batch, body: Mapping[str, Any]) -> None:
    """Apply a `batch.closed` to its batch: set replies aside, mark it closed."""
    for order, reason in body["set_aside"].items():
        batch.accepted.pop(order, None)
        batch.refused[order] = ("M109", reason)
    batch.closed, batch.void = body["reason"], body["void"]


def diverged(what: str, recorded: str, now: str) -> BarnraiseError:
    """The app does something else than the journal says it did."""
    return BarnraiseError(
        "R101",
        f"the app diverged from its journal at {what}",
        f"recorded: {recorded}\nnow:      {now}",
        changed="the journal is as it was; nothing was sent",
        next="make the app deterministic (no clock, no unseeded randomness, no global state), or "
        "start in a new directory",
    )
