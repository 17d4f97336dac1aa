"""The model that would have followed a round without some member's contribution, or by another strategy.

It says nothing of later rounds: their contributions were trained from the real model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from barnraise.coordinator.audit.differences import distance
from barnraise.coordinator.audit.recompute import Bench, contributions, only
from barnraise.coordinator.audit.story import TRAIN, RoundRecord
from barnraise.protocols import flower
from barnraise.protocols.errors import BarnraiseError
from barnraise.strategies import ExactStrategy, make
from barnraise.strategies.records import open_model

LIMIT = "of later rounds this says nothing: their updates were trained from the real model"


@dataclass(frozen=True)
class Otherwise:
    """What would have been. `model` is the base where the rule would have kept it, and `stayed` then says
    why; `fresh`: the other strategy has a state that this run does not know, and began without."""

    base: ArrayRecord
    real: ArrayRecord
    model: ArrayRecord
    members: tuple[str, ...]
    decision: Mapping[str, Any]
    stayed: str
    fresh: bool

    def moved(self) -> tuple[float, float]:
        """The norm of what lies between the two models, and that of the round's real update."""
        real = open_model(self.real)
        away = distance(open_model(self.model), real).norm
        return away, distance(real, open_model(self.base)).norm


def otherwise(
    bench: Bench,
    record: RoundRecord,
    without: Collection[str],
    strategy: tuple[str, Mapping[str, Any]] | None,
) -> Otherwise:
    """Raises U111 where there is no such counterfactual, C104 for an unknown strategy."""
    if record.before is None:
        raise nothing("nobody trained in round 0")
    flower.become_server(int(bench.run.run, 16))
    batch = only(record, TRAIN)
    if batch.void:
        raise nothing(f"round {record.number} was void: the model stayed as it was")
    base, state = bench.sealed(record.before)
    real, _ = bench.sealed(record.seal)
    rule, fresh = _rule(bench, strategy, state)
    rule.configure_train(
        record.number, base, ConfigRecord(), bench.grid(record.roster or bench.run.members)
    )
    given = contributions(rule, bench.replies(batch), base, bench)
    names = [one.name for one in given]
    if strangers := sorted(set(without) - set(names)):
        counted = ", ".join(names) or "nobody's"
        raise nothing(f"{strangers[0]} contributed nothing to round {record.number}", counted)
    left = [one for one in given if one.name not in without]
    arrays, taken = rule.next_model(base, left)
    return Otherwise(
        base,
        real,
        arrays if arrays is not None else base,
        tuple(one.name for one in taken),
        rule.decision(),
        rule.stayed,
        fresh,
    )


def _rule(
    bench: Bench, strategy: tuple[str, Mapping[str, Any]] | None, state: RecordDict
) -> tuple[ExactStrategy, bool]:
    """The rule from its state before the round; whether it had to begin without one."""
    if strategy is None:
        rule = bench.rule()
        rule.load(state)
        return rule, False
    rule = make(strategy[0], strategy[1], 0, codec=bench.charter.training.codec)
    try:
        rule.load(state)
        return rule, rule.outer is not None and not state
    except ValueError:
        return rule, rule.outer is not None


def nothing(why: str, counted: str = "") -> BarnraiseError:
    """U111."""
    return BarnraiseError(
        "U111",
        why,
        f"what counted in it: {counted}" if counted else "",
        next="give --round a round in which it contributed; barnraise log show",
    )
