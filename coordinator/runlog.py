"""One run's entries in the journal: what is written for each fact, and how it is read back.

`RunLog` writes. `Cursor` walks what an earlier process wrote, one operation of the app at a time:
`batch.sent`, `batch.pulled` and `round.sealed` are operations; everything between two of them is what
happened to the batches that were open.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from barnraise.coordinator.batches import Batch, Draft, close, in_canonical_order, number_orders
from barnraise.coordinator.fleet import Delivery, Receipt
from barnraise.coordinator.journal import Journal
from barnraise.protocols.blobs import BlobStore, Patience, at_once
from barnraise.protocols.canonical import NotCanonical, canonical, digest
from barnraise.protocols.entries import Entry, TooLarge
from barnraise.protocols.identity import Member

OPERATIONS = frozenset({"batch.sent", "batch.pulled", "round.sealed", "run.closed"})
VERDICTS = frozenset({"reply.accepted", "reply.refused", "reply.late"})
MAX_STATEMENT = 8192  # bytes of a member's statement; ours need a sixth of it


def anything(body: Mapping[str, Any]) -> bool:
    return True


class RunLog:
    """Writes one run's facts. Each method returns when they are durable."""

    def __init__(
        self, run: str, journal: Journal, blobs: BlobStore, clock: Callable[[], str]
    ) -> None:
        self.run = run
        self.journal = journal
        self._blobs = blobs
        self._clock = clock
        self.patiently: Patience = at_once

    def write(self, *facts: tuple[str, Mapping[str, Any]]) -> list[str]:
        """Append (type, body) facts together; returns the digest of each entry."""
        now = self._clock()
        encoded = [self._encode(Entry(type_, now, {"run": self.run, **b})) for type_, b in facts]
        keys = [self._key(*fact) for fact in facts]
        self.patiently(partial(self.journal.append, encoded, keys))
        return [digest(data) for data in encoded]

    def open(
        self, before: Sequence[tuple[str, Mapping[str, Any]]], body: Mapping[str, Any]
    ) -> None:
        """Append facts of the federation, which are of no run, and `run.opened`: all or none."""
        now = self._clock()
        encoded = [Entry(type_, now, dict(fact)).encode() for type_, fact in before]
        opened = self._encode(Entry("run.opened", now, {"run": self.run, **body}))
        keys = [*([None] * len(encoded)), self._key("run.opened", body)]
        self.journal.append([*encoded, opened], keys)

    def _key(self, type_: str, body: Mapping[str, Any]) -> str | None:
        """What an entry is found by: the order that it judges, its batch, the run that it opens or ends."""
        if type_ in VERDICTS:
            return str(body["order"])
        if type_ == "batch.sent":
            return f"{type_} {self.run} {body['batch']}"
        return f"{type_} {self.run}" if type_ in ("run.opened", "run.closed") else None

    def closed(self) -> dict[str, Any] | None:
        """The body of this run's `run.closed`, if the run is finished."""
        found = self.journal.find(f"run.closed {self.run}")
        return self.whole(found[1]).body if found else None

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

    def last(
        self,
        type_: str,
        before: int | None = None,
        where: Callable[[Mapping[str, Any]], bool] = anything,
    ) -> tuple[int, dict[str, Any]] | None:
        """The index and body of this run's last such entry, before an index if one is given."""
        for index, entry in self.journal.backwards(before):
            if entry.type == type_ and entry.body.get("run") == self.run:
                body = self.whole(entry).body
                if where(body):
                    return index, body
        return None

    def receipt_again(self, delivery: Delivery) -> Receipt | None:
        """The receipt for the verdict that this order of this member already has on record."""
        return self._receipt(delivery.order, delivery.member, self.journal.find(delivery.order))

    def verdict_of(self, order: str, member: str) -> Receipt | None:
        """The same, from any thread."""
        return self._receipt(order, member, self.journal.look_up(order))

    def _receipt(
        self, order: str, member: str, found: tuple[bytes, Entry] | None
    ) -> Receipt | None:
        if found is None:
            return None
        data, entry = found
        body = entry.body
        if (body.get("run"), body.get("member")) != (self.run, member):
            return None
        kind = entry.type.removeprefix("reply.")
        return Receipt(order, kind, body.get("reason", ""), digest(data))

    def whole(self, entry: Entry) -> Entry:
        """The entry with its body, read back from a blob if it was too large."""
        if set(entry.body) != {"run", "blob"}:
            return entry
        self._blobs.check(entry.body["blob"])
        return Entry(entry.type, entry.time, json.loads(self._blobs.read(entry.body["blob"])))


def verdict_fact(
    delivery: Delivery, batch: int, kind: str, code: str, why: str
) -> tuple[str, dict[str, Any]]:
    """`reply.accepted`, `reply.refused` or `reply.late`."""
    body: dict[str, Any] = {
        "batch": batch,
        "order": delivery.order,
        "member": delivery.member,
        "content": delivery.content,
        "bytes": delivery.size,
        "statement": _recordable(delivery.statement),
    }
    if kind != "accepted":
        body |= {"code": code, "reason": why}
    return f"reply.{kind}", body


def _recordable(statement: Mapping[str, Any] | None) -> Any:
    """The statement, unless it is nothing that an entry can hold: a refused one may be anything."""
    if statement is None:
        return None
    try:
        plain = dict(statement)
        return plain if len(canonical(plain)) <= MAX_STATEMENT else None
    except (NotCanonical, TypeError, ValueError):
        return None


class Cursor:
    """Walks what the journal already holds of a run. Reads forward only; holds the open batches.

    `late` are the orders whose replies came after their batch was closed.
    """

    def __init__(self, log: RunLog, members: Mapping[str, Member], start: int) -> None:
        self._log = log
        self._members = members
        self._entries = log.read(start)
        self._next: tuple[int, Entry] | None = next(self._entries, None)
        self.batches: dict[int, Batch] = {}
        self.late: list[str] = []

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
        orders = number_orders(self._log.run, body["batch"], drafts)
        self.batches[body["batch"]] = Batch(
            body["batch"],
            body["kind"],
            drafts[0].type,
            in_canonical_order(orders),
            body["timeout"],
            recalled=True,
        )

    def _member(self, name: str) -> Member:
        return self._members.get(name) or Member(name, b"")

    def _apply(self, entry: Entry) -> None:
        body = entry.body
        if entry.type == "reply.late":
            self.late.append(body["order"])
        batch = self.batches.get(body.get("batch", -1))
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


def left_open(log: RunLog) -> list[Batch]:
    """The run's batches that the journal does not close, with the verdicts on record."""
    cursor = Cursor(log, {}, 0)
    while cursor.upcoming() is not None:
        cursor.take()
    return [batch for batch in cursor.batches.values() if batch.closed is None]


def said(entry: Entry) -> str:
    """A recorded operation in one line, for the one who reads that the app diverged."""
    body = entry.body
    match entry.type:
        case "batch.sent":
            orders = body["orders"]
            members = ", ".join(sorted(name for o in orders for name in o["members"]))
            types = ", ".join(sorted({o["type"] for o in orders}))
            contents = ", ".join(sorted({o["content"][:19] for o in orders}))
            return f"{body['kind']} {types} to {members}; content {contents}"
        case "batch.pulled":
            return f"a pull of {len(body['orders'])} replies"
        case "round.sealed":
            return f"round {body['round']} sealed"
        case "roster.seen":
            return f"the roster is asked for (call {body['call']}): {', '.join(body['members'])}"
    return "the run ends"
