"""The node at work: what the desk decides is done here, and what happens is told to the desk.

    threads   main (this loop; owns desk, spool, worker) · link · one fetch · one delivery · the worker's two
    facts     come through the mailbox, in order; nobody but the main thread acts on them

An order is fetched, handed to the worker with a seed drawn from the member's secret, its reply signed and
committed, delivered, and forgotten when a receipt that the federation's log has signed says so.
"""

from __future__ import annotations

import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc

from barnraise.client.node import failpoints, transfers
from barnraise.client.node.approval import Approval
from barnraise.client.node.desk import REMEMBERED, Desk, Order
from barnraise.client.node.link import Cut, Heard, Link
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.room import DISK_FULL, STATE, Room
from barnraise.client.node.spool import Answer, Spool
from barnraise.client.node.supervisor import Done, Gone, Progress, Ready, Said, Worker
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import files, statements
from barnraise.protocols.content import ContentError, Failure
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.randomness import derive

RAISED, CRASHED = 2, 8  # Flower's codes, as in protocols.flower, which the daemon does not load
CLOCKS_APART = 60.0  # seconds between the two clocks that are worth a warning
NEVER_TAKEN = frozenset({"N205", "N207", "N208"})  # no repetition makes such a reply acceptable
SWEEP_AFTER = 0.25  # seconds until what is not needed any more is dropped
_SAY_EVERY = 0.2  # seconds between two reports of a transfer's progress


@dataclass(frozen=True)
class Site:
    """Who this node is: what of the member's keys the daemon works with."""

    member: str
    node_id: int
    secret: bytes
    log_key: bytes
    sign: Callable[[Mapping[str, str]], Mapping[str, Any]]
    connect: Callable[[], grpc.Channel]


@dataclass(frozen=True)
class Stop:
    """The node is to end."""


@dataclass(frozen=True)
class _Fetched:
    order: str
    outcome: list[str] | transfers.Failed | transfers.Refused


@dataclass(frozen=True)
class _Delivered:
    order: str
    problem: Exception | None


