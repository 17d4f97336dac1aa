"""DurableGrid: Flower's Grid, journaled, replayed, and under a round policy.

The app calls it as it would call Flower's own. While the journal holds the operations that the app
issues, they are answered from it and no member hears of them; at the first that is not there the grid
goes live. It knows nothing of sockets: members are behind a `Fleet`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from barnraise.coordinator import events, rounds
from barnraise.coordinator.blobs import BlobStore
from barnraise.coordinator.evidence import HashOnly, StoredEvidence
from barnraise.coordinator.fleet import Delivery, Fleet, Order, Receipt
from barnraise.coordinator.intake import Expectation, Intake, Verdict, outliers
from barnraise.coordinator.runlog import (
    Batch,
    Cursor,
    Draft,
    RunLog,
    close,
    diverged,
    number_orders,
    sent_body,
    verdict_fact,
)
from barnraise.protocols import flower, statements
from barnraise.protocols.canonical import digest_of
from barnraise.protocols.content import Arrays, Envelope, Failure
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member

SIZE_FACTOR, SIZE_FLOOR = 4, 64 << 20
REFUSED = 0  # Flower's ErrorCode.UNKNOWN: a refusal is none of the failures that Flower knows


@dataclass(frozen=True)
class Terms:
    """What the grid holds a run to."""

    federation: str
    run: str
    run_id: int
    policy: rounds.Policy = field(default_factory=rounds.Policy)
    size_cap: int | None = None
    mixed_replies: bool = False
    stall_after: int | None = None


class DurableGrid(Grid):
    """Owned by the thread in which the ServerApp runs; concurrent calls are an error (A203).

    `fleet` is None in a replay that must not reach any member. `failure` is the first error that the
    grid raised: an app cannot outlive it by catching it.
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
        self.weight: str | None = None
        self.last_refusals: dict[str, str] = {}
        self.counts = {"accepted": 0, "refused": 0, "train accepted": 0, "train refused": 0}
        self.recorder: Any = None
        self.blobs = blobs
        self._log, self._blobs, self._fleet, self._watch = log, blobs, fleet, watcher
        self._members = {m.name: m for m in members}
        self._names = {m.node_id: m.name for m in members}
        self._evidence = StoredEvidence(blobs)
        self._intake = Intake()
        self._wall = wall
        self._busy = threading.Lock()
        self._cursor: Cursor | None = Cursor(log, self._members, start, wall())
        self._open: dict[int, Batch] = {}
        self._next_batch = 1
        self._operations = 0
        self._roster: list[str] = []
        self._roster_calls = 0
        self._digests: dict[int, str] = {}
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
            self._roster_calls += 1
            recorded = self._recorded_roster()
            if recorded is not None:
                self._roster = recorded
            elif self.live:
                self._see_roster()
            self._check_stall()
            return [self._members[name].node_id for name in self._roster]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, wait as the round policy says, return fresh replies in canonical order.

        Refused and failed replies come as `Message(error)`; below quorum a train batch is void and
        the list is empty.
        """
        with self._operation():
            drafts, errors = self._drafts(messages)
            del messages
            if not drafts:
                return errors
            batch = self._send(drafts, "send", timeout)
            if batch.closed is None:
                self._drive(batch)
            replies = [] if batch.void else [self._reply(batch, o) for o in self._settled(batch)]
            return [*replies, *errors]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send without waiting; returns the orders' ids in the sequence of `messages`."""
        with self._operation():
            drafts, _ = self._drafts(messages)
            if not drafts:
                return []
            batch = self._send(drafts, "push", None)
            ordered = number_orders(self.terms.run, batch.number, drafts, 0.0)
            return [order.id for order in ordered]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these orders that are in and were not pulled before."""
        with self._operation():
            wanted = set(message_ids)
            ready = self._pull(wanted)
            replies = []
            for batch in list(self._open.values()):
                mine = [o for o in self._settled(batch) if o in ready]
                replies += [self._reply(batch, order) for order in mine]
                self._close_if_pulled(batch)
            return replies

    # --- what an app of ours knows beyond Flower --------------------------------------------------

    def name_of(self, node_id: int) -> str:
        """The member's name; the number itself for a node that is no member."""
        return self._names.get(node_id, str(node_id))

    @property
    def live(self) -> bool:
        """Whether everything in the journal has been replayed."""
        if self._cursor is not None and self._cursor.upcoming() is None:
            self._go_live()
        return self._cursor is None

    # --- what the recorder needs ----------------------------------------------------------------

    def store(self, records: RecordDict) -> tuple[Envelope, str]:
        """The records' envelope and its digest; in the store, unless this is a replay."""
        sink = self._blobs if self.live else HashOnly(self._blobs)
        envelope = flower.encode(records, sink)
        return envelope, sink.put(iter([memoryview(envelope.encode())]))

    def seal(self, body: Mapping[str, Any]) -> bool:
        """Put a seal on record, or hold it against the recorded one. True if it was a replay."""
        with self._operation():
            recorded = self._replayed("round.sealed", f"round {body['round']} sealed")
            if recorded is None:
                self._blobs.sync()
                where = {"operations": self._operations + 1, "batches": self._next_batch - 1}
                self._log.write(("round.sealed", {**body, **where}))
            else:
                for key in ("round", "model", "content"):
                    if recorded[key] != body[key]:
                        what = f"the seal of round {body['round']}"
                        raise diverged(what, f"{key} {recorded[key]}", f"{key} {body[key]}")
            self.did()
            return recorded is not None

    def last_seal(self) -> tuple[int, Mapping[str, Any]] | None:
        """The journal's last seal of this run: its index and body."""
        return self._log.last("round.sealed") if self._operations == 0 else None

    def jump(self, index: int, seal: Mapping[str, Any]) -> None:
        """Go on behind the seal at this index, as if the app had run up to it."""
        roster = self._log.last("roster.seen", before=index)
        self._roster = list(roster[1]["members"]) if roster else []
        self._operations, self._next_batch = seal["operations"], seal["batches"] + 1
        self._cursor = Cursor(self._log, self._members, index + 1, self._wall())

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
        except (BarnraiseError, OSError) as error:
            self.failure = error
            raise
        finally:
            self._busy.release()

    def did(self) -> None:
        """An operation is complete: roster calls are counted anew."""
        self._operations += 1
        self._roster_calls = 0

    def _go_live(self) -> None:
        """The journal is exhausted: take over what it left open."""
        self._cursor = None
        if self._fleet is None:
            return
        for batch in self._open.values():
            self._expect(batch)
            self._redispatch(batch)

    def _redispatch(self, batch: Batch) -> None:
        """Dispatch what has no verdict yet, under the same ids; the batch's clocks restart."""
        assert self._fleet is not None
        batch.sent_at = self._fleet.now()
        if rounds.quorum_reached(self.terms.policy, self._standing(batch)):
            batch.quorum_at = batch.sent_at
        self._fleet.dispatch(batch.pending())

    def _replayed(self, kind: str, said: str) -> Mapping[str, Any] | None:
        """The recorded operation of this kind, or None if the grid is live. Anything else: R101."""
        if self.live:
            if self._fleet is None:
                raise diverged(f"operation {self._operations + 1}", "the run is closed", said)
            return None
        assert self._cursor is not None
        entry = self._cursor.upcoming()
        if entry is None or entry.type != kind:
            recorded = entry.type if entry else "nothing"
            raise diverged(f"operation {self._operations + 1}", recorded, said)
        return self._cursor.take().body

    # --- the roster -----------------------------------------------------------------------------

    def _recorded_roster(self) -> list[str] | None:
        """The roster that the journal holds for this very call, if it changed there."""
        if self.live:
            return None
        assert self._cursor is not None
        entry = self._cursor.upcoming()
        if entry is None or entry.type != "roster.seen":
            return None
        where = (entry.body["operations"], entry.body["call"])
        if where != (self._operations, self._roster_calls):
            return None
        return list(self._cursor.take().body["members"])

    def _see_roster(self) -> None:
        assert self._fleet is not None
        current = [m.name for m in self._fleet.roster()]
        if current != self._roster:
            self._roster = current
            where = {"operations": self._operations, "call": self._roster_calls}
            self._log.write(("roster.seen", {**where, "members": current}))

    def _check_stall(self) -> None:
        limit = self.terms.stall_after
        if limit is not None and self._roster_calls >= limit and self.live:
            raise BarnraiseError(
                "A202",
                f"the ServerApp waits for more members than the {len(self._roster)} there are",
                f"it asked for the roster {self._roster_calls} times in a row and sent nothing: "
                + ", ".join(self._roster),
                next="give more sites (--sites N), or lower the strategy's min_available_nodes",
            )

    # --- sending --------------------------------------------------------------------------------

    def _drafts(self, messages: Iterable[Message]) -> tuple[list[Draft], list[Message]]:
        """What the app asks for, its content in the store; and errors for unknown destinations."""
        sink = self._blobs if self.live else HashOnly(self._blobs)
        contents: dict[int, tuple[RecordDict, str]] = {}
        drafts, errors = [], []
        for message in list(messages):
            records, meta = message.content, message.metadata
            if id(records) not in contents:
                envelope = flower.encode(records, sink).encode()
                contents[id(records)] = (records, sink.put(iter([memoryview(envelope)])))
            content = contents[id(records)][1]
            name = self._names.get(meta.dst_node_id)
            if name is None:
                errors.append(self._unreachable(meta.dst_node_id, meta.message_type, content))
                continue
            member = self._members[name]
            drafts.append(Draft(member, meta.message_type, meta.group_id, content, meta.ttl))
        return drafts, errors

    def _unreachable(self, node_id: int, type_: str, content: str) -> Message:
        header = flower.Header(self.terms.run_id, content, node_id, type_, "", 0.0, 0.0)
        return flower.failed(header, Failure(REFUSED, f"M111: node {node_id} is not on the roster"))

    def _send(self, drafts: Sequence[Draft], kind: str, timeout: float | None) -> Batch:
        """The batch of these drafts: recalled from the journal, or recorded and dispatched."""
        number = self._next_batch
        orders = number_orders(self.terms.run, number, drafts, self._wall())
        canonical = {o.id: o for o in sorted(orders, key=lambda o: o.member)}
        limit = min([d.ttl for d in drafts] + ([timeout] if timeout is not None else []))
        batch = Batch(number, kind, drafts[0].type, canonical, limit)
        body = self._replayed("batch.sent", _describe(batch))
        self._next_batch += 1
        if body is not None:
            batch = self._recall(batch, body)
        else:
            self._blobs.sync()
            self._log.write(("batch.sent", sent_body(batch)))
            self._dispatch(batch)
        self.did()
        return batch

    def _recall(self, batch: Batch, body: Mapping[str, Any]) -> Batch:
        """The recorded batch, once the app has shown that it asks for the same."""
        assert self._cursor is not None
        recorded = self._cursor.batches[body["batch"]]
        if recorded.number != batch.number or set(recorded.orders) != set(batch.orders):
            where = f"batch {batch.number} (operation {self._operations + 1})"
            raise diverged(where, _describe(recorded), _describe(batch, recorded))
        self._open[batch.number] = recorded
        self._announce(recorded, replayed=True)
        self._cursor.upcoming()
        if recorded.kind == "send" and recorded.closed is not None:
            self._finish(recorded, replayed=True)
        elif recorded.kind == "send" and not self.live:
            raise diverged(
                f"batch {batch.number}", "the batch was never closed", "a later operation"
            )
        return recorded

    def _dispatch(self, batch: Batch) -> None:
        assert self._fleet is not None
        batch.sent_at = self._fleet.now()
        self._open[batch.number] = batch
        self._expect(batch)
        self._announce(batch, replayed=False)
        self._fleet.dispatch(list(batch.orders.values()))

    def _expect(self, batch: Batch) -> None:
        """Tell the intake what each reply must be; what is already judged stays judged."""
        sizes: dict[str, tuple[int, dict[str, Any]]] = {}
        for order in batch.orders.values():
            if order.content not in sizes:
                sizes[order.content] = self._plan(order)
            size, arrays = sizes[order.content]
            self._intake.open(self._expectation(batch, order, size, arrays))
        batch.sent_bytes = sum(sizes[o.content][0] for o in batch.orders.values())
        for judged in batch.judged():
            self._intake.already(judged)

    def _plan(self, order: Order) -> tuple[int, dict[str, Any]]:
        envelope = self._evidence.envelope(order.content)
        size = self._blobs.size(order.content) + sum(self._blobs.size(b) for b in envelope.blobs())
        arrays: dict[str, Any] = {}
        if rounds.category_of(order.type) == "train":
            for name, record in envelope.records:
                if isinstance(record, Arrays) and not any(e.raw for e in record.entries):
                    specs = self._blobs.specs(record.blob)
                    if any(s.dtype.kind == "f" for s in specs.values()):
                        arrays[name] = {key: (s.dtype, s.shape) for key, s in specs.items()}
        return size, arrays

    def _expectation(
        self, batch: Batch, order: Order, size: int, arrays: dict[str, Any]
    ) -> Expectation:
        assert self._fleet is not None
        terms = self.terms
        payload = statements.reply_payload(
            terms.federation, terms.run, order.id, "", statements.NO_POLICY
        )
        del payload["content"]
        train = rounds.category_of(order.type) == "train"
        return Expectation(
            order.id,
            batch.number,
            order.member.name,
            order.member.public_key if self._fleet.signed else None,
            payload,
            terms.size_cap or SIZE_FACTOR * size + SIZE_FLOOR,
            arrays,
            self.weight if train else None,
        )

    # --- waiting --------------------------------------------------------------------------------

    def _standing(self, batch: Batch) -> rounds.Standing:
        return rounds.Standing(
            rounds.category_of(batch.type),
            len(batch.orders),
            len(batch.accepted),
            len(batch.refused),
            batch.sent_at,
            batch.quorum_at,
            batch.limit,
        )

    def _drive(self, batch: Batch) -> None:
        """Take arrivals until the policy closes the batch; the close is durable on return."""
        assert self._fleet is not None
        said = ""
        while True:
            now = self._fleet.now()
            decision = rounds.decide(self.terms.policy, self._standing(batch), now)
            if decision.close:
                break
            if decision.reason != said:
                said = decision.reason
                self._watch(events.Waiting(_waiting(batch, decision, now)))
            self._receive(self._fleet.arrivals(decision.until))
        self._close(batch, decision.reason)

    def _receive(self, deliveries: Sequence[Delivery]) -> None:
        """One verdict for each delivery: blobs durable, then entries, then receipts."""
        verdicts = [(d, *self._intake.judge(d, self._evidence)) for d in deliveries]
        judged = [(d, v, n) for d, v, n in verdicts if v.kind in ("accepted", "refused", "late")]
        if not judged:
            return
        self._blobs.sync()
        entries = self._log.write(*(self._fact(d, v, n) for d, v, n in judged))
        receipts = []
        for (delivery, verdict, number), entry in zip(judged, entries, strict=True):
            self._apply(delivery, verdict, number)
            receipts.append(Receipt(delivery.order, verdict.kind, verdict.reason, entry))
        assert self._fleet is not None
        self._fleet.acknowledge(receipts)

    def _fact(
        self, delivery: Delivery, verdict: Verdict, number: int
    ) -> tuple[str, dict[str, Any]]:
        statement = dict(delivery.statement) if delivery.statement else None
        if verdict.kind == "late":
            body = {"batch": number, "order": delivery.order, "member": delivery.member}
            body |= {"content": delivery.content, "bytes": delivery.size, "statement": statement}
            return "reply.late", {**body, "code": verdict.code, "reason": verdict.reason}
        return verdict_fact(
            self._open[number],
            delivery.order,
            verdict.kind,
            delivery.content,
            delivery.size,
            statement,
            verdict.code,
            verdict.reason,
        )

    def _apply(self, delivery: Delivery, verdict: Verdict, number: int) -> None:
        batch = self._open.get(number)
        seconds = 0.0
        if batch is not None and verdict.kind != "late":
            batch.received += delivery.size
            seconds = delivery.at - batch.sent_at
            if verdict.kind == "accepted":
                batch.accepted[delivery.order] = delivery.content
                standing = self._standing(batch)
                if batch.quorum_at is None and rounds.quorum_reached(self.terms.policy, standing):
                    batch.quorum_at = delivery.at
            else:
                batch.refused[delivery.order] = (verdict.code, verdict.reason)
        reason = f"{verdict.code}: {verdict.reason}" if verdict.code else ""
        self._watch(
            events.Answered(number, delivery.member, verdict.kind, reason, delivery.size, seconds)
        )

    # --- closing ----------------------------------------------------------------------------------

    def _close(self, batch: Batch, reason: str) -> None:
        category = rounds.category_of(batch.type)
        aside = self._set_aside(batch) if category in ("train", "evaluate") else {}
        counted = len(batch.accepted) - len(aside)
        body = {
            "batch": batch.number,
            "reason": reason,
            "accepted": {o: c for o, c in batch.accepted.items() if o not in aside},
            "set_aside": aside,
            "absent": sorted(o.member.name for o in batch.pending()),
            "void": rounds.is_void(self.terms.policy, category, counted),
        }
        self._log.write(("batch.closed", body))
        close(batch, body)
        self._finish(batch, replayed=False)

    def _set_aside(self, batch: Batch) -> dict[str, str]:
        if self.terms.mixed_replies or batch.kind != "send":
            return {}
        envelopes = {
            order: self._evidence.envelope(batch.accepted[order])
            for order in batch.orders
            if order in batch.accepted
        }
        return outliers(envelopes)

    def _finish(self, batch: Batch, *, replayed: bool) -> None:
        """Count a closed batch, tell the watcher, and let go of it."""
        kind = "train " if rounds.category_of(batch.type) == "train" else ""
        for outcome, n in (("accepted", len(batch.accepted)), ("refused", len(batch.refused))):
            self.counts[outcome] += n
            if kind:
                self.counts[kind + outcome] += n
        for order, (code, why) in batch.refused.items():
            self.last_refusals[batch.orders[order].member.name] = f"{code}: {why}"
        self._digests[batch.number] = digest_of(batch.digest())
        self._intake.close(batch.number)
        self._open.pop(batch.number, None)
        if self._cursor is not None:
            self._cursor.batches.pop(batch.number, None)
        self._watch(self._closed_event(batch, replayed))

    def _closed_event(self, batch: Batch, replayed: bool) -> events.BatchClosed:
        names = {o: order.member.name for o, order in batch.orders.items()}
        now = self._fleet.now() if self._fleet is not None else batch.sent_at
        return events.BatchClosed(
            batch.number,
            batch.type,
            tuple(names[o] for o in batch.orders if o in batch.accepted),
            {names[o]: f"{code}: {why}" for o, (code, why) in batch.refused.items()},
            {o.member.name: "no reply before the batch closed" for o in batch.pending()},
            batch.void,
            batch.closed or "",
            batch.received,
            0.0 if replayed else now - batch.sent_at,
            replayed,
        )

    def _announce(self, batch: Batch, *, replayed: bool) -> None:
        names = tuple(o.member.name for o in batch.orders.values())
        self._watch(
            events.BatchSent(batch.number, batch.type, names, batch.sent_bytes, replayed=replayed)
        )

    # --- handing out ------------------------------------------------------------------------------

    def _settled(self, batch: Batch) -> list[str]:
        """The judged orders in canonical order."""
        judged = batch.judged()
        return [order for order in batch.orders if order in judged]

    def _reply(self, batch: Batch, order: str) -> Message:
        header = batch.orders[order].header(self.terms.run_id)
        if order in batch.refused:
            code, reason = batch.refused[order]
            return flower.failed(header, Failure(REFUSED, f"{code}: {reason}"))
        envelope = self._evidence.envelope(batch.accepted[order])
        return flower.reply_to_order(header, flower.decode(envelope, self._blobs))

    def _pull(self, wanted: set[str]) -> set[str]:
        """Which of these orders' replies are handed out now; on record if there are any."""
        if not self.live:
            return self._recorded_pull(wanted)
        if self._fleet is None:
            return set()
        while arrived := self._fleet.arrivals(self._fleet.now()):
            self._receive(arrived)
        ready = {
            order
            for batch in self._open.values()
            for order in batch.judged() & wanted - batch.pulled
        }
        if ready:
            self._log.write(("batch.pulled", {"orders": sorted(ready)}))
            for batch in self._open.values():
                batch.pulled |= ready & batch.orders.keys()
            self.did()
        return ready

    def _recorded_pull(self, wanted: set[str]) -> set[str]:
        assert self._cursor is not None
        entry = self._cursor.upcoming()
        if entry is None or entry.type != "batch.pulled" or not set(entry.body["orders"]) <= wanted:
            return set()
        ready = set(self._cursor.take().body["orders"])
        self._cursor.upcoming()
        self.did()
        return ready

    def _close_if_pulled(self, batch: Batch) -> None:
        if batch.kind != "push" or batch.pulled < batch.orders.keys():
            return
        if batch.closed is None and self.live:
            self._close(batch, "all answered")
        elif batch.closed is not None:
            self._finish(batch, replayed=True)

    # --- the end ------------------------------------------------------------------------------------

    def close_open_batches(self) -> None:
        """The app is done: what it pushed and never pulled is closed as it stands."""
        live = self.live and self._fleet is not None
        for batch in sorted(self._open.values(), key=lambda b: b.number):
            if batch.closed is not None:
                self._finish(batch, replayed=True)
            elif live:
                self._close(batch, "the run ended")

    def close(self, body: Mapping[str, Any]) -> None:
        """Put the end of the run on record, or hold it against the recorded end (R102)."""
        recorded = self._replayed("run.closed", "the run ends")
        if recorded is None:
            self._blobs.sync()
            self._log.write(("run.closed", body))
        elif recorded["model"] != body["model"]:
            raise BarnraiseError(
                "R102",
                "the replay ended in another model",
                f"recorded: {recorded['model']}\nnow:      {body['model']}",
                next="find what in the ServerApp is not deterministic: clock, randomness, state",
            )

    def batches_digest(self) -> str:
        """The final digest of an app that names no model: its closed batches in order."""
        return digest_of([self._digests[n] for n in sorted(self._digests)])


def _describe(batch: Batch, beside: Batch | None = None) -> str:
    """A batch in one line; beside another, only how it differs."""
    orders = list(batch.orders.values())
    contents = sorted({o.content[:19] for o in orders})
    members = ", ".join(o.member.name for o in orders)
    line = f"{batch.kind} {batch.type} to {members}; content {', '.join(contents)}"
    groups = sorted({o.group for o in orders if o.group})
    return line + (f"; group {', '.join(groups)}" if groups else "")


def _waiting(batch: Batch, decision: rounds.Decision, now: float) -> str:
    names = ", ".join(o.member.name for o in batch.pending())
    ahead = f"closes in {decision.until - now:.0f} s" if decision.until is not None else "no limit"
    return f"batch {batch.number} ({batch.type}) waits for {names}; {ahead}"
