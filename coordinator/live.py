"""Live batches: dispatched to the fleet, judged as replies arrive, closed by the round policy.

Every step is durable before the next one begins: blobs, then entries, then receipts; the close before
the app sees a reply (DESIGN §6). It knows the fleet, and nothing of replay or of the app.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from barnraise.coordinator import batches, events, rounds
from barnraise.coordinator.batches import Batch
from barnraise.coordinator.evidence import StoredEvidence
from barnraise.coordinator.fleet import Delivery, Fleet, Order, Receipt, reply_cap
from barnraise.coordinator.intake import (
    FREE_HEADERS,
    FREE_VALUES,
    Demands,
    Expectation,
    Intake,
    Verdict,
    outliers,
)
from barnraise.coordinator.runlog import RunLog, verdict_fact
from barnraise.coordinator.word import Word
from barnraise.protocols import statements
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import Arrays
from barnraise.protocols.telling import REVOKED

ENTERED = ("accepted", "refused", "late")  # the verdicts that are entries


@dataclass(frozen=True)
class Terms:
    """What a run is held to."""

    federation: str
    run: str
    run_id: int
    policy: rounds.Policy = field(default_factory=rounds.Policy)
    size_cap: int | None = None
    mixed_replies: bool = False
    stall_after: int | None = None
    word: Word = field(default_factory=Word)


@dataclass(frozen=True)
class _Plan:
    """What an order carries: its size in bytes; the dtypes and shapes that a train reply must keep; how many
    values its envelope holds, and how many bytes describe its arrays."""

    size: int
    arrays: Mapping[str, Any]
    values: int
    headers: int


class Live:
    """Owned by the Grid, in whose thread everything happens.

    `open` is the Grid's: the batches that are out, or closed but not yet pulled. `unknown` counts the
    deliveries that belong to no order of this run or of their member; they leave no entry.
    """

    def __init__(
        self,
        terms: Terms,
        log: RunLog,
        blobs: BlobStore,
        evidence: StoredEvidence,
        fleet: Fleet,
        open_: Mapping[int, Batch],
        watch: events.Watcher,
    ) -> None:
        self._terms, self._log, self._blobs, self._evidence = terms, log, blobs, evidence
        self._fleet, self._open, self._watch = fleet, open_, watch
        self._intake = Intake()
        self.unknown = 0

    def roster(self) -> list[str]:
        """The names of the members admitted to the run, in canonical order."""
        return [m.name for m in self._fleet.roster()]

    def now(self) -> float:
        return self._fleet.now()

    # --- out --------------------------------------------------------------------------------------

    def dispatch(self, batch: Batch, demands: Demands) -> None:
        """Send a new batch's orders. `demands` are those of the rule in force."""
        self._terms.word.closes()  # what was said before it is not about it
        batch.sent_at = self._fleet.now()
        self._expect(batch, demands)
        self._watch(batches.sent_event(batch, replayed=False))
        self._fleet.dispatch(list(batch.orders.values()))

    def redispatch(self, batch: Batch, demands: Demands) -> None:
        """Send what has no verdict yet, under the same ids; the batch's clocks restart."""
        batch.sent_at = self._fleet.now()
        if rounds.quorum_reached(self._terms.policy, batch.standing()):
            batch.quorum_at = batch.sent_at
        self._expect(batch, demands)
        self._fleet.dispatch(batch.pending())

    def recall_missed(self, missed: Iterable[tuple[str, int, str]], late: Iterable[str]) -> None:
        """What earlier processes closed without a reply, as (order, batch, member); and what came late."""
        unanswered = {}
        for order, batch, member in missed:
            self._intake.missed(order, batch, member)
            unanswered[order] = member
        for order in late:
            self._intake.already(order)
            unanswered.pop(order, None)
        self._fleet.withdraw(unanswered)

    def _expect(self, batch: Batch, demands: Demands) -> None:
        """Tell the intake what each reply must be; what is already judged stays judged."""
        plans: dict[str, _Plan] = {}
        for order in list(batch.orders.values()):
            if order.content not in plans:
                plans[order.content] = self._plan(order)
            cap = reply_cap(plans[order.content].size, self._terms.size_cap)
            batch.orders[order.id] = order = replace(order, cap=cap)
            self._intake.open(self._expectation(batch, order, plans[order.content], demands))
        batch.sent_bytes = sum(plans[o.content].size for o in batch.orders.values())
        for judged in batch.judged():
            self._intake.already(judged)

    def _plan(self, order: Order) -> _Plan:
        envelope = self._evidence.envelope(order.content)
        size = self._blobs.size(order.content) + sum(self._blobs.size(b) for b in envelope.blobs())
        arrays: dict[str, Any] = {}
        if rounds.category_of(order.type) == "train":
            for name, record in envelope.records:
                if isinstance(record, Arrays) and not any(e.raw for e in record.entries):
                    specs = self._blobs.specs(record.blob)
                    if any(s.dtype.kind == "f" for s in specs.values()):
                        arrays[name] = {key: (s.dtype, s.shape) for key, s in specs.items()}
        headers = sum(map(self._evidence.header, envelope.blobs()))
        return _Plan(size, arrays, self._evidence.values(order.content), headers)

    def _expectation(
        self, batch: Batch, order: Order, plan: _Plan, demands: Demands
    ) -> Expectation:
        terms = self._terms
        payload = statements.reply_payload(
            terms.federation, terms.run, order.id, "", statements.NO_POLICY
        )
        del payload["content"]
        category = rounds.category_of(order.type)
        train, weight = category == "train", demands.weight
        if category == "query" or (weight is not None and weight.whole and not train):
            weight = None  # ours sets such a reply aside itself; Flower's would divide by the sum
        return Expectation(
            order.id,
            batch.number,
            order.member.name,
            order.member.public_key if self._fleet.signed else None,
            payload,
            order.cap,
            plan.arrays,
            weight,
            demands.coded if train else None,
            averaged=category != "query",
            values=FREE_VALUES + 4 * plan.values,
            headers=FREE_HEADERS + 4 * plan.headers,
        )

    # --- in -----------------------------------------------------------------------------------------

    def drive(self, batch: Batch) -> None:
        """Take arrivals until the policy closes the batch; the close is durable on return."""
        policy, told = self._terms.policy, ""
        while True:
            now = self._fleet.now()
            decision = self._terms.word.heeded(self._decide(batch, now))
            if decision.close:
                break
            if decision.reason != told:
                told = decision.reason
                self._watch(batches.waiting(policy, batch, decision, now))
            self._receive(self._fleet.arrivals(decision.until))
        self.close(batch, decision.reason)

    def poll(self) -> None:
        """Take what is in, without waiting; close the pushed batches whose time ran out."""
        self._terms.word.check()
        while arrived := self._fleet.arrivals(self._fleet.now()):
            self._receive(arrived)
        for batch in list(self._open.values()):
            decision = self._decide(batch, self._fleet.now())
            if batch.closed is None and decision.close and batch.pending():
                self.close(batch, decision.reason)

    def _decide(self, batch: Batch, now: float) -> rounds.Decision:
        """What the policy says; who is off the roster is not waited for."""
        roster = set(self.roster())
        batch.gone = frozenset(o.member.name for o in batch.orders.values()) - roster
        return rounds.decide(self._terms.policy, batch.standing(), now)

    def _receive(self, deliveries: Sequence[Delivery]) -> None:
        """One verdict for each delivery: blobs durable, then entries, then receipts."""
        verdicts = [(d, *self._intake.judge(d, self._evidence)) for d in deliveries]
        judged = [(d, v, number) for d, v, number in verdicts if v.kind in ENTERED]
        receipts = self._enter(judged) if judged else []
        receipts += self._again([d for d, v, _ in verdicts if v.kind not in ENTERED])
        if receipts:
            self._fleet.acknowledge(receipts)

    def _enter(self, judged: Sequence[tuple[Delivery, Verdict, int]]) -> list[Receipt]:
        self._blobs.sync()
        facts = [verdict_fact(d, number, v.kind, v.code, v.reason) for d, v, number in judged]
        entries = self._log.write(*facts)
        receipts = []
        for (delivery, verdict, number), entry in zip(judged, entries, strict=True):
            self._apply(delivery, verdict, number)
            receipts.append(Receipt(delivery.order, verdict.kind, verdict.reason, entry))
        return receipts

    def _again(self, deliveries: Sequence[Delivery]) -> list[Receipt]:
        """The same receipts for repeats, at whatever age; the others are counted."""
        receipts = []
        for delivery in deliveries:
            if (receipt := self._log.receipt_again(delivery)) is not None:
                receipts.append(receipt)
            else:
                self.unknown += 1
        return receipts

    def _apply(self, delivery: Delivery, verdict: Verdict, number: int) -> None:
        seconds = 0.0
        if verdict.kind != "late":
            batch = self._open[number]
            batch.received += delivery.size
            seconds = delivery.at - batch.sent_at
            if verdict.kind == "accepted":
                batch.accepted[delivery.order] = delivery.content
                reached = rounds.quorum_reached(self._terms.policy, batch.standing())
                if batch.quorum_at is None and reached:
                    batch.quorum_at = delivery.at
            else:
                batch.refused[delivery.order] = (verdict.code, verdict.reason)
        reason = f"{verdict.code}: {verdict.reason}" if verdict.code else ""
        self._watch(
            events.Answered(number, delivery.member, verdict.kind, reason, delivery.size, seconds)
        )

    # --- closing --------------------------------------------------------------------------------------

    def close(self, batch: Batch, reason: str) -> None:
        """Close the batch as it stands; durable on return. From here on its replies are late."""
        aside = self._set_aside(batch)
        body = batches.closed_body(self._terms.policy, batch, reason, aside)
        self._log.write(("batch.closed", body))
        batches.close(batch, body)
        self._intake.close(batch.number)
        if pending := batch.pending():
            self._fleet.withdraw({o.id: o.member.name for o in pending})

    def _set_aside(self, batch: Batch) -> dict[str, str]:
        """Replies of members that were revoked meanwhile, and such as would end a Flower strategy.

        What was pushed may be with the app already.
        """
        if batch.kind != "send":
            return {}
        replies = {o: batch.accepted[o] for o in batch.orders if o in batch.accepted}
        gone = self._terms.word.excluded(batch.orders[o].member.name for o in replies)
        aside = {o: REVOKED for o in replies if batch.orders[o].member.name in gone}
        if self._terms.mixed_replies or batch.category == "query":
            return aside
        left = {o: self._evidence.envelope(c) for o, c in replies.items() if o not in aside}
        return aside | outliers(left)
