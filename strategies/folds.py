"""Folds: how one chunk of the members' elements becomes one row. Exact, as `exact` defines it.

    Combination    base and members under real weights
    Median         coordinate-wise
    TrimmedMean    coordinate-wise
    Mixed          another fold over combinations of the members

They know elements and weights; who decided the weights, and from what, is not theirs (`decisions`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barnraise.strategies.columns import F64, Dtype
from barnraise.strategies.exact import Fold, Row
from barnraise.strategies.networks import ranked


class Combination:
    """The base and n members under weights c_i; what is lacking to 1 is the base's:

        ((b * c_0 + x_1 * c_1) + ... + x_n * c_n),  c_0 = 1 - (c_1 + ... + c_n), correctly rounded

    folded from the left, each operation rounded to float64; a row whose weight is 0 is not read, and a
    c_0 within n * 2^-52 of 0 is 0. The first of the members given to `reduce` is the base. Raises
    `ValueError` for a weight that is not finite.
    """

    rows, hides = 1, True

    def __init__(self, weights: Sequence[float]) -> None:
        if not all(math.isfinite(w) for w in weights):
            raise ValueError("the weights are not finite")
        rest = math.fsum([1.0, *(-w for w in weights)])
        base = rest if abs(rest) > len(weights) * 2.0**-52 else 0.0
        self.weights = (base, *map(float, weights))

    def reduce(self, members: Sequence[Row], out: F64, scratch: Sequence[F64]) -> None:
        row = out
        for read, weight in zip(members, self.weights, strict=True):
            if weight == 0.0:
                continue
            read(row)
            if weight != 1.0:
                np.multiply(row, weight, out=row)
            if row is not out:
                np.add(out, row, out=out)
            row = scratch[0]
        if row is out:
            out.fill(0.0)


class Median:
    """By coordinate the middle one of n members, or half the lower plus half the upper middle one.

    A zero is +0. The elements are compared as they are and never rounded before the halving.
    """

    hides = True

    def __init__(self, n: int) -> None:
        self.rows = n + 1
        self._middle = ((n - 1) // 2,) if n % 2 else (n // 2 - 1, n // 2)

    def reduce(self, members: Sequence[Row], out: F64, scratch: Sequence[F64]) -> None:
        first, *second = _ranked(members, scratch, self._middle)
        np.copyto(out, first)
        for row in second:
            if row.dtype == out.dtype:  # halved before they are added, lest the sum overflow
                np.multiply(row, 0.5, out=row)
                np.multiply(out, 0.5, out=out)
                np.add(out, row, out=out)
            else:
                np.add(out, row, out=out)
                np.multiply(out, 0.5, out=out)
        np.add(out, 0.0, out=out)


class TrimmedMean:
    """By coordinate the mean of n members without the f lowest and the f highest:

        ((x_(f+1) + x_(f+2)) + ... + x_(n-f)) / (n - 2f),  x_(1) <= ... <= x_(n)

    folded from the left in float64. A zero is +0. Raises `ValueError` unless 0 <= 2f < n.
    """

    hides = True

    def __init__(self, n: int, f: int) -> None:
        if not 0 <= 2 * f < n:
            raise ValueError(f"{f} of {n} cannot be trimmed at either end")
        self.rows = n + 1
        self._kept = tuple(range(f, n - f))

    def reduce(self, members: Sequence[Row], out: F64, scratch: Sequence[F64]) -> None:
        out.fill(0.0)  # to begin with +0 changes nothing but the sign of a zero
        for row in _ranked(members, scratch, self._kept):
            np.add(out, row, out=out)
        np.divide(out, float(len(self._kept)), out=out)


def _ranked(
    members: Sequence[Row], scratch: Sequence[F64], ranks: Sequence[int]
) -> list[NDArray[Any]]:
    """The rows of these ranks, in float32 where that holds every element: twice as fast."""
    narrow = all(member.dtype == np.float32 for member in members)
    rows = [_narrowed(row) if narrow else row for row in scratch[: len(members) + 1]]
    for read, row in zip(members, rows, strict=False):
        read(row)
    return ranked(rows[:-1], rows[-1], ranks)


def _narrowed(row: F64) -> NDArray[Any]:
    return row.view(np.float32)[: row.size]


class Mixed:
    """`fold` over n combinations of the base and the members. The first of the members is the base."""

    hides = True

    def __init__(self, fold: Fold, combinations: Sequence[Combination]) -> None:
        self._fold, self._combinations = fold, combinations
        self._sources = 1 + len(combinations)
        self.rows = self._sources + 1 + fold.rows

    def reduce(self, members: Sequence[Row], out: F64, scratch: Sequence[F64]) -> None:
        held, rest = scratch[: self._sources], scratch[self._sources :]
        for read, row in zip(members, held, strict=True):
            read(row)
        rows = [_Held(row) for row in held]
        mixed = [_Combined(combination, rows, rest[0]) for combination in self._combinations]
        self._fold.reduce(mixed, out, rest[1 : 1 + self._fold.rows])


class _Held:
    """A row that was read already."""

    dtype: Dtype = np.dtype(np.float64)

    def __init__(self, row: F64) -> None:
        self._row = row

    def __call__(self, out: NDArray[Any]) -> None:
        np.copyto(out, self._row)


class _Combined:
    """One combination of rows as a row."""

    dtype: Dtype = np.dtype(np.float64)

    def __init__(self, combination: Combination, rows: Sequence[Row], spare: F64) -> None:
        self._combination, self._rows, self._spare = combination, rows, spare

    def __call__(self, out: NDArray[Any]) -> None:
        self._combination.reduce(self._rows, out, [self._spare])