class Node:
    """Everything is owned by the thread that calls `run`."""

    def __init__(
        self, home: Path, approval: Approval, site: Site, mail: Mailbox, log: logging.Logger
    ) -> None:
        self._approval, self._site, self._mail, self._log = approval, site, mail, log
        with files.disk_errors(home):
            self._spool = Spool(home / "spool", approval.run, remembered=REMEMBERED)
        kept = self._spool.kept
        self._desk = Desk(approval.run, kept.replies, kept.done, random.random)
        self._worker = Worker(home, approval.memory, mail.post)
        self._link = Link(site.connect, self._hello, mail.post)
        self._room = Room(self._spool.root, mail, Stop, self._say_full, log)
        self._alive = False
        self._sweep_at = math.inf
        self._admitted = False
        self._refusing = ""
        self._let_go = ""  # the last order withdrawn before it was begun; read by its fetch as well
        self._last_content: set[str] = set()
        self._last_cut = ""
        self._said_state = ("", "")
        self._ending: BarnraiseError | int | None = None

    def run(self) -> int:
        """Work until the coordinator or a signal ends it: the exit status. Raises `BarnraiseError`."""
        try:
            self._link.start()
            while self._ending is None:
                with files.disk_errors(self._spool.root):
                    self._act()
                    self._hear(self._mail.take(self._patience()))
        finally:
            self._link.stop()
            self._worker.stop()
        if isinstance(self._ending, BarnraiseError):
            raise self._ending
        return self._ending

    # --- what is due ----------------------------------------------------------------------------

    def _act(self) -> None:
        now = time.monotonic()
        if not self._alive and now >= self._desk.restart_at:
            self._start_worker()
        if self._alive and (order := self._desk.next_work()) is not None:
            self._hand_over(order)
        stub = self._link.exchange()
        if stub is not None and (order := self._desk.next_fetch(now)) is not None:
            self._in_thread("fetch", self._fetch, stub, order)
        if stub is not None and (reply := self._desk.next_delivery(now)) is not None:
            self._deliver(stub, reply)
        self._say_state()
        self._sweep_if_due()

    def _patience(self) -> float | None:
        """Seconds until something may be due without a new fact; None for no such time."""
        wake = min(self._desk.wake_at(), math.inf if self._alive else self._desk.restart_at)
        if not self._desk.expecting:
            wake = min(wake, self._sweep_at)
        return None if wake == math.inf else max(0.0, wake - time.monotonic())

    def _say_state(self) -> None:
        state, order = self._desk.state()
        if not self._alive and self._desk.working is not None:
            state = "restarting"
        if self._room.lacking:
            state = STATE
        if state == "idle" and self._refusing:
            state = f"refusing: {self._refusing}"
        if (state, order) != self._said_state:
            self._said_state = (state, order)
            self._link.state(state, order)

    def _say_full(self, state: str) -> None:
        _, order = self._desk.state()
        if (state, order) != self._said_state:
            self._said_state = (state, order)
            self._link.state(state, order)

    def _hear(self, fact: Any) -> None:
        match fact:
            case Heard():
                self._hear_coordinator(fact.message)
            case Cut():
                self._cut(fact)
            case Said():
                self._hear_worker(fact)
            case Gone():
                self._gone(fact)
            case _Fetched():
                self._fetched(fact)
            case _Delivered():
                self._delivered(fact)
            case Stop():
                self._ending = 0

    # --- the coordinator --------------------------------------------------------------------------

    def _hello(self) -> pb.Hello:
        return pb.Hello(
            run=self._approval.run,
            app=self._approval.app,
            version=version("barnraise"),
            clock=time.time(),
        )

    def _hear_coordinator(self, message: pb.ToNode) -> None:
        match message.WhichOneof("said"):
            case "welcome":
                self._welcome(message.welcome)
            case "order" if self._admitted:
                self._order(message.order)
            case "receipt":
                self._receipt(message.receipt.statement)
            case "withdrawn":
                self._withdrawn(message.withdrawn.order)
            case "dismissal":
                self._dismissed(message.dismissal)

    def _welcome(self, welcome: pb.Welcome) -> None:
        """Hold what the coordinator says it is against what this site approved."""
        approved, site = self._approval, self._site
        said = (welcome.federation, welcome.run, welcome.run_id, welcome.member)
        wanted = (approved.federation, approved.run, str(approved.run_id), site.member)
        apart = abs(welcome.clock - time.time())
        if apart > CLOCKS_APART:
            self._log.warning("the coordinator's clock and this one are %.0f s apart", apart)
        if said != wanted:
            self._refuse(f"the coordinator runs {said}, and this site approved {wanted}")
            return
        self._log.info("attending as %s", site.member)
        self._admitted, self._refusing, self._last_cut = True, "", ""
        self._desk.attended()

    def _order(self, said: pb.Order) -> None:
        names = (
            "id",
            "run",
            "batch",
            "round",
            "type",
            "group",
            "content",
            "ttl",
            "created",
            "size",
        )
        order = Order(**{name: getattr(said, name) for name in names})
        if why := self._desk.take(order):
            self._refuse(f"order {said.id[:80]!r}: {why}")
        else:
            self._refusing = ""

    def _withdrawn(self, order: str) -> None:
        if self._desk.withdrawn(order):
            self._let_go = order
            self._log.info("withdrawn before it was begun: %s", order[:80])

    def _refuse(self, why: str) -> None:
        if why != self._refusing:
            self._log.error("N304: refused, and not answered: %s", why)
        self._refusing = why

    def _receipt(self, statement: bytes) -> None:
        """Forget a reply, if the federation's log says that its verdict is on disk (DESIGN §6)."""
        name = f"{self._approval.federation}/log"
        try:
            envelope = json.loads(statement)
            receipt = statements.verify(self._site.log_key, name, "receipt", envelope)
            if set(receipt) != {"order", "verdict", "reason", "entry"}:
                raise ValueError("it has other fields than a receipt")
        except (ValueError, RecursionError) as error:
            self._log.error("N305: a receipt that is none was ignored: %s", error)
            return
        order = str(receipt["order"])
        if not self._desk.receipted(order):
            return
        failpoints.reach("daemon:receipted")
        self._room.patiently(partial(self._spool.forget, order))
        self._log.info("%s: %s %s", order, receipt["verdict"], receipt["reason"])
        self._sweep()

    def _dismissed(self, dismissal: pb.Dismissal) -> None:
        self._log.warning("dismissed: %s: %s", dismissal.why, dismissal.text)
        if dismissal.why in ("displaced", "finished"):
            self._ending = 0
        elif dismissal.why == "revoked":
            self._ending = BarnraiseError(
                "N105",
                f"{self._site.member} is no longer a member of {self._approval.federation}",
                dismissal.text,
                "nothing more was sent",
                next="ask the federation's operator",
            )

    def _cut(self, cut: Cut) -> None:
        """Training goes on; what was being moved is moved on later."""
        self._admitted = False
        self._desk.lost()
        if cut.why != self._last_cut:
            self._log.info("not connected (%s); trying again until it is there", cut.why)
        self._last_cut = cut.why

    # --- the worker -------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._approval.check_code()
        self._spool.empty_outgoing()
        approved = self._approval
        self._worker.start(
            {
                "run_id": approved.run_id,
                "node_id": self._site.node_id,
                "node_config": dict(approved.node_config),
                "run_config": dict(approved.run_config),
                "client": approved.client,
                "code": str(approved.code),
                "stores": [str(path) for path in self._spool.stores()],
                "outgoing": str(self._spool.outgoing),
                "spares": str(self._spool.spares.folder),
            }
        )
        self._alive = True
        if (order := self._desk.working) is not None:
            self._hand_over(order)

    def _hand_over(self, order: Order) -> None:
        """The order with the seed for it: the member's secret stays here."""
        self._last_content = {order.content}
        self._worker.send(
            {
                "id": order.id,
                "type": order.type,
                "group": order.group,
                "content": order.content,
                "ttl": order.ttl,
                "created": order.created,
                "seed": derive(self._site.secret, "order", order.id).hex(),
                "state": self._spool.kept.state,
                "carry": self._spool.kept.carry,
            }
        )

    def _hear_worker(self, said: Said) -> None:
        what, working = said.what, self._desk.working
        match what:
            case Ready():
                self._ready(what)
            case Progress() if working is not None and what.order == working.id:
                self._link.progress(what.order, what.what, what.done, what.total)
            case Done() if working is not None and what.order == working.id:
                self._done(working, Answer(what.order, what.content, what.state, what.carry))

    def _ready(self, ready: Ready) -> None:
        for what, why in ready.hindered.items():
            if why:
                self._log.warning("the worker's %s is not apart from this machine's: %s", what, why)
        if ready.failure:
            self._log.error("the app cannot be loaded (%s); see logs/worker.log", ready.failure)

    def _done(self, order: Order, answer: Answer) -> None:
        """Sign, commit, and let it be delivered."""
        failpoints.reach("daemon:answered")
        try:
            self._room.patiently(partial(self._spool.commit, answer, self._sign))
        except ContentError as error:
            self._log.error("what the worker left is not whole: %s", error)
            failure = Failure(RAISED, "its reply cannot be read")
            self._fail(order.id, failure)
        self._desk.answered()
        self._committed(order)

    def _fail(self, order: str, failure: Failure) -> None:
        self._room.patiently(partial(self._spool.commit_failure, order, failure, self._sign))

    def _gone(self, gone: Gone) -> None:
        self._alive = False
        if gone.status == DISK_FULL:
            self._room.lacks("the worker could not write its reply")
            self._desk.unable(time.monotonic())
            return
        self._log.warning("the worker's life %d is over: %s", gone.life, gone.why)
        given_up = self._desk.died(time.monotonic())
        if given_up is not None:
            self._log.error("N306: the worker died twice over %s", given_up.id)
            failure = Failure(CRASHED, "the worker died twice over this order")
            self._spool.empty_outgoing()
            self._fail(given_up.id, failure)
            self._committed(given_up)

    def _committed(self, order: Order) -> None:
        self._desk.committed(order.id)
        self._sweep()

    def _sign(self, order: str, content: str) -> Mapping[str, Any]:
        approved = self._approval
        return self._site.sign(
            statements.reply_payload(
                approved.federation, approved.run, order, content, statements.NO_POLICY
            )
        )

    # --- transfers --------------------------------------------------------------------------------

    def _in_thread(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, name=name, daemon=True).start()

    def _fetch(self, stub: Any, order: Order) -> None:
        """In its own thread."""
        tell = _Teller(self._link, order.id, "fetching byte")

        def moved(done: int, total: int) -> None:
            if self._let_go == order.id:
                raise transfers.Failed("the order is withdrawn")
            tell(done, total)

        try:
            outcome: Any = transfers.fetch(stub, order.content, order.size, self._spool, moved)
        except (transfers.Failed, transfers.Refused) as error:
            outcome = error
        except Exception as error:  # a thread that ends without a word would be waited for for ever
            self._log.exception("fetching %s", order.id)
            outcome = transfers.Failed(repr(error))
        self._mail.post(_Fetched(order.id, outcome))

    def _fetched(self, fact: _Fetched) -> None:
        match fact.outcome:
            case transfers.Failed():
                self._log.info("fetching %s: %s", fact.order, fact.outcome)
                if fact.outcome.full:
                    self._room.lacks(fact.outcome)
                self._desk.fetch_failed(time.monotonic())
            case transfers.Refused():
                self._log.warning("the order %s cannot be fetched: %s", fact.order, fact.outcome)
                self._desk.fetch_refused(fact.order)
            case digests:
                failpoints.reach("daemon:fetched")
                self._room.patiently(partial(self._spool.received, digests))
                self._desk.fetched(fact.order)

    def _deliver(self, stub: Any, order: str) -> None:
        try:
            parts = [transfers.Part(*part) for part in self._spool.parts(order)]
        except (BarnraiseError, ContentError) as error:
            self._mail.urge(_Delivered(order, error))
            return
        statement = json.dumps(self._spool.kept.replies[order].statement).encode()
        self._in_thread("deliver", self._delivery, stub, order, statement, parts)

    def _delivery(
        self, stub: Any, order: str, statement: bytes, parts: list[transfers.Part]
    ) -> None:
        """In its own thread."""
        problem: Exception | None = None
        try:
            moved = _Teller(self._link, order, "delivering byte")
            transfers.deliver(stub, order, statement, parts, moved)
        except (transfers.Failed, transfers.Refused, OSError) as error:
            problem = error
        except Exception as error:  # as above
            self._log.exception("delivering %s", order)
            problem = transfers.Failed(repr(error))
        self._mail.post(_Delivered(order, problem))

    def _delivered(self, fact: _Delivered) -> None:
        match fact.problem:
            case None:
                failpoints.reach("daemon:delivered")
                self._desk.delivered()
            case transfers.Failed():
                self._log.info("delivering %s: %s", fact.order, fact.problem)
                self._desk.delivery_failed(time.monotonic())
            case problem:
                self._desk.delivered()
                self._not_taken(fact.order, problem)

    def _not_taken(self, order: str, problem: Exception) -> None:
        """A reply that can never be taken becomes an error, or the round would wait for nothing.

        Any other refusal is left as it is until the next session.
        """
        if order not in self._spool.kept.replies:
            return
        self._log.warning("the reply to %s was not taken: %s", order, problem)
        hopeless = isinstance(problem, transfers.Refused) and problem.code in NEVER_TAKEN
        if not hopeless and self._spool.whole(order):
            return
        if self._spool.whole(order) and self._spool.is_failure(order):
            return
        said = problem.code if isinstance(problem, transfers.Refused) else "its file is damaged"
        failure = Failure(RAISED, f"its reply cannot be delivered: {said}")
        self._log.error("N307: the order %s is answered with an error instead", order)
        self._fail(order, failure)
        self._desk.again(order)

    def _sweep(self) -> None:
        """Drop what nothing needs, in a moment in which there may be nothing better to do."""
        self._sweep_at = min(self._sweep_at, time.monotonic() + SWEEP_AFTER)

    def _sweep_if_due(self) -> None:
        """The last order's content stays, for the next often shares its blobs."""
        if time.monotonic() < self._sweep_at or self._desk.expecting:
            return
        self._sweep_at = math.inf
        self._spool.sweep(self._desk.contents() | self._last_content)


class _Teller:
    """Tells a transfer's progress, some times a second."""

    def __init__(self, link: Link, order: str, what: str) -> None:
        self._link, self._order, self._what, self._last = link, order, what, -math.inf

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _SAY_EVERY or done == total:
            self._last = now
            self._link.progress(self._order, self._what, done, total)
