"""Pre-steps: what is done to the members' deltas before they are reduced. Any number, in sequence.

Each makes of n deltas d_i = x_i - base as many combinations of them, and says so as an (n, n) matrix: row i
are the weights of the i-th combination. They see the Gram matrix of the deltas and nothing else, so a
pre-step goes with every reducer, and reducers that decide in Gram space never see more than the
geometry of what came out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from barnraise.strategies.columns import F64
from barnraise.strategies.gram import distances, norms


class PreStep(Protocol):
    @property
    def minimum(self) -> int:
        """The fewest contributions for which it is defined."""
        ...

    def mixing(self, gram: F64) -> F64:
        """The (n, n) weights of the n combinations, from the Gram matrix of the n deltas."""
        ...


class NormBound:
    """No delta is longer than a bound: d_i <- d_i * min(1, bound / |d_i|).

    `bound` is fixed, in the model's own units (arXiv 1911.07963: with a bound that honest members keep to,
    a bad one can move the mean by bound / n and no more). n >= 1.

    Raises `ValueError` unless it is finite and positive.
    """

    minimum = 1

    def __init__(self, bound: float) -> None:
        self.bound = positive("norm_bound", bound)

    def mixing(self, gram: F64) -> F64:
        return _shortened(gram, self.bound)


class MedianNormBound:
    """No delta is longer than a multiple of the median length: d_i <- d_i * min(1, c * median|d_j| / |d_i|).

    As `NormBound`, without a length to be known beforehand. The median is right while fewer than half are
    bad: n >= 2f + 1, so n >= 3. Raises `ValueError` unless the multiple is finite and positive.
    """

    minimum = 3

    def __init__(self, multiple: float) -> None:
        self.multiple = positive("norm_bound_median", multiple)

    def mixing(self, gram: F64) -> F64:
        return _shortened(gram, self.multiple * float(np.median(norms(gram))))


class NearestNeighbourMixing:
    """Each delta becomes the mean of the n - f nearest to it, itself among them (NNM, arXiv 2302.01772).

        d_i <- (sum of d_j over the n - f smallest |d_i - d_j|) / (n - f)

    It draws honest members together, so that what follows is robust where members differ. n >= 2f + 1;
    of equally near ones the first in canonical order count. Raises `ValueError` for f < 1.
    """

    def __init__(self, f: int) -> None:
        self.f = at_least("nnm", f, 1)
        self.minimum = 2 * f + 1

    def mixing(self, gram: F64) -> F64:
        squared = distances(gram)
        np.fill_diagonal(squared, -1.0)  # each is its own nearest, whoever else is where it is
        n = len(gram)
        weights = np.zeros((n, n))
        for row, near in zip(weights, np.argsort(squared, axis=1, kind="stable"), strict=True):
            row[near[: n - self.f]] = 1.0 / (n - self.f)
        return weights


def mix(steps: Sequence[PreStep], gram: F64) -> tuple[F64, F64]:
    """All of `steps` in sequence: the weights of what comes out, and its Gram matrix."""
    mixing = np.eye(len(gram))
    for step in steps:
        matrix = step.mixing(gram)
        mixing = matrix @ mixing
        gram = matrix @ gram @ matrix.T
    return mixing, gram


def _shortened(gram: F64, bound: float) -> F64:
    return np.diag(
        [1.0 if length <= bound else bound / length for length in map(float, norms(gram))]
    )


def positive(name: str, value: float) -> float:
    """`value` as a float, if it is finite and positive; else `ValueError`."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it must be finite and positive")
    return float(value)


def at_least(name: str, value: int, least: int) -> int:
    """`value`, if it is an integer >= `least`; else `ValueError`."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is {value!r}; it must be an integer, {least} or more")
    return value
