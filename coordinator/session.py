"""SessionFleet: every member a node of its own, over gRPC with mutual TLS. Orders are pushed.

Who owns what:
- The Grid's thread owns the blob store and what has no other owner below; it calls
  `dispatch`, `arrivals`, `acknowledge`, `withdraw` and `wait_for`, and the watcher is called in it alone.
- gRPC's threads, one for each call, read and write files, and talk to members. They touch a member's
  `Desk`, the `Presence` and `_handed`, each under its own lock, and hold no lock while they do I/O.
- `revoke` and `close` may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import grpc

from barnraise.coordinator import events
from barnraise.coordinator.access import Calls, Guard
from barnraise.coordinator.attendance import Attendance, Running
from barnraise.coordinator.authority import Authority
from barnraise.coordinator.desk import Desk, Part, Sent, Told
from barnraise.coordinator.evidence import StoredEvidence
from barnraise.coordinator.exchange import Exchange, Handed, Office, add_exchange
from barnraise.coordinator.fleet import Delivery, Order, Receipt, reply_cap
from barnraise.coordinator.ports import bind
from barnraise.coordinator.presence import OBJECTS, RESTARTING, Presence
from barnraise.coordinator.prover import Prover
from barnraise.coordinator.room import HEADROOM, Room
from barnraise.coordinator.transparency import Transparency
from barnraise.protocols import allocator, canonical, statements
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.federation_pb2_grpc import (
    SessionServicer,
    add_SessionServicer_to_server,
    add_TransparencyServicer_to_server,
)
from barnraise.protocols.identity import Member
from barnraise.protocols.transfers import SERVER_OPTIONS

__all__ = ["Running", "SessionFleet", "Settings"]

KEPT_FREE = 16 << 20  # bytes of memory that are not given back after a transfer
LET_GO = 64 << 20  # bytes of replies after which what their transfers left free is given back
NAMED = 8  # members that a wait names
PLANS = 64  # contents whose parts are remembered
LONGEST = 3600.0  # seconds of one wait, which then goes on
NAMED = 8  # more members than these are counted
STARTS = "it starts once all have attended"
FAREWELL = 2.0  # seconds in which sessions may hear their dismissal

REVOKED = "the federation's operator has revoked this member"

T = TypeVar("T")
VerdictOf = Callable[[str, str], Receipt | None]


class Front(Protocol):
    """What stands at the port beside the run: who attends without it, and other services."""

    threads: int

    def session(self, run: SessionServicer) -> SessionServicer:
        """The Session service of the port, given the run's."""
        ...

    def register(self, server: grpc.Server) -> None:
        """Add other services; each call to them passes the guard too."""
        ...


@dataclass(frozen=True)
class Settings:
    """`address` is where the session port listens, `hosts` the names and addresses by which nodes reach it.

    `folder` holds replies on their way in; it must be on the blob store's file system. A node that has
    not read its last messages for `patience` seconds is cut when there are more. Replies leave `headroom`
    bytes of the disk to the record.
    """

    folder: Path
    address: str = "127.0.0.1:0"
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
    patience: float = 30.0
    durable: bool = True
    headroom: int = HEADROOM


