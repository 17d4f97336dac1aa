"""The geometry of a round: every inner product of the members' deltas, from one pass over the replies.

    G_ij = sum over the floating elements of (x_i - base) * (x_j - base)

n x n numbers say all about lengths, distances and angles, so the rules that need them decide without the
models at hand. Blocks of a fixed number of elements are multiplied by BLAS and their products added in
sequence: the number of threads does not show. Another processor's BLAS may round otherwise, which is why
what is decided from G is put on record. Memory: O(block x members x threads).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue

import numpy as np

from barnraise.protocols.tensors import Tensor
from barnraise.strategies.columns import F64, Column, Files
from barnraise.strategies.exact import WORTH, Arrays, Form, default_threads

ROOM = 1 << 21  # elements of all the members' deltas in a block


def gram(form: Form, base: Arrays, members: Sequence[Arrays], *, threads: int | None = None) -> F64:
    """G, of shape (n, n), float64, symmetric. What overflows is infinite or NaN there.

    Complex arrays count as real and imaginary parts; integer and boolean ones do not count. Raises
    `BlobError` or `OSError` if a reply on disk cannot be read.
    """
    names = [name for name, (dtype, _) in form.items() if dtype.kind in "fc"]
    sources: list[list[Tensor]] = [[source[name] for name in names] for source in (base, *members)]
    total = np.zeros((len(members), len(members)))
    with Files(tensor for source in sources for tensor in source) as files:
        columns = [Column(source, files) for source in sources]
        size, block = columns[0].size, block_of(len(members))
        starts = range(0, size, block)
        threads = threads or min(default_threads(), 1 + size * len(sources) // WORTH)
        desks: SimpleQueue[_Desk] = SimpleQueue()
        for _ in range(threads):
            desks.put(_Desk(len(members), min(block, size)))
        work = partial(_product, columns, size, desks)
        with np.errstate(all="ignore"), ThreadPoolExecutor(threads) as pool:
            for product in pool.map(work, starts) if threads > 1 else map(work, starts):
                np.add(total, product, out=total)
    return total


def block_of(n: int) -> int:
    """Elements in a block of `n` members: a power of two that hangs on `n` alone."""
    return 1 << max(8, (ROOM // max(n, 1)).bit_length() - 1)


class _Desk:
    """One thread's buffers."""

    def __init__(self, n: int, block: int) -> None:
        self.deltas = np.empty(n * block)
        self.base = np.empty(block)
        self.raw = np.empty(8 * block, np.uint8)


def _product(columns: Sequence[Column], size: int, desks: SimpleQueue[_Desk], start: int) -> F64:
    desk = desks.get()
    try:
        n = len(columns) - 1
        block = min(block_of(n), size - start)
        base, deltas = desk.base[:block], desk.deltas[: n * block].reshape(n, block)
        columns[0].read(start, desk.raw, base)
        with np.errstate(all="ignore"):
            for column, row in zip(columns[1:], deltas, strict=True):
                column.read(start, desk.raw, row)
                np.subtract(row, base, out=row)
            product: F64 = np.dot(deltas, deltas.T)
        return product
    finally:
        desks.put(desk)


def distances(gram: F64) -> F64:
    """The squared distance of each two members, (n, n); the diagonal is 0 and nothing is negative."""
    own = np.diagonal(gram)
    squared = own[:, None] + own[None, :] - 2.0 * gram
    np.fill_diagonal(squared, 0.0)
    return np.maximum(squared, 0.0)


def norms(gram: F64) -> F64:
    """The length of each member's delta, (n,)."""
    return np.sqrt(np.maximum(np.diagonal(gram), 0.0))
