"""Outer optimizers: how the pseudo-gradient of a round changes the model.

With base b, the members' reduction m and pseudo-gradient g = b - m (arXiv 2311.08105), both work by
element in float64, each operation rounded; model and state are then rounded once (`exact`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from barnraise.strategies.columns import F64


class Sgd:
    """b <- b - g * lr. At lr = 1 this is the mean but for a rounding; `FedAvg` takes the mean itself.

    Raises `ValueError` unless lr is finite and positive.
    """

    state: tuple[str, ...] = ()

    def __init__(self, lr: float) -> None:
        self.lr = _positive("lr", lr)

    def step(self, base: F64, gradient: F64, state: Sequence[F64], scratch: F64) -> None:
        np.multiply(gradient, self.lr, out=gradient)
        np.subtract(base, gradient, out=base)


class Nesterov:
    """SGD with Nesterov momentum, as `torch.optim.SGD(nesterov=True)` has it:

        v <- v * momentum + g
        b <- b - (g + v * momentum) * lr

    v is kept from round to round under the name `momentum`, rounded to float32 (float64 beside a
    float64 model) after each; the step uses it unrounded. Raises `ValueError` unless lr is finite and
    positive and 0 <= momentum < 1.
    """

    state: tuple[str, ...] = ("momentum",)

    def __init__(self, lr: float, momentum: float) -> None:
        self.lr = _positive("lr", lr)
        self.momentum = float(momentum)
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum is {momentum}; it must lie in [0, 1)")

    def step(self, base: F64, gradient: F64, state: Sequence[F64], scratch: F64) -> None:
        (velocity,) = state
        np.multiply(velocity, self.momentum, out=velocity)
        np.add(velocity, gradient, out=velocity)
        np.multiply(velocity, self.momentum, out=scratch)
        np.add(gradient, scratch, out=gradient)
        np.multiply(gradient, self.lr, out=gradient)
        np.subtract(base, gradient, out=base)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it must be finite and positive")
    return float(value)
