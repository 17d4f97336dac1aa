"""Reducers: how the contributions of a round become one. Each decides; the exact pass carries it out.

A reducer sees who contributed with which weight and metrics and, if it asks for it, the Gram matrix of the
deltas d_i = x_i - base. It answers with a `Decision`: weights, a selection, or a coordinate-wise fold. So
one of your own is a class with a `minimum` and a `decide` (docs/strategies.md shows a whole one).

n is the number of contributions, f the number of bad ones among them that it withstands. All but the means
ignore the weights that members report of themselves: a bad member would report the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from barnraise.strategies.columns import F64
from barnraise.strategies.decisions import (
    TOLERANCE,
    ByElement,
    Decision,
    Proportional,
    Selected,
    Weights,
    disagreement,
)
from barnraise.strategies.folds import Median, TrimmedMean
from barnraise.strategies.gram import distances, norms
from barnraise.strategies.presteps import at_least, positive
from barnraise.strategies.replies import Contribution


@dataclass(frozen=True)
class Seen:
    """What a reducer decides from: contributions in canonical order, and their geometry if it asked."""

    contributions: Sequence[Contribution]
    gram: F64 | None = None

    def __len__(self) -> int:
        return len(self.contributions)

    @property
    def geometry(self) -> F64:
        """The Gram matrix, (n, n)."""
        if self.gram is None:
            raise TypeError("a reducer that needs the Gram matrix says `geometric = True`")
        return self.gram


class Reducer:
    """What every reducer is. Subclass it and write `decide`."""

    minimum: int = 1
    """The fewest contributions for which it is defined. Below it a round leaves the model as it is."""

    geometric: bool = False
    """Whether it needs the Gram matrix, which costs another pass over the replies."""

    def refuses(self, contribution: Contribution) -> str | None:
        """Why this contribution cannot count under this rule, or None."""
        return None

    def decide(self, seen: Seen) -> Decision:
        """What becomes of `minimum` contributions or more. Deterministic."""
        raise NotImplementedError

    def agrees(self, record: Decision, own: Decision, seen: Seen) -> bool:
        """Whether the decision on record can stand beside the one made anew by another processor."""
        return disagreement(record, own, len(seen)) <= TOLERANCE


# --- means ------------------------------------------------------------------------------------------


class Mean(Reducer):
    """The weighted mean: sum of w_i * x_i / sum of w_i. Not robust: one bad member suffices."""

    def decide(self, seen: Seen) -> Decision:
        return Proportional(tuple(c.weight for c in seen.contributions))


class NormalisedMean(Reducer):
    """FedNova's mean for members that took different numbers of local steps (arXiv 2007.07481).

        p_i = w_i / sum of w,  s = sum of p_i * steps_i
        x <- base + s * (sum of p_i * (x_i - base) / steps_i)

    Each weight p_i * s / steps_i is computed exactly and rounded once. Right for plain local SGD; with an
    inner optimizer of momentum or AdamW it is an approximation. Not robust. `steps` is the metric that holds
    a member's number of steps, an integer in [1, 2^31).
    """

    def __init__(self, steps: str = "steps") -> None:
        self.steps = steps

    def refuses(self, contribution: Contribution) -> str | None:
        steps = contribution.metrics.get(self.steps)
        if type(steps) is int and 1 <= steps < 2**31:
            return None
        return f"its number of steps {self.steps!r} is {steps!r}, not an integer in [1, 2^31)"

    def decide(self, seen: Seen) -> Decision:
        taken = [(c.weight, self._steps(c)) for c in seen.contributions]
        total = sum(weight for weight, _ in taken)
        mean = Fraction(sum(weight * steps for weight, steps in taken), total)
        return Weights(tuple(float(Fraction(w, total * s) * mean) for w, s in taken))

    def _steps(self, contribution: Contribution) -> int:
        steps = contribution.metrics[self.steps]
        assert type(steps) is int
        return steps


# --- by coordinate -----------------------------------------------------------------------------------


class CoordinateMedian(Reducer):
    """The median of every coordinate (arXiv 1803.01498). n >= 2f + 1."""

    def __init__(self, f: int = 1) -> None:
        self.f = at_least("f", f, 1)
        self.minimum = 2 * f + 1

    def decide(self, seen: Seen) -> Decision:
        return ByElement(Median(len(seen)))


class CoordinateTrimmedMean(Reducer):
    """The mean of every coordinate without its f lowest and f highest (arXiv 1803.01498). n >= 2f + 1.

    f is a count, so it cannot round to nothing as a fraction can.
    """

    def __init__(self, f: int = 1) -> None:
        self.f = at_least("f", f, 1)
        self.minimum = 2 * f + 1

    def decide(self, seen: Seen) -> Decision:
        return ByElement(TrimmedMean(len(seen), self.f))


# --- by geometry -------------------------------------------------------------------------------------


class KrumSelection(Reducer):
    """Krum and Multi-Krum (Blanchard et al., NeurIPS 2017). n >= 2f + 3.

        score_i = sum of |x_i - x_j|^2 over the n - f - 2 other members nearest to i
        x <- the mean of the m members of lowest score

    m = 1 is Krum: a member's own model, to the byte. `m` = None is n - f - 2, the most for which
    arXiv 1802.07927 holds; a fixed m needs n >= m + f + 2. Of equal scores the first in canonical order
    count.
    """

    geometric = True

    def __init__(self, f: int = 1, m: int | None = 1) -> None:
        self.f = at_least("f", f, 1)
        self.m = at_least("m", m, 1) if m is not None else None
        self.minimum = max(2 * f + 3, (m or 0) + f + 2)

    def scores(self, gram: F64) -> F64:
        others = np.sort(distances(gram) + np.diag([np.inf] * len(gram)), axis=1)
        scores: F64 = others[:, : len(gram) - self.f - 2].sum(axis=1)
        return scores

    def decide(self, seen: Seen) -> Decision:
        count = self.m or len(seen) - self.f - 2
        best = np.argsort(self.scores(seen.geometry), kind="stable")[:count]
        return Selected(tuple(sorted(map(int, best))))

    def agrees(self, record: Decision, own: Decision, seen: Seen) -> bool:
        """As many, and none whose score is clearly above one that was left out."""
        if not (isinstance(record, Selected) and isinstance(own, Selected)):
            return super().agrees(record, own, seen)
        scores = self.scores(seen.geometry)
        chosen = [float(scores[i]) for i in record.members]
        left = [float(s) for i, s in enumerate(scores) if i not in record.members]
        margin = TOLERANCE * max(chosen, default=0.0)
        same = len(set(record.members)) == len(record.members) == len(own.members)
        return same and max(chosen) <= min(left, default=np.inf) + margin


class GeometricMedian(Reducer):
    """The point z of least total distance to the members (RFA, arXiv 1912.13445). n >= 2f + 1.

    Smoothed Weiszfeld, in Gram space, where a step costs n^2 operations whatever the model's size:

        c_i <- 1 / max(nu, |x_i - z|), divided by their sum;  z <- sum of c_i * x_i

    from the mean of the majority nearest to the medoid, until no c_i moves by 1e-12, at most 1000 times.
    nu is `smoothing` times the median distance from that start. The paper begins at the mean, stops after
    few steps and has a fixed nu = 1e-6, since there every step costs a round; here it converges.
    """

    geometric = True
    steps, still = 1000, 1e-12

    def __init__(self, f: int = 1, smoothing: float = 1e-6) -> None:
        self.f = at_least("f", f, 1)
        self.smoothing = positive("smoothing", smoothing)
        self.minimum = 2 * f + 1

    def decide(self, seen: Seen) -> Decision:
        gram = seen.geometry
        weights = _majority(distances(gram))
        least = self.smoothing * float(np.median(_from_point(weights, gram)))
        for _ in range(self.steps):
            before, weights = weights, _inverse(_from_point(weights, gram), least)
            if float(np.max(np.abs(weights - before))) <= self.still:
                break
        return Weights(tuple(map(float, weights)))


class CentredClipping(Reducer):
    """Centred clipping (arXiv 2012.10333): n >= 2f + 1, and to be trusted while f / n is about 0.1 or less.

        v <- v + (1/n) * sum of (d_i - v) * min(1, radius / |d_i - v|),  `iterations` times, from v = 0
        x <- base + v

    `radius` is in the model's own units; None takes the median of |d_i - v| anew in each
    iteration, so that nothing has to be known beforehand. The paper's v begins at the momentum of the round
    before, and its members send momenta; ours begins at the base and they send models.
    """

    geometric = True

    def __init__(self, f: int = 1, radius: float | None = None, iterations: int = 3) -> None:
        self.f = at_least("f", f, 1)
        self.radius = positive("radius", radius) if radius is not None else None
        self.iterations = at_least("iterations", iterations, 1)
        self.minimum = 2 * f + 1

    def decide(self, seen: Seen) -> Decision:
        gram = seen.geometry
        n = len(gram)
        weights = np.zeros(n)
        for _ in range(self.iterations):
            far = _from_point(weights, gram)
            radius = self.radius if self.radius is not None else float(np.median(far))
            clip = np.array([1.0 if d <= radius else radius / d for d in map(float, far)]) / n
            weights = weights * (1.0 - clip.sum()) + clip
        return Weights(tuple(map(float, weights)))


def _majority(squared: F64) -> F64:
    """Equal weights for the more than half of the members that are nearest to the medoid."""
    n = len(squared)
    medoid = int(np.argmin(np.sqrt(squared).sum(axis=1)))
    near = np.argsort(squared[medoid], kind="stable")[: n // 2 + 1]
    weights = np.zeros(n)
    weights[near] = 1.0 / len(near)
    return weights


def _from_point(weights: F64, gram: F64) -> F64:
    """The deltas' distances from their combination under these weights.

    From G itself, not from distances: a delta of 1e30 whose weight is 1e-30 then costs no digits.
    """
    inner = gram @ weights
    return np.sqrt(np.maximum(np.square(norms(gram)) - 2.0 * inner + float(weights @ inner), 0.0))


def _inverse(far: F64, least: float) -> F64:
    if least == 0.0:  # more than half are at one point: it is the geometric median
        near = (far == 0.0).astype(np.float64)
        weights: F64 = near / near.sum() if near.any() else np.full(len(far), 1.0 / len(far))
        return weights
    inverse = 1.0 / np.maximum(far, least)
    scaled: F64 = inverse / inverse.sum()
    return scaled
