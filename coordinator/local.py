"""LocalFleet: every member's ClientApp in this process, one handler at a time.

For tests and simulation; it implements what a real fleet does. Its clock is the simulation's own: an
order takes no time unless a fault says so, so nothing ever sleeps and a run is the same each time.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import UserConfig
from flwr.clientapp import ClientApp

from barnraise.coordinator import events
from barnraise.coordinator.aside import Aside
from barnraise.coordinator.evidence import StoredEvidence
from barnraise.coordinator.faults import Delay, Drop, Fault, Faults, Kill, NoFaults, Poison
from barnraise.coordinator.fleet import Delivery, Order, Receipt
from barnraise.coordinator.interrupts import Interrupts
from barnraise.coordinator.members import MemberStore, Work
from barnraise.protocols import flower, identity, progress, statements
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import ContentError, Envelope, Failure
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.flower import Draft, Handled
from barnraise.protocols.randomness import derive

COMMIT_EVERY = 0.2  # seconds of work that one commit may gather
AHEAD = 1  # replies that are hashed and written while a handler runs: with more it gained nothing


T = TypeVar("T")


@dataclass(frozen=True)
class LocalMember:
    """A simulated member: its keys and secret follow from the simulation's secret and its name."""

    member: identity.Member
    key: Ed25519PrivateKey
    secret: bytes
    config: UserConfig

    @classmethod
    def simulated(cls, secret: bytes, name: str, config: UserConfig) -> LocalMember:
        key = identity.simulated_key(secret, name)
        member = identity.Member(name, key.public_key().public_bytes_raw())
        return cls(member, key, derive(secret, "member", name), config)


@dataclass(frozen=True)
class Local:
    """What every handler of a run is given."""

    federation: str
    run: str
    run_id: int
    config: UserConfig


@dataclass(order=True)
class _Due:
    at: float
    number: int
    delivery: Delivery = field(compare=False)


_NOTHING = Handled(None, None, None, None)


@dataclass(frozen=True)
class _Begun:
    """An order whose handler has run; the blobs of its reply are being put. Or one that has its reply."""

    order: Order
    sent: float
    fault: Fault | None
    delivery: Delivery | None
    handled: Handled = _NOTHING
    draft: Draft | None = None
    puts: Sequence[Future[str]] = ()


