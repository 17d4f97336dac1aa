"""What a reducer decided about a round, as it is put on record and as it is carried out.

    Proportional   the mean under integer weights, divided once
    Selected       the plain mean of some members
    Weights        the base and the members under real weights; what lacks to 1 is the base's
    ByElement      a coordinate-wise fold: nothing is decided for a whole member

Decided may be from BLAS, whose last bits differ between processors. So a decision is sealed, and given a
sealed one the next model follows to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from barnraise.strategies.columns import F64
from barnraise.strategies.exact import Arrays, Fold, WeightedMean
from barnraise.strategies.folds import Combination, Mixed

TOLERANCE = 1e-6
"""How far a weight decided anew may lie from the sealed one: BLAS errs by far less, a liar by more."""


@dataclass(frozen=True)
class Proportional:
    weights: tuple[int, ...]


@dataclass(frozen=True)
class Selected:
    """Indices in canonical order, ascending."""

    members: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    of: tuple[float, ...]


@dataclass(frozen=True)
class ByElement:
    """`rows`, if any, are the weights of the combinations that the fold is over, one for each member."""

    fold: Fold
    rows: tuple[Weights, ...] | None = None


Decision = Proportional | Selected | Weights | ByElement


def mixed(decision: Decision, mixing: F64 | None) -> Decision:
    """`decision` about combinations of the members, whose weights are the rows of `mixing`, as one about
    the members themselves."""
    if mixing is None:
        return decision
    if isinstance(decision, ByElement):
        return ByElement(decision.fold, tuple(Weights(tuple(map(float, row))) for row in mixing))
    return Weights(tuple(map(float, np.asarray(weights_of(decision, len(mixing))) @ mixing)))


def weights_of(decision: Proportional | Selected | Weights, n: int) -> list[float]:
    """The weight of each of `n` members."""
    if isinstance(decision, Weights):
        return list(decision.of)
    if isinstance(decision, Proportional):
        total = sum(decision.weights)
        return [w / total for w in decision.weights]
    return [1 / len(decision.members) if i in decision.members else 0.0 for i in range(n)]


# --- carrying out -----------------------------------------------------------------------------------


def carried_out(
    decision: Decision, base: Arrays | None, members: Sequence[Arrays]
) -> tuple[Fold, list[Arrays]]:
    """The fold, and what it is over. `base` may be None only where `needs_base` is False."""
    if isinstance(decision, Proportional):
        return WeightedMean(decision.weights), list(members)
    if isinstance(decision, Selected):
        chosen = [members[i] for i in decision.members]
        return WeightedMean([1] * len(chosen)), chosen
    if isinstance(decision, ByElement) and decision.rows is None:
        return decision.fold, list(members)
    assert base is not None
    if isinstance(decision, Weights):
        return Combination(decision.of), [base, *members]
    assert decision.rows is not None
    combinations = [Combination(row.of) for row in decision.rows]
    return Mixed(decision.fold, combinations), [base, *members]


# --- the record -------------------------------------------------------------------------------------


def sealed(decision: Decision, names: Sequence[str]) -> dict[str, Any]:
    """The decision as JSON, of `names` in canonical order; empty where nothing was decided.

    A selected set is a list of names; weights are `float.hex()` by name, those that are 0 left out; rows
    are, by name, {weight: "places in names"}.
    """
    if isinstance(decision, Selected):
        return {"selected": [names[i] for i in decision.members]}
    if isinstance(decision, Weights):
        return {"weights": {n: w.hex() for n, w in zip(names, decision.of, strict=True) if w}}
    if isinstance(decision, ByElement) and decision.rows is not None:
        rows = zip(names, decision.rows, strict=True)
        return {"members": list(names), "rows": {n: _by_weight(row) for n, row in rows}}
    return {}


def _by_weight(row: Weights) -> dict[str, str]:
    places: dict[str, list[str]] = {}
    for place, weight in enumerate(row.of):
        if weight:
            places.setdefault(weight.hex(), []).append(str(place))
    return {weight: " ".join(held) for weight, held in places.items()}


def unsealed(record: Mapping[str, Any], own: Decision, names: Sequence[str]) -> Decision:
    """The decision on record. `own` is the one decided anew, from which it takes what is not recorded.

    Raises `ValueError` for a record that is none, is of other members or of another kind of rule.
    """
    try:
        found = _unsealed(record, own, names)
        same = sealed(found, names) == dict(record)
    except (LookupError, TypeError, AttributeError, OverflowError, ValueError) as error:
        raise ValueError(f"the decision on record cannot be read: {error!r}") from None
    if not same:
        raise ValueError("the decision on record is not one about these members")
    return found


def _unsealed(record: Mapping[str, Any], own: Decision, names: Sequence[str]) -> Decision:
    if not record:
        return own
    if "selected" in record:
        return Selected(tuple(sorted({names.index(name) for name in record["selected"]})))
    if "weights" in record:
        weights = record["weights"]
        return Weights(tuple(float.fromhex(weights.get(name, "0x0p+0")) for name in names))
    if not isinstance(own, ByElement):
        raise ValueError("it is of another rule")
    return ByElement(own.fold, tuple(_row(record["rows"][name], len(names)) for name in names))


def _row(places: Mapping[str, str], n: int) -> Weights:
    row = [0.0] * n
    for weight, held in places.items():
        for place in held.split():
            row[int(place)] = float.fromhex(weight)
    return Weights(tuple(row))


def disagreement(record: Decision, own: Decision, n: int) -> float:
    """The largest difference of any weight between two decisions about `n` members; inf if they differ
    in kind."""
    if isinstance(record, ByElement) or isinstance(own, ByElement):
        if not (isinstance(record, ByElement) and isinstance(own, ByElement)):
            return float("inf")
        if record.rows is None or own.rows is None:
            return 0.0 if record.rows is own.rows else float("inf")
        pairs = zip(record.rows, own.rows, strict=True)
        return max(disagreement(a, b, n) for a, b in pairs)
    a, b = weights_of(record, n), weights_of(own, n)
    gap = float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0))
    return gap if gap == gap else float("inf")
