"""Two models held against each other, element by element in pieces: where they differ, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barnraise.protocols.tensors import Tensor, size_of

CHUNK = 1 << 18  # elements
NAMED = 8  # more tensors than these are counted


@dataclass(frozen=True)
class TensorDifference:
    """`count` of a tensor's `size` elements differ, by `largest` at most (NaN where one is no number)."""

    name: str
    count: int
    size: int
    largest: float

    def __str__(self) -> str:
        by = f", by {self.largest:.3g} at most" if self.largest == self.largest else ""
        return f"{self.name}: {self.count} of {self.size} elements differ{by}"


@dataclass(frozen=True)
class Distance:
    """Of two models: the largest difference of an element, and the norm of the difference."""

    largest: float
    norm: float


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """What differs, a line for each tensor; empty for the same bytes under the same names."""
    lines = [f"{name}: only one of the two has it" for name in sorted(one.keys() ^ other.keys())]
    for name in (name for name in one if name in other):
        a, b = one[name], other[name]
        if (a.dtype, tuple(a.shape)) != (b.dtype, tuple(b.shape)):
            lines.append(f"{name}: {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}")
        elif (found := _of_tensor(name, a, b)) is not None:
            lines.append(str(found))
    more = len(lines) - NAMED
    return [*lines[:NAMED], f"and {more} more tensors"] if more > 0 else lines


def _of_tensor(name: str, a: Tensor, b: Tensor) -> TensorDifference | None:
    count, largest = 0, 0.0
    for x, y in _pieces(a, b):
        bits = x.view(np.uint8).reshape(x.size, -1) != y.view(np.uint8).reshape(y.size, -1)
        wrong = bits.any(axis=1)
        if wrong.any():
            count += int(wrong.sum())
            largest = float(np.maximum(largest, _gap(x[wrong], y[wrong]).max()))
    return TensorDifference(name, count, size_of(tuple(a.shape)), largest) if count else None


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Distance:
    """How far two models of the same form lie apart, over all floating elements."""
    largest, square = 0.0, 0.0
    for name, a in one.items():
        if a.dtype.kind not in "fc":
            continue
        for x, y in _pieces(a, other[name]):
            gap = _gap(x, y)
            largest = float(np.maximum(largest, gap.max(initial=0.0)))
            square += float(np.dot(gap, gap))
    return Distance(largest, math.sqrt(square))


def _gap(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    wide = np.complex128 if x.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        return np.asarray(np.abs(x.astype(wide) - y.astype(wide)))


def _pieces(a: Tensor, b: Tensor) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    size = size_of(tuple(a.shape))
    for start in range(0, size, CHUNK):
        x, y = (np.empty(min(CHUNK, size - start), t.dtype) for t in (a, b))
        a.read_into(x, start)
        b.read_into(y, start)
        yield x, y
