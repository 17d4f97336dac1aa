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
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from barnraise.client.node import failpoints, handing, misconduct, outgoing, receipts, transfers
from barnraise.client.node.approval import Approval
from barnraise.client.node.desk import REMEMBERED, Desk, Order
from barnraise.client.node.gate import Gate
from barnraise.client.node.kept import Answer
from barnraise.client.node.link import Cut, Heard, Link
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.moves import Delivered, Fetched, Moves
from barnraise.client.node.policy import Allowed, Forbidden, Held
from barnraise.client.node.room import STATE, WAITING, Room
from barnraise.client.node.site import Look, Site, Stop, check_admitted, revoked
from barnraise.client.node.spool import Spool
from barnraise.client.node.supervisor import (
    Done,
    Gone,
    Progress,
    Ready,
    Refused,
    Said,
    Tried,
    Worker,
)
from barnraise.client.node.witness import Caught, Proved
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import files, statements, witnessing
from barnraise.protocols.content import ContentError, Failure
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.witnessing import Misconduct

RAISED, CRASHED = 2, 8  # Flower's codes, as in protocols.flower, which the daemon does not load
__all__ = ["Look", "Node", "Site", "Stop"]
TRIES = 1000  # of the code to get at what it may not, that are logged
CLOCKS_APART = 60.0  # seconds between the two clocks that are worth a warning
NEVER_TAKEN = frozenset({"N205", "N207", "N208", "N323"})  # by no repetition
SETTLE_AFTER, SETTLE_LATER = 0.25, 2.0  # seconds until what was forgotten is so durably
LARGE = 16 << 20  # bytes of a reply that is dropped the sooner


