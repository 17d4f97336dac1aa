"""Sorting networks: which rows to compare, in which sequence, so that every column ends up sorted.

A network compares the same rows whatever they hold, so it sorts millions of columns with a few hundred
calls of `np.minimum` and `np.maximum`, which are exact. Knows nothing of members or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Network = tuple[tuple[int, int], ...]


@lru_cache(maxsize=64)
def network(n: int, wanted: tuple[int, ...]) -> Network:
    """Batcher's odd-even merge sort of `n` rows (1968), without what the `wanted` ranks do not need."""
    return _pruned(_batcher(n), wanted)


def _batcher(n: int) -> list[tuple[int, int]]:
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(j, min(j + k, n - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        pairs.append((i, i + k))
            k //= 2
        p *= 2
    return pairs


def _pruned(pairs: Sequence[tuple[int, int]], wanted: Iterable[int]) -> Network:
    needed = set(wanted)
    kept = []
    for low, high in reversed(pairs):
        if low in needed or high in needed:
            needed |= {low, high}
            kept.append((low, high))
    return tuple(reversed(kept))


def ranked(
    rows: Sequence[NDArray[Any]], spare: NDArray[Any], ranks: Sequence[int]
) -> list[NDArray[Any]]:
    """For each of `ranks` (0 is the lowest) the row of that rank of every column.

    Overwrites `rows` and `spare`, all of one shape and dtype. NaN in a column shows in every rank of it;
    which of 0.0 and -0.0 is lower is not defined.
    """
    held = list(rows)
    for low, high in network(len(rows), tuple(ranks)):
        a, b = held[low], held[high]
        np.minimum(a, b, out=spare)
        np.maximum(a, b, out=b)
        held[low], spare = spare, a
    return [held[rank] for rank in ranks]
