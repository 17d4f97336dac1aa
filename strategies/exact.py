"""The one exact pass in which the members' replies become the next model.

Every element is worked on in float64 with correctly rounded operations only (`np.multiply`, `np.add`,
`np.subtract`, `np.divide`, `np.sqrt`, comparisons; never fused, never `pow`, never a reduction whose order
hangs on the processor), then rounded once. No element knows of another, so the bytes follow from the
members, in the order given, and from nothing else: not from the chunk size or the number of threads.

    reduce    the members' elements, in order                   a `Fold`
    step      base and pseudo-gradient, base - reduced          an `Outer`, if there is one
    round     once, to the dtype of the model or of the state

Floating arrays go all three ways, complex ones as real and imaginary parts. Integer and boolean arrays
(counters, masks) are reduced and rounded half to even; no outer step is taken on them.

Memory: the result and O(chunk x threads). Replies on disk are read by `pread` into reused buffers.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from barnraise.protocols.tensors import FileTensor, Tensor, size_of
from barnraise.strategies.columns import F64, Column, Dtype, Files, real

CHUNK = 1 << 17  # elements; the fastest for large models, as measured
ROOM = 1 << 19  # elements in all the rows of a fold that holds many: what a processor keeps near
WORTH = 1 << 21  # elements to read that are worth a further thread
SPAN = 1 << 21  # elements whose results are held before they are handed over
MAX_THREADS = 8  # memory is the limit, not processors

Form = Mapping[str, tuple[Dtype, tuple[int, ...]]]
Arrays = Mapping[str, Tensor]
Kept = TypeVar("Kept")


class Row(Protocol):
    """A member's elements of one chunk."""

    @property
    def dtype(self) -> Dtype:
        """float32 if that holds each of them exactly, else float64."""
        ...

    def __call__(self, out: NDArray[Any]) -> None:
        """Fill `out`, of this dtype or of float64, with the elements."""
        ...


class Fold(Protocol):
    """How the members' elements become one. Elementwise, and exact as this module's docstring says."""

    rows: int
    """How many scratch rows `reduce` needs."""

    hides: bool
    """Whether NaN or infinity at a member may not show in the outcome; then it is looked for."""

    def reduce(self, members: Sequence[Row], out: F64, scratch: Sequence[F64]) -> None:
        """Leave the reduction in `out`. Each of `members` fills a row with its elements; in order."""
        ...


class Outer(Protocol):
    """How a pseudo-gradient changes the model. Elementwise, and exact as this module's docstring says."""

    state: tuple[str, ...]
    """Names of what is kept from round to round, each of the shape of the model; zero at first."""

    def step(self, base: F64, gradient: F64, state: Sequence[F64], scratch: F64) -> None:
        """Turn `base` into the next model and `state` into the next state, in place.

        `gradient` and `scratch` may be overwritten.
        """
        ...


