"""Tensors laid end to end, read chunk by chunk as float64.

Many small arrays then cost what one large one costs: neighbours within a blob become one run, read by
one `pread`, and a file is opened once. Knows nothing of weights, rules or Flower.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barnraise.protocols.tensors import FileTensor, MemoryTensor, Tensor, read_exact, size_of

F64 = NDArray[np.float64]
Raw = NDArray[np.uint8]
Dtype = np.dtype[Any]
MAX_FILES = 256
_NARROW = (np.dtype(np.float16), np.dtype(np.float32))


def real(dtype: Dtype) -> tuple[Dtype, int]:
    """The dtype of the real numbers that an element of `dtype` consists of, and how many: 2 if complex."""
    return (np.dtype(f"f{dtype.itemsize // 2}"), 2) if dtype.kind == "c" else (dtype, 1)


class Files:
    """Blobs held open while they are read; those beyond the first `MAX_FILES` are opened read by read."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        paths = dict.fromkeys(t.path for t in tensors if isinstance(t, FileTensor))
        self._held: dict[Path, int] = {}
        try:
            for path in list(paths)[:MAX_FILES]:
                self._held[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.__exit__()
            raise

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._held.values():
            os.close(fd)

    def read(self, tensor: FileTensor, out: NDArray[Any], start: int) -> None:
        fd = self._held.get(tensor.path)
        if fd is None:
            tensor.read_into(out, start)
        else:
            read_exact(fd, out, tensor.offset + start * tensor.dtype.itemsize)


@dataclass(frozen=True)
class _Piece:
    start: int
    stop: int
    tensor: Tensor


class Column:
    """One party's tensors, one after another. Threads may read it at the same time."""

    def __init__(self, tensors: Iterable[Tensor], files: Files) -> None:
        self._files = files
        self._pieces: list[_Piece] = []
        end = 0
        for run in _runs(map(_as_real, tensors)):
            start, end = end, end + size_of(run.shape)
            if end > start:
                self._pieces.append(_Piece(start, end, run))
        self._starts = [piece.start for piece in self._pieces]
        self.size = end
        narrow = all(piece.tensor.dtype in _NARROW for piece in self._pieces)
        self.dtype: Dtype = np.dtype(np.float32 if narrow else np.float64)

    def read(self, start: int, raw: Raw, out: NDArray[Any]) -> None:
        """Fill `out` with the elements from `start` on; exact but for integers beyond 2^53.

        `out` is of float64, or of `self.dtype`: float32 where that holds every element. `raw` is room
        for `8 * out.size` bytes.
        """
        at, stop = start, start + out.size
        index = bisect_right(self._starts, start) - 1
        while at < stop:
            piece = self._pieces[index]
            n = min(stop, piece.stop) - at
            elements = self._elements(piece.tensor, at - piece.start, n, raw)
            np.copyto(out[at - start : at - start + n], elements)
            at, index = at + n, index + 1

    def _elements(self, tensor: Tensor, start: int, n: int, raw: Raw) -> NDArray[Any]:
        if isinstance(tensor, MemoryTensor):
            return tensor.flat[start : start + n]
        elements: NDArray[Any] = raw[: n * tensor.dtype.itemsize].view(tensor.dtype)
        if isinstance(tensor, FileTensor):
            self._files.read(tensor, elements, start)
        else:
            tensor.read_into(elements, start)
        return elements


def _runs(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors, those that follow one another in a file as one."""
    run: list[Tensor] = []
    end: tuple[Path, Dtype, int] | None = None
    for tensor in tensors:
        if not isinstance(tensor, FileTensor):
            yield from (*_whole(run), tensor)
            run, end = [], None
            continue
        if (tensor.path, tensor.dtype, tensor.offset) != end:
            yield from _whole(run)
            run = []
        run.append(tensor)
        length = size_of(tensor.shape) * tensor.dtype.itemsize
        end = (tensor.path, tensor.dtype, tensor.offset + length)
    yield from _whole(run)


def _whole(run: list[Tensor]) -> list[Tensor]:
    if len(run) < 2:
        return run
    first = run[0]
    assert isinstance(first, FileTensor)
    return [replace(first, shape=(sum(size_of(t.shape) for t in run),))]


def _as_real(tensor: Tensor) -> Tensor:
    """The tensor itself; a complex one as real and imaginary parts in turn."""
    dtype, parts = real(tensor.dtype)
    if parts == 1:
        return tensor
    shape = (*tensor.shape, parts)
    if isinstance(tensor, MemoryTensor):
        return MemoryTensor(tensor.flat.view(dtype), shape)
    if isinstance(tensor, FileTensor):
        return FileTensor(tensor.path, tensor.offset, dtype, shape)
    raise TypeError(f"a {type(tensor).__name__} of complex numbers")
