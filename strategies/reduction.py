"""One round's contributions become the next model: filtered, measured, decided, reduced, stepped.

    fit       what does not fit the model, or what the reducer refuses, is set aside
    measure   the Gram matrix of the deltas, where reducer or pre-steps need it
    decide    pre-steps, then the reducer: a `Decision`; or the one on record, held against that
    reduce    `exact.advance`

Whatever is set aside on the way starts it again without. Pure but for the log: it knows no grid.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array

from barnraise.protocols.flower import array_of
from barnraise.strategies.decisions import (
    ByElement,
    Decision,
    Weights,
    carried_out,
    mixed,
    sealed,
    unsealed,
)
from barnraise.strategies.exact import Advanced, Arrays, Form, Step, advance
from barnraise.strategies.gram import gram
from barnraise.strategies.presteps import PreStep, mix
from barnraise.strategies.reducers import Reducer, Seen
from barnraise.strategies.replies import Contribution, misfit, nonfinite

FAR = 2.0**1000  # a squared length beyond which sums and differences of a few may overflow
_log = logging.getLogger("flwr")


class Disagreement(ValueError):
    """The decision on record is not the one that follows from these contributions."""


@dataclass(frozen=True)
class Outcome:
    """The next model and state, from which contributions, by which decision (as JSON)."""

    made: Advanced[Array]
    taken: Sequence[Contribution]
    decision: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reduction:
    """A reducer behind its pre-steps."""

    reducer: Reducer
    before: Sequence[PreStep] = ()

    @property
    def minimum(self) -> int:
        """The fewest contributions for which all of it is defined."""
        return max([self.reducer.minimum, *(step.minimum for step in self.before)])

    @property
    def geometric(self) -> bool:
        return self.reducer.geometric or bool(self.before)

    def decide(self, seen: Seen) -> Decision:
        if not self.before:
            return self.reducer.decide(seen)
        mixing, geometry = mix(self.before, seen.geometry)
        return mixed(self.reducer.decide(Seen(seen.contributions, geometry)), mixing)

    def recorded(self, seen: Seen, record: Mapping[str, Any]) -> Decision:
        """The decision on record, once it was held against the one made anew. Raises `Disagreement`."""
        own = self.decide(seen)
        try:
            found = unsealed(record, own, [c.name for c in seen.contributions])
        except ValueError as error:
            raise Disagreement(str(error)) from None
        judge = self.reducer if not self.before else Reducer()
        if not judge.agrees(found, own, seen):
            raise Disagreement("the decision on record does not follow from the contributions")
        return found


def reduced(
    reduction: Reduction,
    form: Form,
    base: Arrays | None,
    contributions: Sequence[Contribution],
    step: Step | None,
    *,
    threads: int | None = None,
    record: Mapping[str, Any] | None = None,
) -> Outcome | str:
    """What follows from `contributions`, in canonical order; or why nothing does: too few of them count,
    or finite replies give a model or a state that is not.

    `record` is a sealed decision to follow. Raises `RuntimeError` where the reduction needs `base` and
    there is none, `Disagreement` for a record that does not follow.
    """
    taken: Sequence[Contribution]
    taken = kept(contributions, lambda c: misfit(c.arrays, form) or reduction.reducer.refuses(c))
    while len(taken) >= max(1, reduction.minimum):
        seen, measurable = _seen(reduction, form, base, taken, threads)
        if len(measurable) < len(taken):
            taken = measurable
            continue
        decision = reduction.decide(seen) if record is None else reduction.recorded(seen, record)
        if base is None and _needs_base(decision):
            raise _without_base()
        fold, sources = carried_out(decision, base, [c.arrays for c in taken])
        made = advance(form, sources, fold, array_of, step=step, threads=threads)
        finite = taken if made.finite else kept(taken, _not_finite)
        if len(finite) == len(taken):
            if not made.finite:
                return "every reply is finite and the next model is not: the model stays"
            return Outcome(made, taken, sealed(decision, [c.name for c in taken]))
        taken = finite
    needed = max(1, reduction.minimum)
    return f"{len(taken)} replies count and the rule needs {needed}: the model stays"


def _seen(
    reduction: Reduction,
    form: Form,
    base: Arrays | None,
    taken: Sequence[Contribution],
    threads: int | None,
) -> tuple[Seen, Sequence[Contribution]]:
    """What the reducer sees, and those contributions whose distance from the base is a number."""
    if not reduction.geometric:
        return Seen(taken), taken
    if base is None:
        raise _without_base()
    measured = gram(form, base, [c.arrays for c in taken], threads=threads)
    far = {id(c) for c, own in zip(taken, np.diagonal(measured), strict=True) if not own < FAR}
    return Seen(taken, measured), kept(taken, lambda c: _why_far(c) if id(c) in far else None)


def _why_far(contribution: Contribution) -> str:
    return _not_finite(contribution) or "it lies so far from the model that the distance overflows"


def _needs_base(decision: Decision) -> bool:
    return isinstance(decision, Weights) or (
        isinstance(decision, ByElement) and decision.rows is not None
    )


def _without_base() -> RuntimeError:
    return RuntimeError("aggregate_train measures from the model: call configure_train before it")


def _not_finite(contribution: Contribution) -> str | None:
    name = nonfinite(contribution.arrays)
    return f"its array {name} holds NaN or infinity" if name is not None else None


def kept(
    contributions: Sequence[Contribution], wrong: Callable[[Contribution], str | None]
) -> list[Contribution]:
    """Those with which nothing is wrong; the others are named."""
    found = []
    for one in contributions:
        if (reason := wrong(one)) is None:
            found.append(one)
        else:
            say_aside(one.name, reason)
    return found


def say_aside(name: str, reason: str) -> None:
    """Log that this member's reply does not count, and why."""
    _log.warning("\t> the reply of %s does not count: %s", name, reason)
