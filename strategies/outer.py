"""Outer optimizers: how the pseudo-gradient of a round changes the model.

With base b, the members' reduction m and pseudo-gradient g = b - m (arXiv 2311.08105), all work by
element in float64, each operation rounded; model and state are then rounded once (`exact`). State is zero
before the first round and kept under the names that each one gives, in float32 (float64 beside a float64
model); a step uses it unrounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from barnraise.strategies.columns import F64
from barnraise.strategies.presteps import positive


class Sgd:
    """b <- b - g * lr. At lr = 1 this is the mean but for a rounding; `FedAvg` takes the mean itself.

    Raises `ValueError` unless lr is finite and positive.
    """

    state: tuple[str, ...] = ()

    def __init__(self, lr: float) -> None:
        self.lr = positive("lr", lr)

    def step(self, base: F64, gradient: F64, state: Sequence[F64], scratch: F64) -> None:
        np.multiply(gradient, self.lr, out=gradient)
        np.subtract(base, gradient, out=base)


class Momentum:
    """SGD with momentum (FedAvgM, arXiv 1909.06335), as `torch.optim.SGD(momentum=...)` has it:

        v <- v * momentum + g
        b <- b - v * lr

    v is kept as `momentum`. Raises `ValueError` unless lr is finite and positive and 0 <= momentum < 1.
    """

    state: tuple[str, ...] = ("momentum",)

    def __init__(self, lr: float, momentum: float) -> None:
        self.lr = positive("lr", lr)
        self.momentum = _part("momentum", momentum)

    def step(self, base: F64, gradient: F64, state: Sequence[F64], scratch: F64) -> None:
        (velocity,) = state
        np.multiply(velocity, self.momentum, out=velocity)
        np.add(velocity, gradient, out=velocity)
        np.multiply(velocity, self.lr, out=scratch)
        np.subtract(base, scratch, out=base)


class Nesterov:
    """SGD with Nesterov momentum, as `torch.optim.SGD(nesterov=True)` has it:

        v <- v * momentum + g
        b <- b - (g + v * momentum) * lr

    v is kept as `momentum`. Raises `ValueError` unless lr is finite and positive and 0 <= momentum < 1.
    """

    state: tuple[str, ...] = ("momentum",)

    def __init__(self, lr: float, momentum: float) -> None:
        self.lr = positive("lr", lr)
        self.momentum = _part("momentum", momentum)

    def step(self, base: F64, gradient: F64, state: Sequence[F64], scratch: F64) -> None:
        (velocity,) = state
        np.multiply(velocity, self.momentum, out=velocity)
        np.add(velocity, gradient, out=velocity)
        np.multiply(velocity, self.momentum, out=scratch)
        np.add(gradient, scratch, out=gradient)
        np.multiply(gradient, self.lr, out=gradient)
        np.subtract(base, gradient, out=base)


class Adagrad:
    """FedAdagrad (arXiv 2003.00295), without its first moment, as in the paper's experiments:

        v <- v + g^2
        b <- b - g / (sqrt(v) + tau) * lr

    v is kept as `second`, at most float32's largest number. The paper begins at v >= tau^2, here v begins at
    0. Raises `ValueError` unless lr and tau are finite and positive.
    """

    state: tuple[str, ...] = ("second",)

    def __init__(self, lr: float, tau: float = 1e-3) -> None:
        self.lr, self.tau = positive("lr", lr), positive("tau", tau)

    def step(self, base: F64, gradient: F64, state: Sequence[F64], scratch: F64) -> None:
        (second,) = state
        np.multiply(gradient, gradient, out=scratch)
        np.add(second, scratch, out=second)
        np.minimum(second, _TOP, out=second)
        _adaptive(base, gradient, second, scratch, self.lr, self.tau)


class Adam:
    """FedAdam (arXiv 2003.00295), without correction of the bias, as in the paper:

        m <- m * beta1 + g * (1 - beta1)
        v <- v * beta2 + g^2 * (1 - beta2)
        b <- b - m / (sqrt(v) + tau) * lr

    m and v are kept as `first` and `second`, v at most float32's largest number. The paper begins at
    v >= tau^2, here v begins at 0. Raises `ValueError` unless lr and tau are finite and positive and both
    betas in [0, 1).
    """

    state: tuple[str, ...] = ("first", "second")

    def __init__(
        self, lr: float, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
    ) -> None:
        self.lr, self.tau = positive("lr", lr), positive("tau", tau)
        self.beta1, self.beta2 = _part("beta1", beta1), _part("beta2", beta2)

    def step(self, base: F64, gradient: F64, state: Sequence[F64], scratch: F64) -> None:
        first, second = state
        _average(first, gradient, self.beta1, scratch)
        np.multiply(gradient, gradient, out=gradient)
        self._second(second, gradient, scratch)
        np.minimum(second, _TOP, out=second)
        np.copyto(gradient, first)
        _adaptive(base, gradient, second, scratch, self.lr, self.tau)

    def _second(self, second: F64, squared: F64, scratch: F64) -> None:
        _average(second, squared, self.beta2, scratch)


class Yogi(Adam):
    """FedYogi (arXiv 2003.00295): `Adam`, but for

    v <- v - g^2 * sign(v - g^2) * (1 - beta2)
    """

    def _second(self, second: F64, squared: F64, scratch: F64) -> None:
        np.subtract(second, squared, out=scratch)
        np.sign(scratch, out=scratch)
        np.multiply(squared, scratch, out=squared)
        np.multiply(squared, 1.0 - self.beta2, out=squared)
        np.subtract(second, squared, out=second)


_TOP = float(np.finfo(np.float32).max)


def _average(kept: F64, new: F64, beta: float, scratch: F64) -> None:
    """kept <- kept * beta + new * (1 - beta)"""
    np.multiply(kept, beta, out=kept)
    np.multiply(new, 1.0 - beta, out=scratch)
    np.add(kept, scratch, out=kept)


def _adaptive(base: F64, direction: F64, second: F64, scratch: F64, lr: float, tau: float) -> None:
    """base <- base - direction / (sqrt(second) + tau) * lr"""
    np.sqrt(second, out=scratch)
    np.add(scratch, tau, out=scratch)
    np.divide(direction, scratch, out=direction)
    np.multiply(direction, lr, out=direction)
    np.subtract(base, direction, out=base)


def _part(name: str, value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} is {value}; it must lie in [0, 1)")
    return float(value)
