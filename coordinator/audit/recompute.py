"""One round recomputed: what its seal names must follow, to the byte, from what the log says went before.

The numbered steps of `recompute` are the campaign's (`coordinator.campaign`), with the decision on record in
place of a new one. The run's secret decides only whom a round asks, which the log tells; so it is not needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from barnraise.coordinator.audit.contents import Contents
from barnraise.coordinator.audit.differences import differing
from barnraise.coordinator.audit.story import EVALUATE, TRAIN, RoundRecord, RunRecord
from barnraise.coordinator.batches import Batch
from barnraise.coordinator.campaign import ARRAYS, plain
from barnraise.coordinator.seals import MODEL, STATE
from barnraise.protocols import flower
from barnraise.protocols.canonical import canonical, digest
from barnraise.protocols.charter import Charter
from barnraise.protocols.content import Arrays, Failure
from barnraise.strategies import ExactStrategy, make
from barnraise.strategies.records import open_model
from barnraise.strategies.reduction import Disagreement
from barnraise.strategies.replies import Contribution, SetAside, contribution


class Differs(Exception):
    """What of a round does not follow: `what` in one line, `how` in more."""

    def __init__(self, what: str, *how: str) -> None:
        super().__init__(what)
        self.what, self.how = what, how


@dataclass(frozen=True)
class Recomputed:
    """A round that follows. `contributions` counts those that the rule was given; `void` rounds keep the
    model."""

    number: int
    contributions: int
    void: bool


class RosterGrid:
    """What a rule asks of a grid: who could be asked, and their names."""

    def __init__(self, run: RunRecord, names: Iterable[str]) -> None:
        self._ids = [run.members[name].node_id for name in names]
        self._names = {member.node_id: name for name, member in run.members.items()}

    def get_node_ids(self) -> list[int]:
        return self._ids

    def name_of(self, node_id: int) -> str:
        return self._names[node_id]


@dataclass(frozen=True)
class Bench:
    """What every round of a run is recomputed with."""

    run: RunRecord
    charter: Charter
    contents: Contents

    def rule(self) -> ExactStrategy:
        """The charter's, fresh. Raises C104."""
        strategy, codec = self.charter.strategy, self.charter.training.codec
        return make(strategy.name, strategy.options, 0, codec=codec)

    def grid(self, names: Iterable[str]) -> Grid:
        return cast(Grid, RosterGrid(self.run, names))

    def sealed(self, seal: Mapping[str, Any]) -> tuple[ArrayRecord, RecordDict]:
        """The model and the rule's state in a seal. Raises U102, U103."""
        records = self.contents.records(seal["content"])
        state = RecordDict()
        for name, record in records.items():
            if name.startswith(STATE):
                state[name.removeprefix(STATE)] = record
        return records.array_records[MODEL], state

    def replies(self, batch: Batch) -> list[Message]:
        """What the app was handed, in canonical order: nothing of a void batch, an error for whoever was
        refused or set aside."""
        if batch.void:
            return []
        run_id = int(self.run.run, 16)
        found = []
        for order in batch.orders.values():
            header = order.header(run_id)
            if (content := batch.accepted.get(order.id)) is not None:
                found.append(flower.reply_to_order(header, self.contents.records(content)))
            elif (refused := batch.refused.get(order.id)) is not None:
                found.append(flower.failed(header, Failure(0, ": ".join(refused))))
        return found


def recompute(bench: Bench, record: RoundRecord) -> Recomputed:
    """Raises `Differs`, U102, U103."""
    bench.sealed(record.seal)  # whole, whatever follows
    if record.before is None:
        return _first(bench, record)
    # 1. the round's orders: one batch, one content, the model of the seal before
    batch = only(record, TRAIN)
    base, state = bench.sealed(record.before)
    rule = bench.rule()
    rule.load(state)
    asked = partial(rule.configure_train, record.number, base, ConfigRecord())
    _same_orders(bench, batch, asked(bench.grid(record.roster or bench.run.members)))
    # 2. the next model and state, from the contributions and the decision on record
    replies = bench.replies(batch)
    given = contributions(rule, replies, base, bench)
    decision = record.seal["report"].get("decision", {})
    try:
        arrays, taken = rule.next_model(base, given, record=decision if given else None)
    except Disagreement as error:
        raise Differs(f"the decision on record: {error}", f"on record: {decision}") from None
    # 3. the seal: the same content, and so the same bytes
    model = arrays if arrays is not None else base
    same_content(bench, record, model, rule.state())
    # 4. what was reported: the means of training and of evaluation
    weighted = rule.weighted_by_key
    trained = rule.train_metrics_aggr_fn([c.content for c in taken], weighted) if taken else {}
    report = {
        "rounds": bench.charter.rounds.count,
        "before": record.before["report"]["after"],
        "train": plain(trained) if arrays is not None else {},
        "void": arrays is None,
        "decision": rule.decision(),
        **({"why": rule.stayed} if rule.stayed else {}),
    }
    _same_report(record, report | _evaluated(bench, rule, record, model))
    return Recomputed(record.number, len(given), arrays is None)


