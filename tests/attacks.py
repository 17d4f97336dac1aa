"""Attacks on aggregation, from their papers' formulas. Updates are rows of float64 matrices.

`honest` (m, d) are the updates of the members that behave, which an attacker is taken to know; `own`
(f, d) what the f bad ones would have sent had they behaved. Each returns the bad members' updates (f, d).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def sign_flip(own: F64) -> F64:
    """-x_i: each bad member sends its update turned round."""
    return -own


def alie(honest: F64, f: int, z: float | None = None) -> F64:
    """A Little Is Enough (arXiv 1902.06156): mean - z * standard deviation, coordinate by coordinate.

    With n members z = Phi^-1((n - f - s) / (n - f)), s = floor(n / 2 + 1) - f: so far out that s honest
    members are still farther, and the median is theirs to move. `z` instead: the paper's experiments
    have 1.5.
    """
    z = alie_z(len(honest) + f, f) if z is None else z
    update = honest.mean(axis=0) - z * honest.std(axis=0)
    return np.tile(update, (f, 1))


def alie_z(n: int, f: int) -> float:
    """z of `alie` among n members."""
    supporters = math.floor(n / 2 + 1) - f
    return NormalDist().inv_cdf((n - f - supporters) / (n - f))


def inner_product(honest: F64, f: int, epsilon: float) -> F64:
    """Inner-product manipulation (arXiv 1903.03936): -epsilon * mean of the honest updates."""
    return np.tile(-epsilon * honest.mean(axis=0), (f, 1))


def mimic_direction(honest: F64) -> F64:
    """The direction in which the honest updates differ most: mimic's z (arXiv 2006.09365)."""
    centred = honest - honest.mean(axis=0)
    direction: F64 = np.linalg.svd(centred, full_matrices=False)[2][0]
    return direction


def mimic(honest: F64, f: int, direction: F64) -> F64:
    """Mimic (arXiv 2006.09365): all bad members copy the honest one farthest out along `direction`, so
    that its data counts f + 1 times."""
    chosen = int(np.argmax(np.abs((honest - honest.mean(axis=0)) @ direction)))
    return np.tile(honest[chosen], (f, 1))


def free_ride(
    shape: tuple[int, int], turn: int, sigma: float, rng: np.random.Generator, gamma: float = 1.0
) -> F64:
    """Disguised free-riders (arXiv 2006.11901): no work, only noise of size sigma * turn^-gamma."""
    return rng.standard_normal(shape) * (sigma * turn**-gamma)


def flip_labels(y: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Label flipping: class c is taught as classes - 1 - c. Training is then honest."""
    return classes - 1 - y
