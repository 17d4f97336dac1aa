"""A bench for the engine's tests: a grid over a fleet whose arrivals the test writes down.

Everything that happens at a boundary is put into `Bench.trace`, in the order in which it happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from barnraise.coordinator import events
from barnraise.coordinator.fleet import Delivery, Order, Receipt
from barnraise.coordinator.grid import DurableGrid, Terms
from barnraise.coordinator.journal import Journal
from barnraise.coordinator.rounds import Policy
from barnraise.coordinator.runlog import RunLog
from barnraise.protocols import flower, statements
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import Envelope
from barnraise.protocols.identity import Member, simulated_key

RUN = "00000000000000aa"
SECRET = b"bench"
NAMES = ("ada", "bob", "cyd")


def key_of(name: str) -> Ed25519PrivateKey:
    return simulated_key(SECRET, name)


def member(name: str) -> Member:
    return Member(name, key_of(name).public_key().public_bytes_raw())


class TracedJournal(Journal):
    trace: list[Any]

    def append(self, encoded: Sequence[bytes], keys: Sequence[str | None] = ()) -> int:
        from barnraise.protocols.entries import Entry

        first = super().append(encoded, keys)
        self.trace += [("entry", Entry.decode(data).type) for data in encoded]
        return first


class TracedBlobs(BlobStore):
    trace: list[Any]

    def sync(self) -> None:
        super().sync()
        self.trace.append(("blobs synced",))


T = TypeVar("T")


class ScriptedFleet:
    """Hands in what the test scripted: each step makes the deliveries of one `arrivals`."""

    signed = True

    def __init__(self, trace: list[Any], names: Sequence[str]) -> None:
        self.trace, self.names, self.clock = trace, list(names), 0.0
        self.orders: dict[str, Order] = {}
        self.dispatched: list[list[Order]] = []
        self.script: deque[Callable[[], Sequence[Delivery]]] = deque()
        self.receipts: list[Receipt] = []
        self.withdrawn: list[dict[str, str]] = []
        self.on_dispatch: Callable[[Sequence[Order]], None] = lambda orders: None

    def roster(self) -> Sequence[Member]:
        return [member(name) for name in sorted(self.names)]

    def now(self) -> float:
        return self.clock

    def dispatch(self, orders: Sequence[Order]) -> None:
        self.trace.append(("dispatch", len(orders)))
        self.dispatched.append(list(orders))
        self.orders |= {o.id: o for o in orders}
        self.on_dispatch(orders)

    def arrivals(self, until: float | None) -> Sequence[Delivery]:
        if self.script:
            return self.script.popleft()()
        assert until is not None, "the grid waits without end, and the script has no more"
        self.clock = max(self.clock, until)
        return []

    def acknowledge(self, receipts: Sequence[Receipt]) -> None:
        self.trace += [("receipt", r.verdict) for r in receipts]
        self.receipts += receipts

    def withdraw(self, orders: Mapping[str, str]) -> None:
        self.withdrawn.append(dict(orders))

    def patiently(self, act: Callable[[], T], /) -> T:
        return act()

    def close(self) -> None:
        """Nothing."""


class Bench:
    """One run directory, opened; `reopen` is what a crash and a new process are to it."""

    def __init__(
        self,
        root: Path,
        *,
        names: Sequence[str] = NAMES,
        policy: Policy | None = None,
        replay: bool = False,
        **terms: Any,
    ) -> None:
        self.root, self.names, self.options = root, names, (policy or Policy(), replay, terms)
        self.open()

    def open(self) -> None:
        policy, replay, terms = self.options
        self.trace: list[Any] = []
        self.events: list[events.Event] = []
        self.root.mkdir(exist_ok=True)
        self.journal = TracedJournal(
            self.root / "journal.db", durable=False, failpoint=lambda moment, index: None
        )
        self.blobs = TracedBlobs(self.root / "blobs", durable=False)
        self.journal.trace = self.blobs.trace = self.trace
        self.log = RunLog(RUN, self.journal, self.blobs, lambda: "2026-01-01T00:00:00Z")
        self.fleet = ScriptedFleet(self.trace, self.names)
        self.terms = Terms("test", RUN, int(RUN, 16), policy, **terms)
        flower.become_server(self.terms.run_id)
        fleet = None if replay else self.fleet
        members = [member(name) for name in self.names]
        self.grid = DurableGrid(
            self.terms, self.log, self.blobs, fleet, members, self.events.append
        )

    def reopen(self, *, replay: bool = False, **changes: Any) -> Bench:
        self.journal.close()
        policy, _, terms = self.options
        self.options = (policy, replay, {**terms, **changes})
        self.open()
        return self

    # --- what the app says --------------------------------------------------------------------

    def ask(
        self,
        *names: str,
        kind: str = "train",
        value: float = 1.0,
        ttl: float | None = None,
        **config: Any,
    ) -> list[Message]:
        """Messages to these members (default: all), the same content for each."""
        content = RecordDict({"arrays": ArrayRecord([np.full(4, value, np.float32)])})
        if config:
            content["config"] = ConfigRecord(config)
        return [
            Message(content, member(name).node_id, kind, ttl=ttl) for name in names or self.names
        ]

    # --- what members hand in ------------------------------------------------------------------

    def order(self, name: str, nth: int = -1) -> Order:
        """The member's order, the last one by default."""
        return [o for o in self.fleet.orders.values() if o.member.name == name][nth]

    def delivery(
        self,
        name: str,
        records: RecordDict | Envelope | bytes | None = None,
        *,
        order: Order | None = None,
        signer: str | None = None,
        size: int | None = None,
        **stated: Any,
    ) -> Delivery:
        """What `name` hands in for its last order; `stated` changes what its statement says."""
        order = order or self.order(name)
        if not isinstance(records, bytes):
            if not isinstance(records, Envelope):
                records = flower.encode(records or good(), self.blobs)
            records = records.encode()
        content = self.blobs.put([records])
        payload = statements.reply_payload("test", RUN, order.id, content, statements.NO_POLICY)
        who = signer or name
        statement = statements.sign(key_of(who), who, "reply", {**payload, **stated})
        return Delivery(
            order.id,
            name,
            content,
            len(records) if size is None else size,
            statement,
            self.fleet.clock,
        )

    def will_answer(self, *names: str, at: float | None = None, **options: Any) -> None:
        """Script one step: these members (default: all) answer well, at this time of the clock."""

        def step() -> Sequence[Delivery]:
            if at is not None:
                self.fleet.clock = at
            return [self.delivery(name, **options) for name in names or self.names]

        self.fleet.script.append(step)

    def will_deliver(self, make: Callable[[], Delivery | Sequence[Delivery]]) -> None:
        def step() -> Sequence[Delivery]:
            made = make()
            return [made] if isinstance(made, Delivery) else made

        self.fleet.script.append(step)

    # --- what is on record ---------------------------------------------------------------------

    def entries(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [(e.type, e.body) for _, e in self.log.read()]

    def types(self) -> list[str]:
        return [type_ for type_, _ in self.entries()]

    def bodies(self, type_: str) -> Iterator[Mapping[str, Any]]:
        return (body for found, body in self.entries() if found == type_)


def good(value: float = 2.0, weight: int = 10) -> RecordDict:
    """A reply with which nothing is wrong."""
    arrays = ArrayRecord([np.full(4, value, np.float32)])
    return RecordDict({"arrays": arrays, "m": MetricRecord({"num-examples": weight})})


def errors(replies: Sequence[Message]) -> dict[int, str]:
    """node id -> reason, of the replies that carry an error."""
    return {m.metadata.src_node_id: str(m.error.reason) for m in replies if m.has_error()}
