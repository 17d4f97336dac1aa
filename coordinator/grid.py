"""DurableGrid: Flower's Grid, journaled, replayed, and under a round policy.

The app calls it as it would call Flower's own. While the journal holds the operations that the app
issues, they are answered from it and no member hears of them; at the first that is not there the grid
goes live. It knows nothing of sockets: members are behind a `Fleet`, whose batches `Live` drives.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from barnraise.coordinator import batches, events
from barnraise.coordinator.answers import Answers
from barnraise.coordinator.batches import Batch, Draft, diverged, number_orders
from barnraise.coordinator.cooling import Cooling
from barnraise.coordinator.evidence import HashOnly, StoredEvidence
from barnraise.coordinator.fleet import Fleet, Order
from barnraise.coordinator.intake import REMEMBERED, Demands
from barnraise.coordinator.live import Live, Terms
from barnraise.coordinator.roster import Roster
from barnraise.coordinator.rounds import category_of
from barnraise.coordinator.runlog import Cursor, RunLog, said
from barnraise.coordinator.tally import Tally
from barnraise.protocols import flower
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import Envelope
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member

__all__ = ["DurableGrid", "Terms"]


class DurableGrid(Grid):
    """Owned by the thread in which the ServerApp runs; concurrent calls are an error (A203).

    `fleet` is None in a replay that must not reach any member. `failure` is the first exception that
    ended an operation: an app cannot outlive it by catching it.
    """

    def __init__(
        self,
        terms: Terms,
        log: RunLog,
        blobs: BlobStore,
        fleet: Fleet | None,
        members: Sequence[Member],
        watcher: events.Watcher = events.nobody,
        start: int = 0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.terms = terms
        self.failure: BaseException | None = None
        self.demands = Demands()
        self.tally = Tally()
        self.recorder: Any = None
        self.blobs = blobs
        self._log, self._watch, self._wall = log, watcher, wall
        self._roster = Roster(members)
        evidence = StoredEvidence(blobs)
        self._answers = Answers(terms.run_id, blobs, evidence)
        self._cooling = Cooling(blobs, evidence)
        self._open: dict[int, Batch] = {}
        self._live: Live | None = None
        if fleet is not None:
            blobs.patiently = log.patiently = fleet.patiently
            self._live = Live(terms, log, blobs, evidence, fleet, self._open, watcher)
        self._busy = threading.Lock()
        self._cursor: Cursor | None = Cursor(log, self._roster.members, start)
        self._missed: deque[tuple[str, int, str]] = deque(maxlen=REMEMBERED)
        self._strangers: dict[str, Message] = {}
        self._unshelved: list[tuple[RecordDict, Envelope]] = []
        self._next_batch = 1
        self._operations = 0
        self._rounds = 0
        self._run = flower.Run.create_empty(terms.run_id)

    # --- Flower's Grid ------------------------------------------------------------------------

    def set_run(self, run: flower.Run) -> None:
        self._run = run

    @property
    def run(self) -> flower.Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return flower.new_instruction(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The roster in canonical order. The same at every replay, call by call."""
        with self._operation():
            roster = self._roster
            roster.asked()
            if self.live:
                self._see_roster()
                if self._live is not None and (waiting := roster.waits(self._live.now())):
                    self._watch(waiting)
                roster.check_stall(self.terms.stall_after)
            elif (names := roster.recorded(self._replaying(), self._operations)) is not None:
                roster.show(names)
            return roster.node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, wait as the round policy says, return fresh replies in canonical order.

        Refused and failed replies come as `Message(error)`, as do those of destinations that are not
        on the roster; below quorum a train batch is void and the list is empty.
        """
        messages = list(messages)
        with self._operation():
            drafts = self._drafts(messages)
            del messages
            orders = self._numbered(drafts)
            errors = self._answers.strangers(orders, drafts, self.name_of)
            if len(errors) == len(drafts):
                return errors
            batch = self._send(drafts, orders, "send", timeout)
            if batch.closed is None:
                assert self._live is not None
                self._live.drive(batch)
                self._finish(batch, replayed=False)
            if batch.void:
                return []
            return [*(self._answers.reply(batch, order) for order in batch.settled()), *errors]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send without waiting; returns the orders' ids in the sequence of `messages`."""
        messages = list(messages)
        with self._operation():
            drafts = self._drafts(messages)
            del messages
            orders = self._numbered(drafts)
            errors = self._answers.strangers(orders, drafts, self.name_of)
            self._strangers |= {m.metadata.reply_to_message_id: m for m in errors}
            if len(errors) < len(drafts):
                self._send(drafts, orders, "push", None)
            return [order.id for order in orders]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these orders that are in and were not pulled before.

        An order whose time (its TTL, or the charter's) ran out unanswered comes as `Message(error)`.
        """
        wanted = set(message_ids)
        with self._operation():
            ready = self._pull(wanted)
            replies = []
            for batch in list(self._open.values()):
                replies += [self._answers.reply(batch, o) for o in batch.settled() if o in ready]
                self._done_if_pulled(batch)
            strangers = [self._strangers.pop(o) for o in sorted(ready & self._strangers.keys())]
            return [*replies, *strangers]

    # --- what an app of ours knows beyond Flower --------------------------------------------------

    def name_of(self, node_id: int) -> str:
        """The member's name; the number itself for a node that is no member."""
        return self._roster.name_of(node_id) or str(node_id)

    @property
    def live(self) -> bool:
        """Whether everything in the journal has been replayed."""
        if self._cursor is not None and self._cursor.upcoming() is None:
            self._go_live()
        return self._cursor is None

    # --- what the recorder needs ----------------------------------------------------------------

    def store(self, records: RecordDict) -> tuple[Envelope, str]:
        """The records' envelope and its digest; in the store, unless this is a replay."""
        sink = self.blobs if self.live else HashOnly(self.blobs)
        envelope = flower.encode(records, sink)
        return envelope, sink.put_envelope(envelope.encode())

    def seal(self, body: Mapping[str, Any]) -> bool:
        """Put a seal on record, or hold it against the recorded one. True if it was a replay."""
        with self._operation():
            recorded = self._replayed("round.sealed", f"round {body['round']} sealed")
            self._did()
            if recorded is None:
                self.blobs.sync()
                self._log.write(("round.sealed", {**body, **self._standing()}))
            else:
                for key in ("round", "model", "content"):
                    if recorded[key] != body[key]:
                        what = f"the seal of round {body['round']}"
                        raise diverged(what, f"{key} {recorded[key]}", f"{key} {body[key]}", key)
            return recorded is not None

    def _standing(self) -> dict[str, Any]:
        """What a seal must hold for a later process to go on behind it."""
        return {
            "roster": self._roster.names,
            "operations": self._operations,
            "rounds": self._rounds,
            "batches": self._next_batch - 1,
            "open": sorted(self._open),
            "tally": self.tally.body(),
        }

    def last_seal(self) -> tuple[int, Mapping[str, Any]] | None:
        """The last seal of this run behind which one can go on: its index and body.

        Behind a seal at which batches were still open one cannot: their orders stand before it.
        """
        if self._operations:
            return None
        return self._log.last("round.sealed", where=lambda body: not body["open"])

    def jump(self, index: int, seal: Mapping[str, Any]) -> None:
        """Go on behind the seal at this index, as if the app had run up to it."""
        self._roster.show(seal["roster"])
        self._roster.did()
        self._operations, self._rounds = seal["operations"], seal["rounds"]
        self._next_batch = seal["batches"] + 1
        self.tally.restore(seal["tally"])
        self._cursor = Cursor(self._log, self._roster.members, index + 1)

    def tell(self, event: events.Event) -> None:
        self._watch(event)

    # --- operations ---------------------------------------------------------------------------

    @contextmanager
    def _operation(self) -> Iterator[None]:
        if self.failure is not None:
            raise self.failure
        if not self._busy.acquire(blocking=False):
            self.failure = BarnraiseError(
                "A203",
                "the ServerApp called the Grid from two threads at once",
                "a second call began before the first had returned",
                next="call the Grid from one thread; push_messages keeps several batches in flight",
            )
            raise self.failure
        try:
            yield
        except BaseException as error:
            self.failure = self.failure or error
            raise
        finally:
            self._busy.release()

    def _did(self) -> None:
        """An operation is complete: roster calls are counted anew."""
        self._operations += 1
        self._roster.did()

    def _go_live(self) -> None:
        """The journal is exhausted: take over what it left open."""
        cursor, self._cursor = self._cursor, None
        if self._live is None or cursor is None:
            return
        for batch in self._open.values():
            if batch.closed is not None:
                self._miss(batch)
        self._live.recall_missed(self._missed, cursor.late)
        for batch in self._open.values():
            if batch.closed is None:
                for content in {o.content for o in batch.pending()}:
                    self._answers.check(content)
                self._live.redispatch(batch, self.demands)

    def _miss(self, batch: Batch) -> None:
        """Remember who did not answer a batch that the journal closes: it may yet, and is late then."""
        self._missed.extend((o.id, batch.number, o.member.name) for o in batch.pending())

    def _replayed(self, kind: str, asked: str) -> Mapping[str, Any] | None:
        """The recorded operation of this kind, or None if the grid is live. Anything else: R101."""
        where = f"operation {self._operations + 1}"
        if self.live:
            if self._live is None:
                raise diverged(where, "the run is over", asked)
            return None
        cursor = self._replaying()
        entry = cursor.upcoming()
        if entry is None or entry.type != kind:
            raise diverged(
                where, said(entry) if entry else "nothing", asked, "the operation itself"
            )
        return cursor.take().body

    def _replaying(self) -> Cursor:
        assert self._cursor is not None
        return self._cursor

    def _see_roster(self) -> None:
        """Put the roster on record if it is another than the app was shown last."""
        names = self._live.roster() if self._live is not None else self._roster.names
        if names != self._roster.names:
            self._log.write(("roster.seen", self._roster.body(names, self._operations)))
            self._roster.show(names)

    # --- sending --------------------------------------------------------------------------------

    def _drafts(self, messages: Sequence[Message]) -> list[Draft]:
        """What the app asks for, its content in the store; a content that several share, once."""
        sink = self.blobs if self.live else HashOnly(self.blobs)
        contents: dict[int, str] = {}
        drafts = []
        for message in messages:
            records = message.content
            if id(records) not in contents:
                envelope = flower.encode(records, sink)
                contents[id(records)] = sink.put_envelope(envelope.encode())
                if self.live:
                    self._unshelved.append((records, envelope))
            drafts.append(self._draft(message, contents[id(records)]))
        return drafts

    def _draft(self, message: Message, content: str) -> Draft:
        meta, node_id = message.metadata, None
        name = self._roster.name_of(meta.dst_node_id)
        if name is not None and self._roster.holds(name):
            member = self._roster.members[name]
        else:
            node_id, member = meta.dst_node_id, Member(str(meta.dst_node_id), b"")
        return Draft(member, meta.message_type, meta.group_id, content, meta.ttl, node_id)

    def _numbered(self, drafts: Sequence[Draft]) -> list[Order]:
        train = any(d.node_id is None and category_of(d.type) == "train" for d in drafts)
        round_ = self._rounds + train
        return number_orders(self.terms.run, self._next_batch, drafts, self._wall(), round_)

    def _send(
        self, drafts: Sequence[Draft], orders: Sequence[Order], kind: str, timeout: float | None
    ) -> Batch:
        """The batch of these orders: recalled from the journal, or recorded and dispatched."""
        known = [o for o, d in zip(orders, drafts, strict=True) if d.node_id is None]
        limit = min([o.ttl for o in known] + ([timeout] if timeout is not None else []))
        canonical = batches.in_canonical_order(known)
        batch = Batch(self._next_batch, kind, known[0].type, canonical, limit)
        body = self._replayed("batch.sent", batches.describe(batch))
        self._next_batch += 1
        self._rounds = known[0].round
        self._did()
        if body is not None:
            return self._recall(batch, body)
        assert self._live is not None
        self.blobs.sync()
        self._shelve()
        self._log.write(("batch.sent", batches.sent_body(batch)))
        self._open[batch.number] = batch
        self._live.dispatch(batch, self.demands)
        self._cooling.now_that(self._open.values())
        return batch

    def _shelve(self) -> None:
        """What the app sends is in the store now: it need not lie in memory as well."""
        for records, envelope in self._unshelved:
            flower.shelve(records, envelope, self.blobs)
        self._unshelved.clear()

    def _recall(self, batch: Batch, body: Mapping[str, Any]) -> Batch:
        """The recorded batch, once the app has shown that it asks for the same."""
        cursor = self._replaying()
        recorded = cursor.batches[body["batch"]]
        same = (recorded.number, recorded.kind) == (batch.number, batch.kind)
        if not same or recorded.orders.keys() != batch.orders.keys():
            raise diverged(
                f"operation {self._operations} (batch {batch.number})",
                batches.describe(recorded),
                batches.describe(batch),
                batches.differences(recorded, batch),
            )
        recorded.type, recorded.orders = batch.type, batch.orders
        self._open[batch.number] = recorded
        self._watch(batches.sent_event(recorded, replayed=True))
        cursor.upcoming()
        if recorded.kind == "send" and recorded.closed is not None:
            self._finish(recorded, replayed=True)
        elif recorded.kind == "send" and not self.live:
            raise diverged(f"batch {batch.number}", "it never closed", "a later operation")
        return recorded

    # --- handing out ------------------------------------------------------------------------------

    def _pull(self, wanted: set[str]) -> set[str]:
        """Which of these orders' replies are handed out now; on record if there are any."""
        if not self.live:
            return self._recorded_pull(wanted)
        if self._live is None:
            return set()
        self._live.poll()
        ready = wanted & self._strangers.keys()
        for batch in self._open.values():
            ready |= wanted.intersection(batch.settled()) - batch.pulled
        if ready:
            self._log.write(("batch.pulled", {"orders": sorted(ready)}))
            for batch in self._open.values():
                batch.pulled |= ready & batch.orders.keys()
            self._did()
        return ready

    def _recorded_pull(self, wanted: set[str]) -> set[str]:
        cursor = self._replaying()
        entry = cursor.upcoming()
        if entry is None or entry.type != "batch.pulled" or not set(entry.body["orders"]) <= wanted:
            return set()
        ready = set(cursor.take().body["orders"])
        cursor.upcoming()
        self._did()
        return ready

    def _done_if_pulled(self, batch: Batch) -> None:
        if batch.kind != "push" or batch.pulled < batch.orders.keys():
            return
        replayed = batch.closed is not None and batch.recalled
        if batch.closed is None and self.live and self._live is not None:
            self._live.close(batch, "all answered")
        if batch.closed is not None:
            self._finish(batch, replayed=replayed)

    # --- the end ------------------------------------------------------------------------------------

    def _finish(self, batch: Batch, *, replayed: bool) -> None:
        """The app is done with a closed batch: count it, tell of it, and let go of it."""
        self.tally.add(batch)
        self._cooling.done(batch)
        self._open.pop(batch.number, None)
        if self._cursor is not None:
            self._cursor.batches.pop(batch.number, None)
            self._miss(batch)
        seconds = self._live.now() - batch.sent_at if self._live and not replayed else 0.0
        self._watch(batches.closed_event(batch, seconds, replayed=replayed))

    def close_open_batches(self) -> None:
        """The app is done: what it pushed and never pulled is closed as it stands."""
        live = self.live and self._live is not None
        for batch in sorted(self._open.values(), key=lambda b: b.number):
            replayed = batch.closed is not None
            if live and not replayed:
                assert self._live is not None
                self._live.close(batch, "the run ended")
            if batch.closed is not None:
                self._finish(batch, replayed=replayed)

    def close(self, body: Mapping[str, Any]) -> None:
        """Put the end of the run on record, or hold it against the recorded end (R102)."""
        recorded = self._replayed("run.closed", "the run ends")
        if recorded is None:
            self.blobs.sync()
            self._log.write(("run.closed", body))
        elif recorded["model"] != body["model"]:
            raise BarnraiseError(
                "R102",
                "the replay ended in another model",
                f"recorded: {recorded['model']}\nnow:      {body['model']}",
                next="find what in the ServerApp is not deterministic: clock, randomness, state",
            )