class LocalFleet:
    """Owned by the thread in which the ServerApp runs; `arrivals` is where the handlers run."""

    signed = True

    def __init__(
        self,
        app: ClientApp,
        members: Sequence[LocalMember],
        run: Local,
        blobs: BlobStore,
        store: MemberStore,
        *,
        faults: Faults | None = None,
        watcher: events.Watcher = events.nobody,
        site_log: Callable[[str, str], None] = lambda member, text: None,
    ) -> None:
        self._app, self._run, self._blobs, self._store = app, run, blobs, store
        self._evidence = StoredEvidence(blobs)
        self._members = {m.member.name: m for m in sorted(members, key=lambda m: m.member)}
        self._faults = faults or NoFaults()
        self._watch, self._site_log = watcher, site_log
        self._queue: deque[tuple[Order, float]] = deque()
        self._due: list[_Due] = []
        self._clock = 0.0
        self._count = 0
        self._polls = 0
        self._interrupts = Interrupts()
        self._aside = Aside(blobs)

    def roster(self) -> Sequence[identity.Member]:
        return [m.member for m in self._members.values()]

    def now(self) -> float:
        """The simulation's clock; an instant is not over while handlers asked in it have not run."""
        return math.nextafter(self._clock, -math.inf) if self._queue else self._clock

    def dispatch(self, orders: Sequence[Order]) -> None:
        self._queue.extend((order, self._clock) for order in orders)

    def patiently(self, act: Callable[[], T], /) -> T:
        return act()

    def withdraw(self, orders: Mapping[str, str]) -> None:
        """Nothing to take back: a handler that was asked runs, and is late."""

    def arrivals(self, until: float | None) -> Sequence[Delivery]:
        """Runs waiting handlers; when none is left, the clock jumps to the next thing that happens.

        A poll (`until` is now) takes time as well, or an app that polls would wait without end: a
        second, and twice as long each time that it finds nothing.
        """
        poll = until is not None and until <= self.now()
        while True:
            self._work()
            if arrived := self._take_due():
                self._polls = 0
                return arrived
            if self._queue:
                continue
            if self._due and (until is None or self._due[0].at <= until):
                self._clock = self._due[0].at
                continue
            if until is None:
                raise _stalled()
            self._clock = max(self._clock, until) + (2.0**self._polls if poll else 0.0)
            self._polls = min(self._polls + 1, 20) if poll else 0
            return []

    def acknowledge(self, receipts: Sequence[Receipt]) -> None:
        self._store.forget([r.order for r in receipts])

    def close(self) -> None:
        self._aside.close()
        self._store.close()

    # --- the work -----------------------------------------------------------------------------

    def _work(self) -> None:
        """Run handlers for a while, then commit what they left, then let their replies go.

        While a handler runs, the reply of the one before is hashed and written.
        """
        started = time.monotonic()
        begun: deque[_Begun] = deque()
        done: list[tuple[float, Delivery]] = []
        with flower.generators_kept(), self._interrupts.heard():
            while self._queue and time.monotonic() - started < COMMIT_EVERY:
                order, sent = self._queue.popleft()
                if any(b.order.member == order.member for b in begun):
                    self._finish(begun, done)
                begun.append(self._begin(order, sent))
                self._finish(begun, done, but=AHEAD)
            self._finish(begun, done)
        self._blobs.sync()
        self._store.commit()
        for at, delivery in done:
            self._count += 1
            heapq.heappush(self._due, _Due(at, self._count, delivery))

    def _finish(
        self, begun: deque[_Begun], done: list[tuple[float, Delivery]], but: int = 0
    ) -> None:
        """Stage what was begun, in its sequence, `but` for as many; take its deliveries to `done`."""
        while len(begun) > but:
            one = begun.popleft()
            delivery = one.delivery or self._perform(one)
            if not isinstance(one.fault, Drop):
                at = one.sent + (one.fault.seconds if isinstance(one.fault, Delay) else 0.0)
                done.append((at, replace(delivery, at=at)))

    def _take_due(self) -> list[Delivery]:
        arrived = []
        while self._due and self._due[0].at <= self._clock:
            arrived.append(heapq.heappop(self._due).delivery)
        return arrived

    def _fault(self, order: Order) -> Fault | None:
        return self._faults.of(order.member.name, order.round, order.type)

    def _begin(self, order: Order, sent: float) -> _Begun:
        """Run the handler and have its reply's blobs put; nothing to do for an order that has its reply."""
        fault = self._fault(order)
        if (delivery := self._store.replied(order.id)) is not None:
            return _Begun(order, sent, fault, delivery)
        handled = self._handle(order, self._members[order.member.name], fault)
        if handled.log:
            self._site_log(order.member.name, handled.log)
        handled, drafted = self._draft(handled, fault)
        puts = [self._aside.put(data) for data in drafted.unnamed] if drafted is not None else []
        return _Begun(order, sent, fault, None, handled, drafted, puts)

    def _perform(self, begun: _Begun) -> Delivery:
        """Name and sign the reply that was begun, stage what goes with it."""
        order, member = begun.order, self._members[begun.order.member.name]
        envelope, data, handled = self._encode(begun)
        content = self._blobs.put_envelope(data)
        size = len(data) + sum(self._blobs.size(blob) for blob in envelope.blobs())
        delivery = Delivery(
            order.id, member.member.name, content, size, self._sign(member, order, content), 0.0
        )
        self._store.stage(Work(delivery, handled.state, handled.carry))
        return delivery

    def _handle(self, order: Order, member: LocalMember, fault: Fault | None) -> Handled:
        deaths = fault.times if isinstance(fault, Kill) else 0
        if deaths >= 2:
            why = "the worker died twice over this order"
            return Handled(None, Failure(flower.CRASHED, why), None, None, why)
        for _ in range(deaths):
            self._run_once(order, member)
        return self._run_once(order, member)

    def _run_once(self, order: Order, member: LocalMember) -> Handled:
        name = member.member.name
        records = flower.decode(self._evidence.envelope(order.content), self._blobs)
        state, carry = self._store.recall(name)
        run = self._run
        context = flower.new_context(
            run.run_id, member.member.node_id, member.config, state, run.config
        )
        message = flower.instruction(order.header(run.run_id), records)
        seed = derive(member.secret, "order", order.id)

        def listener(what: str, done: int, total: int) -> None:
            self._watch(events.Progress(name, what, done, total))

        with progress.listening(listener):
            try:
                return flower.run_handler(self._app, message, context, carry, seed)
            except KeyboardInterrupt as error:
                if self._interrupts.came:
                    raise
                why = f"KeyboardInterrupt at {flower.place_of(error)}"
                return Handled(None, Failure(flower.RAISED, why), None, None, why)

    def _draft(self, handled: Handled, fault: Fault | None) -> tuple[Handled, Draft | None]:
        """What the reply holds; one that has no such form is a failure."""
        if handled.reply is None:
            return handled, None
        reply = handled.reply
        if isinstance(fault, Poison):
            reply = fault.change(reply) or reply
        try:
            return handled, flower.draft(reply, self._blobs)
        except (ContentError, TypeError) as error:
            return _unsendable(error), None

    def _encode(self, begun: _Begun) -> tuple[Envelope, bytes, Handled]:
        """The reply's envelope and its bytes; a reply that has no such form is a failure."""
        handled = begun.handled
        if begun.draft is not None:
            envelope = begun.draft.named(put.result() for put in begun.puts)
            try:
                return envelope, envelope.encode(), handled
            except (ContentError, TypeError) as error:
                handled = _unsendable(error)
        assert handled.failure is not None
        envelope = Envelope(failure=handled.failure)
        return envelope, envelope.encode(), handled

    def _sign(self, member: LocalMember, order: Order, content: str) -> Mapping[str, Any]:
        payload = statements.reply_payload(
            self._run.federation, self._run.run, order.id, content, statements.NO_POLICY
        )
        return statements.sign(member.key, member.member.name, "reply", payload)


def _unsendable(error: Exception) -> Handled:
    failure = Failure(flower.RAISED, f"its reply cannot be sent: {error}")
    return Handled(None, failure, None, None, str(error))


def _stalled() -> BarnraiseError:
    return BarnraiseError(
        "A202",
        "a batch waits for replies that never come",
        "the simulated members that have not answered never will, and nothing limits the wait",
        next="give the batch a timeout, or the charter a deadline",
    )


def site_log_in(directory: Path) -> Callable[[str, str], None]:
    """A member's own log: `directory/<member>.log`. What is in it never leaves the site."""

    def write(member: str, text: str) -> None:
        directory.mkdir(exist_ok=True)
        with (directory / f"{member}.log").open("a") as file:
            file.write(text.rstrip("\n") + "\n")

    return write