class SessionFleet:
    """A `Fleet` behind a port. `verdict_of(order, member)` finds a verdict on record, from any thread."""

    signed = True

    def __init__(
        self,
        authority: Authority,
        running: Running,
        members: Sequence[Member],
        blobs: BlobStore,
        verdict_of: VerdictOf,
        settings: Settings,
        watcher: events.Watcher = events.nobody,
        prover: Prover | None = None,
        front: Front | None = None,
    ) -> None:
        self._front = front
        self._authority, self.running, self.settings = authority, running, settings
        self._blobs, self._evidence = blobs, StoredEvidence(blobs)
        self._verdict_of, self.watch = verdict_of, watcher
        self._members = {m.name: m for m in sorted(members)}
        self._plans: dict[str, tuple[Part, ...]] = {}
        self._judging: dict[
            str, str
        ] = {}  # order -> member, handed to the Grid and not acknowledged
        self._came = 0  # bytes of replies since memory was given back
        self._awaited: list[str] = []  # whom `wait_for` has said that it waits for, and since when
        self._awaited_since: float | None = None
        self._bell = threading.Condition()  # the six below are under it
        self._fault: BarnraiseError | None = None
        self._handed: list[Handed] = []
        self._attended: set[str] = set()
        self._revoked = {m.name for m in members if authority.revoked(m)}
        self._stirred = False  # something changed that the Grid should look at
        self._live = False  # the Grid has replayed its journal
        self._room = Room(settings.folder.parent, self._ring, headroom=settings.headroom)
        self._desks = {name: Desk(self.now) for name in self._members}
        self._presence = Presence(self._members, self.now, self._ring)
        self.calls = Calls()
        self.office = Office(
            self._desks,
            self._presence,
            self.now,
            settings.folder,
            blobs.kept,
            self._judged_before,
            self._hand_in,
            self._is_live,
            settings.durable,
            self._room,
        )
        self._prover = prover
        self._attendance = Attendance(running, self.office, self._has_attended, prover=prover)
        self._exchange = Exchange(self.office)
        self._server: grpc.Server | None = None
        self._threads: ThreadPoolExecutor | None = None

    # --- the port --------------------------------------------------------------------------------

    def serve(self) -> int:
        """Listen; returns the port. N118 if it cannot be had."""
        allocator.settle(KEPT_FREE)
        front = self._front
        spare = front.threads if front is not None else 0
        threads = ThreadPoolExecutor(16 + 8 * len(self._members) + spare, "session")
        server = grpc.server(
            threads,
            interceptors=[Guard(self._authority.member, self.calls)],
            options=SERVER_OPTIONS,
        )
        attendance = front.session(self._attendance) if front is not None else self._attendance
        add_SessionServicer_to_server(attendance, server)
        if front is not None:
            front.register(server)
        add_exchange(self._exchange, server)
        if self._prover is not None:
            add_TransparencyServicer_to_server(Transparency(self._prover), server)
        settings = self.settings
        credentials = self._authority.server_credentials(settings.hosts, require_client=True)
        try:
            port = bind(server, settings.address, credentials)
        except BarnraiseError:
            threads.shutdown()
            raise
        server.start()
        self._server, self._threads = server, threads
        return port

    def close(self, why: str = "finished", text: str = "the run has ended") -> None:
        """Dismiss every session, end every call and every thread. A second time does nothing."""
        server, self._server = self._server, None
        if server is None or self._threads is None:
            return
        stopped = server.stop(FAREWELL)  # from here on nobody attends anew
        for desk in self._desks.values():
            desk.dismiss(why, text)
        stopped.wait()
        self._threads.shutdown(wait=True)
        self._attendance.join()

    # --- what the Grid asks ----------------------------------------------------------------------

    def roster(self) -> Sequence[Member]:
        """The admitted members that are not revoked, in canonical order, connected or not."""
        with self._bell:
            return [m for name, m in self._members.items() if name not in self._revoked]

    def now(self) -> float:
        """Seconds, without those in which a full disk kept the record from going on."""
        return self._room.now()

    def patiently(self, act: Callable[[], T], /) -> T:
        return self._room.patiently(act, self.watch)

    def dispatch(self, orders: Sequence[Order]) -> None:
        """Put the orders on their members' desks; a member that does not read is cut, and may return."""
        mine: dict[str, list[Sent]] = {}
        for order in orders:
            mine.setdefault(order.member.name, []).append(self._sent(order))
        with self._bell:
            self._live = True
        for name, sent in mine.items():
            self._desks[name].dispatch(sent)
            self._cut_if_stuck(name)
            if self._authority.revoked(self._members[name]):
                self._expel(name, 0.0)

    def _sent(self, order: Order) -> Sent:
        parts = self._plan(order.content)
        return Sent(order, parts, order.cap or reply_cap(sum(part.size for part in parts)))

    def _plan(self, content: str) -> tuple[Part, ...]:
        """The content's envelope and blobs; what is not a file comes with its bytes."""
        if (parts := self._plans.get(content)) is None:
            if len(self._plans) >= PLANS:
                self._plans.clear()
            blobs = self._evidence.envelope(content).blobs()
            data = None if self._blobs.kept(content).is_file() else self._blobs.read(content)
            size = self._blobs.size(content)
            envelope = Part(content, size, data)
            parts = (envelope, *(Part(b, self._blobs.size(b)) for b in blobs if b != content))
            self._plans[content] = parts
        return parts

    def withdraw(self, orders: Mapping[str, str]) -> None:
        """These orders' batches are closed; see `Fleet.withdraw`."""
        with self._bell:
            self._live = True
        for order, member in orders.items():
            if (desk := self._desks.get(member)) is not None:
                desk.withdraw([order])
        self._rest()

    def arrivals(self, until: float | None) -> Sequence[Delivery]:
        """The next deliveries, their bytes in the store; empty once `until` has passed, or when the
        roster has changed."""
        self._wait(until, lambda: bool(self._handed))
        with self._bell:
            handed, self._handed = self._handed, []
        return [self._taken(one) for one in handed]

    def _taken(self, handed: Handed) -> Delivery:
        delivery = handed.delivery
        self._judging[delivery.order] = delivery.member
        self._came += delivery.size
        for digest, path in handed.files.items():
            self._blobs.adopt(path, digest, synced=digest in handed.synced)
        if handed.envelope is not None:
            self._blobs.put_envelope(handed.envelope)
        return delivery

    def acknowledge(self, receipts: Sequence[Receipt]) -> None:
        """Sign the receipts; each member hears its own, now or when it attends."""
        for receipt in receipts:
            name = self._judging.pop(receipt.order)
            self._desks[name].receipt(self._signed(receipt))
            self._cut_if_stuck(name)
        self._rest()

    def _rest(self) -> None:
        """Once nobody is asked for anything: the app is about to put the next model beside what many
        transfers left free, in pieces that fit nothing."""
        if self._came >= LET_GO and not any(desk.asks() for desk in self._desks.values()):
            allocator.trim()
            self._came = 0

    def _signed(self, receipt: Receipt) -> Told:
        payload = {
            "order": receipt.order,
            "verdict": receipt.verdict,
            "reason": receipt.reason,
            "entry": receipt.entry,
        }
        keyid = f"{self.running.federation}/log"
        statement = statements.sign(self._authority.log_key, keyid, "receipt", payload)
        return Told(receipt.order, canonical.canonical(statement))

    # --- waiting ---------------------------------------------------------------------------------

    def wait_for(self, names: Iterable[str], until: float | None = None) -> list[str]:
        """Wait until these members have attended (revoked ones apart); the watcher hears for whom.

        Returns those that have not when `until`, on this fleet's clock, has passed; asked again, it goes
        on with the same wait.
        """
        wanted = sorted(names)
        while missing := self._missing(wanted):
            self._tell_missing(missing)
            if until is not None and self.now() >= until:
                return missing
            self._wait(until, partial(self._changed_from, missing, wanted))
        self._tell()
        self._awaited, self._awaited_since = [], None
        return []

    def _tell_missing(self, missing: list[str]) -> None:
        since = self._awaited_since = self._awaited_since or self.now()
        if missing == self._awaited:
            return
        self._awaited = missing
        names = tuple(missing[:NAMED])
        more, waited = len(missing) - len(names), self.now() - since
        self.watch(events.Waiting("the run", names, more, waited, None, STARTS))

    def _missing(self, wanted: Sequence[str]) -> list[str]:
        with self._bell:
            return [n for n in wanted if n not in self._attended and n not in self._revoked]

    def _changed_from(self, told: Sequence[str], wanted: Sequence[str]) -> bool:
        return self._missing(wanted) != told

    def _wait(self, until: float | None, ready: Callable[[], bool]) -> None:
        """Until this is so (asked under `_bell`), the roster changes, or `until` passes.

        Raises what `fail` was given.
        """
        while True:
            self._tell()
            with self._bell:
                if self._fault is not None:
                    raise self._fault
                now = self.now()
                if ready() or self._stirred or (until is not None and now >= until):
                    self._stirred = False
                    return
                due = [t - now for t in (until, self._presence.next_due()) if t is not None]
                limits = [*due, look] if (look := self._room.next_look()) is not None else due
                self._bell.wait(min(max(min(limits), 0.0), LONGEST) if limits else None)

    def _tell(self) -> None:
        for state in self._presence.due():
            self.watch(state)
        for news in self._room.news():
            self.watch(news)

    # --- called from the threads of calls ----------------------------------------------------------

    def _ring(self) -> None:
        with self._bell:
            self._bell.notify_all()

    def _has_attended(self, name: str) -> None:
        with self._bell:
            self._attended.add(name)
            self._bell.notify_all()

    def _hand_in(self, handed: Handed) -> None:
        with self._bell:
            self._handed.append(handed)
            self._bell.notify_all()

    def _is_live(self) -> bool:
        with self._bell:
            return self._live

    def _judged_before(self, name: str, order: str) -> bool:
        """Whether the journal has a verdict on this order of this member; it hears its receipt then."""
        receipt = self._verdict_of(order, name)
        if receipt is None:
            return False
        self._desks[name].receipt(self._signed(receipt))
        return True

    def restarting(self, name: str, why: str) -> None:
        """Whoever starts this member's node says that it died and is started again."""
        if self._presence.of(name).state != OBJECTS:
            self._presence.state(name, RESTARTING, why)

    def fail(self, why: BarnraiseError) -> None:
        """End whatever waits here, now and from now on. May be called from any thread."""
        with self._bell:
            self._fault = why
            self._bell.notify_all()

    def have_cosigned(self, seconds: float) -> events.Witnessed:
        """Have the log as it stands cosigned by whoever is there, in so many seconds."""
        assert self._prover is not None
        size = self._prover.ask()
        there = {name for name, desk in self._desks.items() if desk.ask()}
        self._prover.missing(size, there, seconds)
        missing = self._prover.missing(size, set(self._members), 0.0)
        done = set(self._members) - missing
        return events.Witnessed(size, tuple(sorted(done)), tuple(sorted(missing)))

    # --- who may be there ----------------------------------------------------------------------------

    def revoke(self, name: str) -> None:
        """Never admit this member again, and end what it is doing now. Raises N109.

        Its orders are not waited for any more: it is off the roster. What another process revoked is
        noticed at the member's next call, and at the next order to it.
        """
        self._authority.revoke(name)
        self.expel(name)

    def expel(self, name: str, why: str = "revoked", text: str = REVOKED) -> None:
        """End what a member does whose admission has ended; `why` is "revoked" or "left"."""
        if name in self._desks:
            self._expel(name, FAREWELL, why, text)
        else:
            self.calls.cut(name)

    def admits(self, name: str) -> bool:
        """Whether this member was admitted to the run."""
        return name in self._desks

    def stir(self) -> None:
        """Have the Grid's thread look again at what it waits for."""
        with self._bell:
            self._stirred = True
            self._bell.notify_all()

    def _expel(self, name: str, farewell: float, why: str = "revoked", text: str = REVOKED) -> None:
        desk = self._desks[name]
        with self._bell:
            self._revoked.add(name)
            self._stirred = True
            self._bell.notify_all()
        self.calls.cut(name, spare="Attend")
        desk.dismiss(why, text)
        self.calls.wait_until_gone(name, farewell)
        self.calls.cut(name)
        self._presence.state(name, why)

    def _cut_if_stuck(self, name: str) -> None:
        if self._desks[name].stuck(self.settings.patience):
            self.calls.cut(name)

    def presence(self, name: str) -> events.MemberState:
        """What this member is doing, as far as it says."""
        return self._presence.of(name)

    @property
    def unknown(self) -> int:
        """How many deliveries were offered for no order of their member's in this run."""
        return self._exchange.unknown
