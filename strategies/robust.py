"""The named rules beside FedAvg and DiLoCo: each a reducer under a name that an app imports.

All take what `ExactStrategy` takes, pre-steps (`before`) and an outer optimizer (`outer`) among it, and keep
its laws. x_i is member i's model, n the number of replies that count, f the number of bad ones withstood.
With fewer than the rule needs the round leaves the model as it is, and a federation that small is
refused beforehand (R104; C104 for a charter). `ValueError` for options out of range.
"""

from __future__ import annotations

from typing import Unpack

from barnraise.strategies import reducers
from barnraise.strategies.base import Common, ExactStrategy


class FedNova(ExactStrategy):
    """FedNova's normalised mean for members with unequal local work (arXiv 2007.07481). n >= 1; not robust.

        p_i = w_i / sum of w,  s = sum of p_i * steps_i
        model <- base + s * (sum of p_i * (x_i - base) / steps_i)

    `steps_key` is the train metric with the member's number of local steps. Exact for plain local SGD.
    """

    def __init__(self, steps_key: str = "steps", **common: Unpack[Common]) -> None:
        super().__init__(reducer=reducers.NormalisedMean(steps_key), **common)


class Median(ExactStrategy):
    """The coordinate-wise median (arXiv 1803.01498). Withstands f with n >= 2f + 1.

    model_k <- median of x_1k, ..., x_nk, for every coordinate k
    """

    def __init__(self, f: int = 1, **common: Unpack[Common]) -> None:
        super().__init__(reducer=reducers.CoordinateMedian(f), **common)


class TrimmedMean(ExactStrategy):
    """The coordinate-wise trimmed mean, by count (arXiv 1803.01498). Withstands f with n >= 2f + 1.

    model_k <- mean of x_1k, ..., x_nk without the f lowest and the f highest, for every coordinate k
    """

    def __init__(self, f: int = 1, **common: Unpack[Common]) -> None:
        super().__init__(reducer=reducers.CoordinateTrimmedMean(f), **common)


class Krum(ExactStrategy):
    """Krum: the member nearest to its neighbours (Blanchard et al., NeurIPS 2017). n >= 2f + 3.

    model <- x_i of least score_i = sum of |x_i - x_j|^2 over the n - f - 2 others nearest to i
    """

    def __init__(self, f: int = 1, **common: Unpack[Common]) -> None:
        super().__init__(reducer=reducers.KrumSelection(f, 1), **common)


class MultiKrum(ExactStrategy):
    """Multi-Krum (Blanchard et al., NeurIPS 2017; arXiv 1802.07927). n >= 2f + 3, and n >= m + f + 2.

    model <- mean of the m members of least Krum score; by default m = n - f - 2
    """

    def __init__(self, f: int = 1, m: int | None = None, **common: Unpack[Common]) -> None:
        super().__init__(reducer=reducers.KrumSelection(f, m), **common)


class GeometricMedian(ExactStrategy):
    """The geometric median (RFA, arXiv 1912.13445), by smoothed Weiszfeld. Withstands f with n >= 2f + 1.

    model <- the z of least sum of |x_i - z|
    """

    def __init__(self, f: int = 1, smoothing: float = 1e-6, **common: Unpack[Common]) -> None:
        super().__init__(reducer=reducers.GeometricMedian(f, smoothing), **common)


class CentredClipping(ExactStrategy):
    """Centred clipping (arXiv 2012.10333). n >= 2f + 1; to be trusted while f / n is about 0.1 or less.

        v <- v + mean of (x_i - base - v) * min(1, radius / |x_i - base - v|), `iterations` times from 0
        model <- base + v

    `radius` None: the median of those distances, anew in each iteration.
    """

    def __init__(
        self,
        f: int = 1,
        radius: float | None = None,
        iterations: int = 3,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(reducer=reducers.CentredClipping(f, radius, iterations), **common)