class Node:
    """Everything is owned by the thread that calls `run`."""

    def __init__(
        self,
        home: Path,
        approval: Approval,
        site: Site,
        mail: Mailbox,
        log: logging.Logger,
        gate: Gate,
        visit: Callable[[Link], None] = lambda link: None,
    ) -> None:
        """`visit` is called when there is something to ask the coordinator for."""
        self._gate, self._visit = gate, visit
        self._approval, self._site, self._mail, self._log = approval, site, mail, log
        self._home, self._approved = home, site.witness.approved(approval)
        with files.disk_errors(home):
            self._spool = Spool(home / "spool", approval.run, remembered=REMEMBERED)
            receipts.mend(home)
        kept = self._spool.kept
        self._desk = Desk(approval.run, kept.replies, kept.done, random.random)
        self._worker = Worker(home, approval.memory, mail.post, gate.confinement())
        self._link = Link(site.connect, self._hello, self._look, leaving=gate.spoken)
        site.witness.speak(self._link.say)
        self._moves = Moves(self._link, self._spool, mail, log)
        self._room = Room(self._spool.root, mail, Stop, self._say_full, log)
        self._held: Allowed | Held = Allowed()
        self.tries = 0
        self.over = False  # the coordinator has said that the run is
        self._alive = False
        self._settle_at = math.inf
        self._untidy = False  # something may lie in the spool that nothing needs
        self._admitted = False
        self._refusing = ""
        self._last_content: set[str] = set()
        self._last_cut = ""
        self._said_state = ("", "", "")
        self._since = time.time()
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
            self._gate.metered(self._worker.process, at_work=False, last=True)
            self._moves.end()
            self._worker.stop()
            self._site.witness.close()
        if isinstance(self._ending, BarnraiseError):
            raise self._ending
        return self._ending

    # --- what is due ----------------------------------------------------------------------------

    def _act(self) -> None:
        now = time.monotonic()
        self._held = self._gate.decide()
        free = isinstance(self._held, Allowed)
        if not self._alive and now >= self._desk.restart_at and (free or self._desk.working):
            self._start_worker()
        if free and self._alive and (order := self._desk.next_work()) is not None:
            self._gate.took_up(order.type)
            self._hand_over(order)
        stub = self._link.exchange()
        if free and stub is not None and (order := self._desk.next_fetch(now)) is not None:
            self._moves.fetch(stub, order)
        if stub is not None and (reply := self._desk.next_delivery(now)) is not None:
            self._deliver(stub, reply)
        if self._gate.draining and self._desk.empty:
            self._ending = 0
        self._say_state()
        self._tidy()

    def _patience(self) -> float:
        """Seconds until something may be due without a new fact."""
        wake = min(self._desk.wake_at(), math.inf if self._alive else self._desk.restart_at)
        if not self._desk.moving:
            wake = min(wake, self._settle_at)
        return max(0.0, min(wake - time.monotonic(), self._gate.patience()))

    def _say_state(self) -> None:
        state, order = self._desk.state()
        if not self._alive and self._desk.working is not None:
            state = "restarting"
        if self._room.lacking:
            state = STATE
        if state == "idle" and self._refusing:
            state = f"refusing: {self._refusing}"
        held = str(self._held) if isinstance(self._held, Held) else self._gate.withheld()
        if (state, order, held) != self._said_state:
            self._said_state, self._since = (state, order, held), time.time()
            self._link.state(state, order, held)

    def as_dict(self) -> dict[str, Any]:
        """What is going on, for whoever asks on this machine; called in another thread."""
        state, order, held = self._said_state
        working = self._desk.working
        return {
            "run": self._approval.run,
            "app": self._approval.app,
            "state": state,
            "order": order,
            "held": held,
            "since": self._since,
            "round": working.round if working is not None else None,
            "connected": self._admitted,
            "cut": self._last_cut,
            "refusing": self._refusing,
            "hindered": dict(self._gate.missing),
            "tries": self.tries,
        }

    def _say_full(self, state: str) -> None:
        _, order = self._desk.state()
        if self._said_state[:2] != (state, order):
            self._said_state, self._since = (state, order, self._said_state[2]), time.time()
            self._link.state(*self._said_state)

    def _hear(self, fact: Any) -> None:
        match fact:
            case Heard(found=Caught()):
                self._caught(fact.found)
            case Heard():
                try:
                    self._hear_coordinator(fact.message, fact.found)
                except Misconduct as why:
                    self._caught(Caught(why, fact.message, self._site.witness.seen))
            case Cut():
                self._cut(fact)
            case Said():
                self._hear_worker(fact)
            case Gone():
                self._gone(fact)
            case Fetched():
                self._fetched(fact)
            case Delivered():
                self._delivered(fact)
            case Stop():
                self._ending = 0
            case Look():
                self._gate.look()
                self._visit(self._link)

    # --- the coordinator --------------------------------------------------------------------------

    def _hello(self) -> pb.Hello:
        return pb.Hello(
            run=self._approval.run,
            app=self._approval.app,
            version=version("barnraise"),
            clock=time.time(),
            agreements=self._gate.agreements(),
            log_size=self._site.witness.size,
        )

    def _look(self, said: Heard | Cut) -> None:
        """In the link's thread."""
        self._mail.post(self._site.witness.heard(said, self._link))

    def _caught(self, caught: Caught) -> None:
        witness = self._site.witness
        self._ending = misconduct.caught_by(self._home, caught, witness, self._link, self._mail)

    def _hear_coordinator(self, message: pb.ToNode, proved: Proved | None) -> None:
        match message.WhichOneof("said"):
            case "welcome":
                self._welcome(message.welcome, proved)
            case "order" if self._admitted:
                self._order(message.order, proved)
            case "receipt":
                self._receipt(message.receipt.statement, proved)
            case "withdrawn":
                self._withdrawn(message.withdrawn.order)
            case "dismissal":
                self._dismissed(message.dismissal)
            case "notice":
                self._visit(self._link)

    def _welcome(self, welcome: pb.Welcome, proved: Proved | None) -> None:
        """Hold what the coordinator says it is against what this site approved."""
        approved, site = self._approval, self._site
        said = (welcome.federation, welcome.run, welcome.run_id, welcome.member)
        wanted = (approved.federation, approved.run, str(approved.run_id), site.member)
        apart = abs(welcome.clock - time.time())
        if apart > CLOCKS_APART:
            self._log.warning("the coordinator's clock and this one are %.0f s apart", apart)
        if said != wanted and self._gate.agreements():
            self._ending, self.over = 0, True  # its run is not open now: what is, is seen afresh
            return
        if said != wanted:
            self._refuse(f"the coordinator runs {said}, and this site approved {wanted}")
            return
        if proved is None:
            self._refuse("the coordinator does not prove that the run was opened")
            return
        witnessing.check_opened(proved.entry, self._approved)
        self._log.info("attending as %s", site.member)
        self._admitted, self._refusing, self._last_cut = True, "", ""
        self._desk.attended()
        self._visit(self._link)

    def _order(self, said: pb.Order, proved: Proved | None) -> None:
        order = Order.of(said)
        unproved = proved is None and order.run == self._approval.run
        if proved is not None and order.run == self._approval.run:
            seen = (order.id, order.batch, order.type, order.group, order.content)
            witnessing.check_order(proved.entry, witnessing.OrderSeen(*seen), self._approved)
        if why := "no proof that the log has it" if unproved else self._desk.take(order):
            self._refuse(f"order {said.id[:80]!r}: {why}")
        else:
            self._refusing = ""
            if order.content in self._desk.contents():
                self._spool.bring(order.content, order.envelope)

    def _withdrawn(self, order: str) -> None:
        if self._desk.withdrawn(order):
            self._moves.let_go = order
            self._spool.unneeded(self._needed())
            self._log.info("withdrawn before it was begun: %s", order[:80])

    def _refuse(self, why: str) -> None:
        if why != self._refusing:
            self._log.error("N304: refused, and not answered: %s", why)
        self._refusing = why

    def _receipt(self, statement: bytes, proved: Proved | None) -> None:
        """Forget a reply, if the federation's log says, and proves, its verdict (DESIGN §6)."""
        try:
            receipt = receipts.opened(statement, self._site.log_key, self._approval.federation)
        except (ValueError, RecursionError) as error:
            self._log.error("N305: a receipt that is none was ignored: %s", error)
            return
        order = str(receipt["order"])
        if (reply := self._spool.kept.replies.get(order)) is None:
            return
        if proved is None:
            self._log.error("N305: a receipt that proves nothing was ignored: %s", order)
            return
        entry, data = proved.entry, proved.data
        witnessing.check_receipt(entry, data, receipt, reply.content, self._approved)
        run = self._approval.run
        self._room.patiently(partial(receipts.keep, self._home, run, order, statement, proved))
        self._desk.receipted(order)
        failpoints.reach("daemon:receipted")
        self._spool.forget(order)
        self._log.info("%s: %s %s", order, receipt["verdict"], receipt["reason"])
        after = SETTLE_AFTER if reply.size >= LARGE else SETTLE_LATER
        self._settle_at = min(self._settle_at, time.monotonic() + after)

    def _dismissed(self, dismissal: pb.Dismissal) -> None:
        self._log.warning("dismissed: %s: %s", dismissal.why, dismissal.text)
        if dismissal.why in ("displaced", "finished", "left"):
            self._ending, self.over = 0, dismissal.why == "finished"
        elif dismissal.why == "revoked":
            self._ending = revoked(self._site.member, self._approval.federation, dismissal.text)

    def _cut(self, cut: Cut) -> None:
        """Training goes on; what was being moved is moved on later."""
        check_admitted(cut.why, self._site.member, self._approval.federation)
        self._admitted = False
        self._desk.lost()
        if cut.why != self._last_cut:
            self._log.info("not connected (%s); trying again until it is there", cut.why)
        self._last_cut = cut.why

    # --- the worker -------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._approval.check_code()
        self._spool.empty_outgoing()
        first = handing.first(self._approval, self._site, self._spool)
        self._worker.start(first)
        self._alive = True
        if (order := self._desk.working) is not None:
            self._hand_over(order)

    def _hand_over(self, order: Order) -> None:
        """The order with the seed for it: the member's secret stays here."""
        self._gate.metered(self._worker.process, at_work=True)
        self._last_content = {order.content}
        self._worker.send(handing.order(order, self._site, self._spool))

    def _hear_worker(self, said: Said) -> None:
        what, working = said.what, self._desk.working
        match what:
            case Ready():
                self._ready(what)
            case Refused():
                self._say_hindered(what.hindered)
                if not self._gate.hindered(what.hindered):
                    self._log.error("N322: no code is started: %s", self._gate.decide())
            case Tried() if self.tries < TRIES:
                self.tries += 1
                self._log.warning("the code tried: %s %s", what.what, what.where)
            case Progress() if working is not None and what.order == working.id:
                if what.what == WAITING:
                    self._room.lacks("the worker's reply waits")
                self._link.progress(what.order, what.what, what.done, what.total)
            case Done() if working is not None and what.order == working.id:
                self._done(working, Answer(**vars(what)))

    def _ready(self, ready: Ready) -> None:
        self._say_hindered(ready.hindered)
        self._gate.hindered(ready.hindered)
        if ready.failure:
            self._log.error("the app cannot be loaded (%s); see logs/worker.log", ready.failure)

    def _say_hindered(self, hindered: Mapping[str, str]) -> None:
        for what, why in hindered.items():
            if why:
                self._log.warning("the worker's %s is not apart from this machine's: %s", what, why)

    def _done(self, order: Order, answer: Answer) -> None:
        """Sign, commit, and let it be delivered."""
        failpoints.reach("daemon:answered")
        self._gate.metered(self._worker.process, at_work=False)
        try:
            look = partial(outgoing.checked, self._gate, order, answer, self._spool, self._log)
            answer = self._room.patiently(look)
            self._room.patiently(partial(self._spool.commit, answer, self._sign))
        except ContentError as error:
            self._log.error("what the worker left is not whole: %s", error)
            failure = Failure(RAISED, "its reply cannot be read")
            self._fail(order.id, failure)
        self._desk.answered()
        self._committed(order.id)

    def _fail(self, order: str, failure: Failure) -> None:
        self._room.patiently(partial(self._spool.commit_failure, order, failure, self._sign))

    def _gone(self, gone: Gone) -> None:
        self._alive = False
        self._gate.metered(self._worker.process, at_work=False, last=True, used=gone.used)
        self._log.warning("the worker's life %d is over: %s", gone.life, gone.why)
        given_up = self._desk.died(time.monotonic())
        if given_up is not None:
            self._log.error("N306: the worker died twice over %s", given_up.id)
            failure = Failure(CRASHED, "the worker died twice over this order")
            self._spool.empty_outgoing()
            self._fail(given_up.id, failure)
            self._committed(given_up.id)

    def _committed(self, order: str) -> None:
        self._desk.committed(order)
        self._untidy = True

    def _sign(self, order: str, content: str) -> Mapping[str, Any]:
        approved = self._approval
        return self._site.sign(
            statements.reply_payload(
                approved.federation, approved.run, order, content, self._gate.policy.digest
            )
        )

    # --- transfers --------------------------------------------------------------------------------

    def _fetched(self, fact: Fetched) -> None:
        match fact.outcome:
            case transfers.Failed():
                self._log.info("fetching %s: %s", fact.order, fact.outcome)
                if fact.outcome.full:
                    self._room.lacks(fact.outcome)
                self._desk.fetch_failed(time.monotonic())
            case transfers.Refused():
                self._log.warning("the order %s cannot be fetched: %s", fact.order, fact.outcome)
                self._desk.fetch_refused(fact.order)
                self._spool.unneeded(self._needed())
            case digests:
                failpoints.reach("daemon:fetched")
                self._room.patiently(partial(self._spool.received, digests))
                self._desk.fetched(fact.order)

    def _deliver(self, stub: Any, order: str) -> None:
        try:
            parts = self._spool.parts(order)
        except (BarnraiseError, ContentError) as error:
            self._mail.urge(Delivered(order, error))
            return
        size = sum(part.size for part in parts)
        leaves = partial(self._gate.leaves, order, self._spool.reply(order), size)
        decided = self._room.patiently(leaves)
        if isinstance(decided, Forbidden):
            refused = transfers.Refused(f"N323: {decided.reason}")
            self._mail.urge(Delivered(order, refused))
            return
        if isinstance(decided, Held):
            self._desk.delivery_failed(time.monotonic())
            return
        statement = json.dumps(self._spool.kept.replies[order].statement).encode()
        self._moves.deliver(stub, order, statement, parts)

    def _delivered(self, fact: Delivered) -> None:
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

    def _tidy(self) -> None:
        """Drop what nothing needs; nothing while something is moved, for that may be read or written yet.

        What is still to be fetched often shares its blobs with what is here, and is waited for; but not
        where there is no room for it: that must come from what is here.
        """
        if self._room.lacking and not self._desk.transferring:
            self._make_room()
        if self._desk.moving:
            return
        if time.monotonic() >= self._settle_at:
            self._settle_at, self._untidy = math.inf, True
            self._room.patiently(self._spool.settle)
        if self._untidy:
            self._untidy = False
            self._spool.sweep(self._needed())

    def _make_room(self) -> None:
        """Whatever can be had again, or is only kept to be written over, goes."""
        self._last_content = set()
        with suppress(BarnraiseError), files.disk_errors(self._spool.root):
            self._spool.settle()
        self._spool.sweep(self._needed(), lacking=True)

    def _needed(self) -> set[str]:
        """The contents of orders. The last one's stays, for the next often shares its blobs."""
        return self._desk.contents() | self._last_content