def contributions(
    rule: ExactStrategy, replies: Sequence[Message], base: ArrayRecord, bench: Bench
) -> list[Contribution]:
    """What the rule takes of the replies, in canonical order."""
    opened = partial(rule.opened, base=open_model(base))
    grid = cast(RosterGrid, bench.grid(()))
    found = []
    for reply in replies:
        name = grid.name_of(reply.metadata.src_node_id)
        try:
            found.append(contribution(reply, name, rule.weighted_by_key, opened))
        except SetAside:
            continue
    return found


def _first(bench: Bench, record: RoundRecord) -> Recomputed:
    """Round 0: the initial model is what a member made of the task, or the charter's own file."""
    model, state = bench.sealed(record.seal)
    if len(state):
        raise Differs("the seal of round 0 holds a state, and no rule has one yet")
    made = [
        dict(bench.contents.envelope(content).records).get(ARRAYS)
        for batch in record.of("query")
        for content in batch.accepted.values()
    ]
    blobs = [arrays.blob for arrays in made if isinstance(arrays, Arrays)]
    if made and record.seal["model"] not in blobs:
        raise Differs(f"the initial model {record.seal['model']} is of no member's making")
    rule = bench.rule()
    same_content(bench, record, model, rule.state())
    _same_report(record, _evaluated(bench, rule, record, model))
    return Recomputed(0, 0, False)


def only(record: RoundRecord, category: str) -> Batch:
    found = record.of(category)
    if len(found) != 1:
        raise Differs(f"{len(found)} batches {category} between two seals, where one belongs")
    return found[0]


def _same_orders(bench: Bench, batch: Batch, orders: Iterable[Message]) -> None:
    """Whoever was asked was asked with what the rule makes of the seal before."""
    sent = {order.content for order in batch.orders.values()}
    wanted = flower.encode(next(iter(orders)).content, bench.contents)
    if sent == {due := digest(wanted.encode())}:
        return
    how = [f"it must be {due}", *(f"sent was {content}" for content in sorted(sent))]
    raise Differs(
        f"batch {batch.number} ({batch.type}) did not carry the model of the seal before", *how
    )


def same_content(bench: Bench, record: RoundRecord, model: ArrayRecord, state: RecordDict) -> None:
    """Raise `Differs` unless these are, to the byte, what the seal names."""
    records = RecordDict({MODEL: model})
    for name, kept in state.items():
        records[STATE + name] = kept
    envelope = flower.encode(records, bench.contents)
    blob = cast(Arrays, dict(envelope.records)[MODEL]).blob
    seal = record.seal
    if (blob, digest(envelope.encode())) == (seal["model"], seal["content"]):
        return
    what = "the state" if blob == seal["model"] else "the model"
    how = [f"computed: {blob if what == 'the model' else digest(envelope.encode())}"]
    how.append(f"on record: {seal['model'] if what == 'the model' else seal['content']}")
    raise Differs(f"{what} is not the one that follows", *how, *_where(bench, seal, records))


def _where(bench: Bench, seal: Mapping[str, Any], computed: RecordDict) -> list[str]:
    """In which tensors, as far as the sealed ones are here."""
    sealed = bench.contents.records(seal["content"]).array_records
    lines = []
    for name, record in sealed.items():
        if name not in computed.array_records:
            lines.append(f"{name} does not follow at all")
            continue
        found = differing(open_model(computed.array_records[name]), open_model(record))
        lines += [f"{name.removeprefix(STATE)} · {line}" for line in found]
    named = dict(bench.contents.envelope(seal["content"]).records).get(MODEL)
    if isinstance(named, Arrays) and named.blob != seal["model"]:
        lines.append(f"the seal names the model {seal['model']}, and its content {named.blob}")
    return lines


def _evaluated(
    bench: Bench, rule: ExactStrategy, record: RoundRecord, model: ArrayRecord
) -> dict[str, Any]:
    """`after` and `members` of the report: the means over the members' evaluations, if there were any."""
    if record.before is not None and not _is_evaluated(bench.charter, record.number):
        return {"after": record.before["report"]["after"], "members": {}}
    if rule.fraction_evaluate == 0.0:
        return {"after": {}, "members": {}}
    batch = only(record, EVALUATE)
    grid = bench.grid(bench.run.members)
    orders = rule.configure_evaluate(record.number, model, ConfigRecord(), grid)
    _same_orders(bench, batch, orders)
    replies = bench.replies(batch)
    members = {
        cast(RosterGrid, grid).name_of(reply.metadata.src_node_id): plain(metrics)
        for reply in replies
        if reply.has_content()
        for metrics in reply.content.metric_records.values()
    }
    after = plain(rule.aggregate_evaluate(record.number, replies) or {})
    return {"after": after, "members": members}


def _is_evaluated(charter: Charter, number: int) -> bool:
    rounds = charter.rounds
    return number % rounds.evaluate_every == 0 or number == rounds.count


def _same_report(record: RoundRecord, wanted: Mapping[str, Any]) -> None:
    said = record.seal["report"]
    for key, value in wanted.items():
        if canonical(said.get(key)) != canonical(value):
            how = (f"computed: {_short(value)}", f"on record: {_short(said.get(key))}")
            raise Differs(f"the report's {key!r} is not what follows from the replies", *how)


def _short(value: Any) -> str:
    text = canonical(value).decode()
    return text if len(text) <= 400 else text[:400] + "…"
