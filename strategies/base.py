"""`ExactStrategy`: what all our rules share. A flwr `Strategy` like any other, on any Flower grid.

A rule is put together of four parts, each of which can be another:

    opened     a reply's content -> named tensors          plain arrays; codecs decode here
    before     deltas -> deltas, any number                `presteps`: norm bounds, neighbour mixing
    reducer    contributions -> a decision on them         `reducers`: means, medians, Krum, ...
    outer      base and pseudo-gradient -> next model      None: what was reduced is the next model

Of the grid it knows what Flower defines, and members' names if the grid has a `name_of`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from barnraise.protocols.codecs import CODECS, CodecError, open_coded
from barnraise.strategies import sampling
from barnraise.strategies.exact import Arrays, Form, Outer, Step, state_dtype
from barnraise.strategies.presteps import PreStep
from barnraise.strategies.records import again, open_model, record_of
from barnraise.strategies.reducers import Mean, Reducer
from barnraise.strategies.reduction import Reduction, reduced, say_aside
from barnraise.strategies.replies import (
    Contribution,
    NameOf,
    SetAside,
    contribution,
    form_of,
    in_canonical_order,
    mean_metrics,
    misfit,
    name_or_number,
    only_record,
    open_record,
    place_of,
    usual_form,
)

MetricsRule = Callable[[list[RecordDict], str], MetricRecord]
POLL = 0.2
_log = logging.getLogger("flwr")


class Common(TypedDict, total=False):
    """The options of every rule, as `ExactStrategy` explains them."""

    fraction_train: float
    fraction_evaluate: float
    min_train_nodes: int
    min_evaluate_nodes: int
    min_available_nodes: int
    weighted_by_key: str
    arrayrecord_key: str
    configrecord_key: str
    train_metrics_aggr_fn: MetricsRule | None
    evaluate_metrics_aggr_fn: MetricsRule | None
    before: Sequence[PreStep]
    outer: Outer | None
    seed: int
    name_of: NameOf | None
    patience: float
    threads: int | None
    codec: str | None


class ExactStrategy(Strategy):
    """The frame of an exact rule: whom to ask, which replies count, metrics, state.

    Parameters (those of Flower's `FedAvg` mean what they mean there)
    ----------
    fraction_train, fraction_evaluate : the part of the members that is asked, in [0, 1]; 0 skips
    min_train_nodes, min_evaluate_nodes : but so many at least
    min_available_nodes : and so many must be there
    weighted_by_key : the metric, an integer in [1, 2^31), that weighs a reply's arrays and metrics
    arrayrecord_key, configrecord_key : names of the two records of an order
    train_metrics_aggr_fn, evaluate_metrics_aggr_fn : instead of `replies.mean_metrics`
    reducer : how contributions are reduced; default: the weighted mean
    before : pre-steps, in sequence; default: none
    outer : the outer optimizer; default: what was reduced is the next model
    seed : with the round it decides who is asked (`sampling`)
    name_of : node id -> member name; by default the grid's own `name_of`, if it has one
    patience : seconds to wait for members on a grid that has no `name_of`, such as Flower's, where
        nodes may still be connecting; ours starts the app when the members are there
    threads : of the exact pass; default: as many as processors
    codec : the update codec in which replies come (`protocols.codecs`); default: whole models

    Laws
    ----
    The next model is a function of the set of accepted replies, of the model they were asked with and
    of the state: any order of arrival gives the same bytes, on any number of threads. Replies are
    folded in canonical order (`replies.in_canonical_order`) by `exact.advance`. No argument is ever
    changed. A reply that carries an error, lacks the weight, does not fit the model or is not finite
    is set aside with a logged reason; with fewer than `minimum` left the model stays (`None` is returned),
    and so it does if the next one would not be finite.

    Raises `ValueError` for a fraction outside [0, 1] and for an unknown codec.
    """

    def __init__(
        self,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        train_metrics_aggr_fn: MetricsRule | None = None,
        evaluate_metrics_aggr_fn: MetricsRule | None = None,
        *,
        reducer: Reducer | None = None,
        before: Sequence[PreStep] = (),
        outer: Outer | None = None,
        seed: int = 0,
        name_of: NameOf | None = None,
        patience: float = 10.0,
        threads: int | None = None,
        codec: str | None = None,
    ) -> None:
        if codec is not None and codec not in CODECS:
            raise ValueError(f"there is no codec {codec!r}; there are {', '.join(CODECS)}")
        for name, value in (("train", fraction_train), ("evaluate", fraction_evaluate)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"fraction_{name} is {value}; it must lie in [0, 1]")
        self.fraction_train, self.fraction_evaluate = fraction_train, fraction_evaluate
        self.min_train_nodes = min_train_nodes if fraction_train else 0
        self.min_evaluate_nodes = min_evaluate_nodes if fraction_evaluate else 0
        self.min_available_nodes = min_available_nodes
        self.weighted_by_key = weighted_by_key
        self.arrayrecord_key, self.configrecord_key = arrayrecord_key, configrecord_key
        self.train_metrics_aggr_fn = train_metrics_aggr_fn or _mean_of_contents
        self.evaluate_metrics_aggr_fn = evaluate_metrics_aggr_fn or _mean_of_contents
        self.seed, self.name_of = seed, name_of
        self.patience, self.threads, self.codec = patience, threads, codec
        self.reduction = Reduction(reducer or Mean(), tuple(before))
        self.outer = outer
        self._names = name_of
        self._decision: Mapping[str, Any] = {}
        self.stayed = ""  # why the last round left the model as it was
        self._base: ArrayRecord | None = None
        self._state: dict[str, ArrayRecord] = {}

    # --- the parts of a rule ------------------------------------------------------------------

    def opened(self, content: RecordDict, base: Arrays | None) -> Arrays:
        """The model that a reply to a train order holds, by array name; hardly anything is read yet.

        `base` is the model of the order. With a codec the arrays are read as float64: base + delta.
        """
        arrays = open_record(only_record(content, self.arrayrecord_key))
        if self.codec is None:
            return arrays
        if base is None:
            raise SetAside("it is an update, and of which model is not known")
        try:
            return open_coded(arrays, base, self.codec)
        except CodecError as error:
            raise SetAside(str(error)) from None

    def beside(self, purpose: str, arrays: ArrayRecord) -> Mapping[str, ArrayRecord]:
        """Further records of an order to train or evaluate `arrays`."""
        return {}

    @property
    def minimum(self) -> int:
        """The fewest contributions for which the rule is defined."""
        return max(1, self.reduction.minimum)

    def decision(self) -> dict[str, Any]:
        """What was decided in the last round that was aggregated, as JSON; empty where nothing was.

        {"selected": names}, {"weights": {name: float hex}} (what lacks to 1 is the base's), or, for a
        coordinate-wise reducer behind pre-steps, {"members": names, "rows": ...} (`decisions.sealed`).
        """
        return dict(self._decision)

    @property
    def intake_weight(self) -> str:
        """The metric that the engine's intake must demand of train replies, an integer in [1, 2^31)."""
        return self.weighted_by_key

    @property
    def intake_codec(self) -> tuple[str, str] | None:
        """The record of the order whose arrays the intake must take in a codec, and that codec."""
        return (self.arrayrecord_key, self.codec) if self.codec is not None else None

    # --- state ----------------------------------------------------------------------------------

    def state(self) -> RecordDict:
        """What the rule keeps from round to round; empty before the first and for rules without."""
        return RecordDict({name: again(arrays) for name, arrays in self._state.items()})

    def load(self, state: RecordDict) -> None:
        """Go on from what `state` returned. Raises `ValueError` for any other rule's state."""
        names = self.outer.state if self.outer else ()
        if state and (set(state) != set(names) or set(state.array_records) != set(names)):
            held, kept = ", ".join(state), ", ".join(names) or "none"
            raise ValueError(f"the state holds {held}; that of {type(self).__name__} is {kept}")
        self._state = {name: again(state.array_records[name]) for name in state}

    # --- asking ---------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the sampled members to train `arrays`. Raises R104 if there are too few members."""
        self._base = again(arrays)
        share = (self.fraction_train, max(self.min_train_nodes, self.minimum))
        return self._ask(sampling.TRAIN, share, server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the sampled members to evaluate `arrays`. Raises R104 if there are too few members."""
        share = (self.fraction_evaluate, self.min_evaluate_nodes)
        return self._ask(sampling.EVALUATE, share, server_round, arrays, config, grid)

    def _ask(
        self,
        purpose: str,
        share: tuple[float, int],
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> list[Message]:
        fraction, at_least = share
        if fraction == 0.0:
            return []
        members = self._members(grid, max(at_least, self.min_available_nodes))
        names = [name for name, _ in members]
        count = sampling.how_many(len(members), fraction, at_least)
        if len(members) < (needed := max(count, self.min_available_nodes)):
            minimum = self.minimum if purpose == sampling.TRAIN else 1
            raise sampling.too_few(purpose, server_round, names, count, needed, minimum)
        asked = sampling.sample(
            names, count, seed=self.seed, server_round=server_round, purpose=purpose
        )
        _log.info("configure_%s: asks %s of %s members", purpose, len(asked), len(members))
        content = RecordDict(
            {
                self.arrayrecord_key: again(arrays),
                **self.beside(purpose, arrays),
                self.configrecord_key: ConfigRecord({**config, "server-round": server_round}),
            }
        )
        kind = MessageType.TRAIN if purpose == sampling.TRAIN else MessageType.EVALUATE
        return [Message(content, members[i][1], kind) for i in asked]

    def _members(self, grid: Grid, needed: int) -> list[tuple[str, int]]:
        """The roster as (name, node id) in canonical order; waits at most `patience` seconds."""
        own: NameOf | None = getattr(grid, "name_of", None)
        self._names = self.name_of or own
        until = time.monotonic() + (self.patience if own is None else 0.0)
        told = False
        while True:
            node_ids = list(grid.get_node_ids())
            if len(node_ids) >= needed or time.monotonic() >= until:
                break
            if not told:
                what = "%s of %s members are there; waiting %s s for the others"
                _log.info(what, len(node_ids), needed, self.patience)
                told = True
            time.sleep(POLL)
        node_ids.sort(key=lambda node_id: place_of(node_id, self._names))
        return [(name_or_number(node_id, self._names), node_id) for node_id in node_ids]

    # --- taking -----------------------------------------------------------------------------------

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next model and the mean train metrics; (None, None) if no reply counts.

        Raises `RuntimeError` if the rule takes an outer step and `configure_train` was not called for
        this round, `ValueError` if the loaded state is not of this model.
        """
        base, self._base = self._base, None
        model = open_model(base) if base is not None else None
        opened = partial(self.opened, base=model)
        found = self._contributions("aggregate_train", replies, opened)
        arrays, taken = self.next_model(base, found)
        if arrays is None:
            return None, None
        contents = [c.content for c in taken]
        return arrays, self.train_metrics_aggr_fn(contents, self.weighted_by_key)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """The mean evaluation metrics, or None if no reply counts."""
        found = self._contributions("aggregate_evaluate", replies, None)
        if not found:
            return None
        return self.evaluate_metrics_aggr_fn([c.content for c in found], self.weighted_by_key)

    def next_model(
        self,
        base: ArrayRecord | None,
        contributions: Sequence[Contribution],
        record: Mapping[str, Any] | None = None,
    ) -> tuple[ArrayRecord | None, Sequence[Contribution]]:
        """The model that follows from `base` and these contributions, and those of them that counted.

        `contributions` is in canonical order. The state moves on. Without a `base` (for rules that need
        none) the model has the form that most contributions have. `record` is a sealed decision
        (`decision`): it is followed, or `reduction.Disagreement` raised.
        """
        self._decision = {}
        self.stayed = ""
        if not contributions:
            self.stayed = "no reply counts: the model stays"
            return None, []
        if base is None and self.outer is not None:
            raise RuntimeError(
                "aggregate_train takes an outer step: call configure_train before it"
            )
        tensors = open_model(base) if base is not None else None
        form = form_of(tensors) if tensors is not None else usual_form(contributions)
        arrays = self.reduction, form, tensors, contributions, self._step(tensors, form)
        outcome = reduced(*arrays, threads=self.threads, record=record)
        if isinstance(outcome, str):
            self.stayed = outcome
            _log.warning(outcome)
            return None, []
        self._decision = outcome.decision
        self._state = {name: record_of(state) for name, state in outcome.made.state.items()}
        return record_of(outcome.made.model), outcome.taken

    def _contributions(
        self,
        what: str,
        replies: Iterable[Message],
        opened: Callable[[RecordDict], Arrays] | None,
    ) -> list[Contribution]:
        ordered = in_canonical_order(replies, self._names)
        found = []
        for reply in ordered:
            name = name_or_number(reply.metadata.src_node_id, self._names)
            try:
                found.append(contribution(reply, name, self.weighted_by_key, opened))
            except SetAside as reason:
                say_aside(name, str(reason))
        _log.info("%s: %s replies, %s set aside", what, len(ordered), len(ordered) - len(found))
        return found

    def _step(self, base: Arrays | None, form: Form) -> Step | None:
        if self.outer is None or base is None:
            return None
        if not self._state:
            return Step(self.outer, base)
        state = {name: open_model(record) for name, record in self._state.items()}
        floating = {k: (state_dtype(d), s) for k, (d, s) in form.items() if d.kind in "fc"}
        for name, arrays in state.items():
            if (wrong := misfit(arrays, floating)) is not None:
                raise ValueError(f"the state {name!r} is not of this model: {wrong}")
        return Step(self.outer, base, state)

    # --- showing ----------------------------------------------------------------------------------

    def summary(self) -> None:
        """Log the rule's settings, as Flower's strategies do."""
        for line in self.settings():
            _log.info("\t├──> %s", line)

    def settings(self) -> list[str]:
        """The rule's settings, a line each."""
        parts = [
            f"Reduces by {_said(self.reduction.reducer)}",
            *(f"Before that: {_said(step)}" for step in self.reduction.before),
            *([f"Outer step: {_said(self.outer)}"] if self.outer else []),
        ]
        return [
            *parts,
            f"Trains on {self.fraction_train:.0%} of the members, at least {self.min_train_nodes}",
            f"Evaluates on {self.fraction_evaluate:.0%}, at least {self.min_evaluate_nodes}",
            f"Needs at least {self.min_available_nodes} members",
            f"Weighs replies by {self.weighted_by_key!r}",
            f"Needs {self.minimum} replies at least",
        ]


def _said(part: object) -> str:
    settings = (f"{k} {v}" for k, v in vars(part).items() if k not in ("minimum", "state"))
    return ", ".join([type(part).__name__, *settings])


def _mean_of_contents(contents: list[RecordDict], weighted_by: str) -> MetricRecord:
    holders = [
        next(m for m in content.metric_records.values() if weighted_by in m) for content in contents
    ]
    return mean_metrics([(m, cast(int, m[weighted_by])) for m in holders], weighted_by)