class WeightedMean:
    """The mean of n members under integer weights w_i, divided once:

        ((x_1 * w_1 + x_2 * w_2) + ... + x_n * w_n) / (w_1 + ... + w_n)

    folded from the left, each operation rounded to float64. The weights are first divided by their
    greatest common divisor: equal weights are 1, and multiply nothing.

    Raises `ValueError` unless every weight is a positive integer and their sum is below 2^53, up to
    where float64 holds every integer.
    """

    rows, hides = 1, False

    def __init__(self, weights: Sequence[int]) -> None:
        if not weights or not all(type(w) is int and w > 0 for w in weights):
            raise ValueError("the weights are not positive integers")
        if sum(weights) >= 2**53:
            raise ValueError("the sum of the weights is not below 2^53")
        common = math.gcd(*weights)
        self._weights = [float(w // common) for w in weights]
        self._total = float(sum(weights) // common)

    def reduce(self, members: Sequence[Row], out: F64, scratch: Sequence[F64]) -> None:
        row = out
        for read, weight in zip(members, self._weights, strict=True):
            read(row)
            if weight != 1.0:
                np.multiply(row, weight, out=row)
            if row is not out:
                np.add(out, row, out=out)
            row = scratch[0]
        np.divide(out, self._total, out=out)


@dataclass(frozen=True)
class Step:
    """An outer step: by which optimizer, from which model, from which state (None: zeros)."""

    outer: Outer
    base: Arrays
    state: Mapping[str, Arrays] | None = None

    def sources(self) -> list[Arrays]:
        """The base, then each state there is, in the optimizer's order."""
        state = self.state
        return [self.base, *([state[name] for name in self.outer.state] if state else [])]


@dataclass
class Advanced(Generic[Kept]):
    """The next model and state by array name.

    `finite`: no floating element of either is NaN or infinite, nor of a member whose fold would hide it.
    """

    model: dict[str, Kept] = field(default_factory=dict)
    state: dict[str, dict[str, Kept]] = field(default_factory=dict)
    finite: bool = True


def advance(
    form: Form,
    members: Sequence[Arrays],
    fold: Fold,
    keep: Callable[[NDArray[Any]], Kept],
    *,
    step: Step | None = None,
    chunk: int | None = None,
    threads: int | None = None,
) -> Advanced[Kept]:
    """The next model from `members`, in canonical order, each of which has every array of `form`.

    `form` names each array's dtype and shape; `keep` makes of each finished array what is returned, and
    copies it: its memory is used again.
    State is float32, or float64 where the model is. `chunk` (elements) and `threads` change the speed
    and nothing else; by default there are as many threads as processors, 8 at most, and fewer where
    there is little to do. Raises `BlobError` or `OSError` if a reply on disk cannot be read.
    """
    sources = [*members, *(step.sources() if step else [])]
    spans = list(_spans(form, sources[0]))
    largest = max((span.size for span in spans), default=0)
    threads = threads or min(default_threads(), 1 + largest * len(sources) // WORTH)
    states = step.outer.state if step else ()
    rows = 2 + max(1, fold.rows) + len(states)
    most = CHUNK if fold.rows == 1 else max(1, min(CHUNK, ROOM // rows))
    chunk = chunk or max(1, min(most, -(-largest // threads)))
    results = _Results()
    done: Advanced[Kept] = Advanced(state={name: {} for name in states})
    with (
        Files(tensor for source in sources for tensor in source.values()) as files,
        _Crew(threads, chunk, rows) as crew,
    ):
        for span in spans:
            task = _Task(span, members, fold, step, files, results)
            done.finite &= crew.run(task)
            for into, flat in zip([done.model, *done.state.values()], task.results, strict=False):
                into.update((name, keep(array)) for name, array in _cut(flat, span, form))
    for into in (done.model, *done.state.values()):
        _restore_order(into, form)
    return done


def default_threads() -> int:
    """The processors that this process may use, at most `MAX_THREADS`."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MAX_THREADS, ours or 1)


def state_dtype(dtype: Dtype) -> Dtype:
    """What the state beside a model of this real floating dtype is kept in."""
    return np.result_type(dtype, np.float32)


def round_into(row: F64, out: NDArray[Any]) -> None:
    """Round `row` once to the dtype of `out`, half to even; integers stay in range. Overwrites `row`."""
    if out.dtype.kind in "iub":
        np.rint(row, out=row)
    if out.dtype.kind in "iu" and (top := float(np.iinfo(out.dtype).max)) > np.iinfo(out.dtype).max:
        np.minimum(row, np.nextafter(top, 0.0), out=row)  # 2^63 and 2^64 do not fit
    np.copyto(out, row, casting="unsafe")


# --- what is worked on at a time ------------------------------------------------------------------


@dataclass(frozen=True)
class _Span:
    """Arrays of one dtype, laid end to end. Counted in real elements."""

    dtype: Dtype
    names: Sequence[str]
    size: int


def _spans(form: Form, first: Arrays) -> Iterator[_Span]:
    """The arrays by dtype, in the order in which they lie in the first source's blob."""
    groups: dict[Dtype, list[str]] = {}
    for name, (dtype, _) in form.items():
        groups.setdefault(real(dtype)[0], []).append(name)
    for dtype, names in groups.items():
        names.sort(key=lambda name: _offset(first[name]))
        held: list[str] = []
        size = 0
        for name in names:
            count = size_of(form[name][1]) * real(form[name][0])[1]
            if held and size + count > SPAN:
                yield _Span(dtype, held, size)
                held, size = [], 0
            held.append(name)
            size += count
        yield _Span(dtype, held, size)


def _offset(tensor: Tensor) -> int:
    return tensor.offset if isinstance(tensor, FileTensor) else 0


def _cut(flat: NDArray[Any], span: _Span, form: Form) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a span's result, each in its own shape."""
    at = 0
    for name in span.names:
        dtype, shape = form[name]
        parts = real(dtype)[1]
        part = flat[at : (at := at + size_of(shape) * parts)]
        if parts == 2:
            part = part.view(f"c{2 * part.itemsize}")
        yield name, part.reshape(shape)


def _restore_order(arrays: dict[str, Kept], form: Form) -> None:
    for name in form:
        if name in arrays:
            arrays[name] = arrays.pop(name)


class _Results:
    """Where spans leave their results, one after another in the same memory."""

    def __init__(self) -> None:
        self._held: dict[int, NDArray[np.uint8]] = {}

    def take(self, number: int, dtype: Dtype, size: int) -> NDArray[Any]:
        room = self._held.get(number)
        if room is None or room.size < size * dtype.itemsize:
            room = self._held[number] = np.empty(size * dtype.itemsize, np.uint8)
        return room[: size * dtype.itemsize].view(dtype)


class _Task:
    """One span: where its elements come from, where its results go."""

    def __init__(
        self,
        span: _Span,
        members: Sequence[Arrays],
        fold: Fold,
        step: Step | None,
        files: Files,
        results: _Results,
    ) -> None:
        self._step = step if span.dtype.kind == "f" else None
        self._fold = fold
        self._look = fold.hides and span.dtype.kind == "f"
        self._members = [Column([m[n] for n in span.names], files) for m in members]
        beside = self._step.sources() if self._step else []
        self._beside = [Column([s[n] for n in span.names], files) for s in beside]
        states = len(self._step.outer.state) if self._step else 0
        dtypes = [span.dtype, *[state_dtype(span.dtype)] * states]
        self.results = [results.take(i, dtype, span.size) for i, dtype in enumerate(dtypes)]
        self.size = span.size

    def do(self, start: int, rows: Sequence[F64], raw: NDArray[np.uint8]) -> bool:
        """Work on the elements from `start` on, as many as a row has. True if all is finite."""
        members = [_Read(column, start, raw, self._look) for column in self._members]
        reduced, *scratch = rows
        self._fold.reduce(members, reduced, scratch)
        outcome = [reduced]
        if self._step is not None:
            outcome = self._take_step(self._step.outer, start, rows, raw)
        for row, result in zip(outcome, self.results, strict=True):
            round_into(row, result[start : start + row.size])
        finite = all(member.finite for member in members)
        made = [result[start : start + reduced.size] for result in self.results]
        return finite and all(bool(np.isfinite(a).all()) for a in made if a.dtype.kind == "f")

    def _take_step(
        self, outer: Outer, start: int, rows: Sequence[F64], raw: NDArray[np.uint8]
    ) -> list[F64]:
        gradient, scratch, base, *state = rows[: 3 + len(outer.state)]
        for column, row in zip(self._beside, [base, *state], strict=False):
            column.read(start, raw, row)
        for row in state[len(self._beside) - 1 :]:
            row.fill(0.0)
        np.subtract(base, gradient, out=gradient)
        outer.step(base, gradient, state, scratch)
        return [base, *state]


class _Read:
    """A `Row` of a column. `finite`: nothing else was seen, if it looks at all."""

    def __init__(self, column: Column, start: int, raw: NDArray[np.uint8], look: bool) -> None:
        self._column, self._start, self._raw, self._look = column, start, raw, look
        self.dtype = column.dtype
        self.finite = True

    def __call__(self, out: NDArray[Any]) -> None:
        self._column.read(self._start, self._raw, out)
        if self._look:
            self.finite &= bool(np.isfinite(out).all())


class _Room:
    """One thread's buffers: float64 rows and raw bytes."""

    def __init__(self, rows: int, chunk: int) -> None:
        self._space = np.empty(rows * chunk)
        self._raw = np.empty(8 * chunk, np.uint8)

    def fits(self, rows: int, chunk: int) -> bool:
        return self._space.size >= rows * chunk and self._raw.size >= 8 * chunk

    def divided(self, rows: int, n: int) -> tuple[list[F64], NDArray[np.uint8]]:
        return [self._space[i * n : (i + 1) * n] for i in range(rows)], self._raw


_idle: deque[_Room] = deque(maxlen=MAX_THREADS)
"""Rooms of passes that are over: to touch fresh memory costs as much as to reduce a small model."""


def _room(rows: int, chunk: int) -> _Room:
    try:
        room = _idle.pop()
    except IndexError:
        return _Room(rows, chunk)
    return room if room.fits(rows, chunk) else _Room(rows, chunk)


class _Crew:
    """Threads that share a task's chunks, each in a room of its own."""

    def __init__(self, threads: int, chunk: int, rows: int) -> None:
        self._chunk, self._rows = chunk, rows
        self._rooms = [_room(rows, chunk) for _ in range(threads)]
        self._free: SimpleQueue[_Room] = SimpleQueue()
        for room in self._rooms:
            self._free.put(room)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        _idle.extend(self._rooms)

    def run(self, task: _Task) -> bool:
        """Do every chunk; True if each was finite. Raises the first error of any."""
        starts = range(0, task.size, self._chunk)
        do = partial(self._do, task)
        each = map if self._pool is None or len(starts) < 2 else self._pool.map
        finite = list(each(do, starts))  # all of them, whatever the first is
        return all(finite)

    def _do(self, task: _Task, start: int) -> bool:
        room = self._free.get()
        n = min(self._chunk, task.size - start)
        try:
            with np.errstate(all="ignore"):
                return task.do(start, *room.divided(self._rows, n))
        finally:
            self._free.put(room)
