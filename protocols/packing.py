"""How one array's delta is written in fewer bytes, and read back in float64 without rounding.

Each element follows from its own block, and every length from the number of elements alone. Pure NumPy;
knows nothing of names, models or records: those are `codecs`'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from barnraise.protocols.tensors import MemoryTensor, Tensor, size_of

F64 = NDArray[np.float64]
Dtype = np.dtype[Any]
Parts = Mapping[str, Tensor]
Coded = dict[str, NDArray[Any]]

VALUES, SCALES, PLACES = "v", "s", "i"
PIECE = 1 << 18  # elements that a check looks at together


class CodecError(ValueError):
    """Arrays that the codec would not write for this model. `nonfinite`: since they hold NaN or infinity."""

    def __init__(self, what: str, *, nonfinite: bool = False) -> None:
        super().__init__(what)
        self.nonfinite = nonfinite


class Codec(Protocol):
    """How one array's delta of n elements is written. Parts go by `VALUES`, `SCALES`, `PLACES`."""

    meaning: str
    feedback: bool
    """Whether what the coding loses is added to the next delta."""

    def lengths(self, n: int) -> Mapping[str, tuple[Dtype, int]]:
        """The parts, each with its dtype and length."""
        ...

    def encode(self, delta: F64) -> Coded:
        """The parts for this delta, of shape (n,). What is not finite stays so."""
        ...

    def decode(self, parts: Parts, start: int, out: F64) -> None:
        """Fill `out` with the delta's elements from `start` on."""
        ...

    def check(self, parts: Parts, n: int) -> None:
        """Raises `CodecError` for finite content that `encode` would not write; lengths are right."""
        ...


class Fp32:
    """Each element rounded to float32."""

    meaning, feedback = "the delta in float32", False

    def lengths(self, n: int) -> Mapping[str, tuple[Dtype, int]]:
        return {VALUES: (np.dtype(np.float32), n)}

    def encode(self, delta: F64) -> Coded:
        return {VALUES: _to_float32(delta)}

    def decode(self, parts: Parts, start: int, out: F64) -> None:
        out[:] = read(parts[VALUES], start, out.size)

    def check(self, parts: Parts, n: int) -> None:
        """Nothing: every content is some delta's."""


class Bf16:
    """Each element rounded to bfloat16, half to even: 8 bits of precision, the range of float32."""

    meaning, feedback = "the delta in bfloat16", False

    def lengths(self, n: int) -> Mapping[str, tuple[Dtype, int]]:
        return {VALUES: (np.dtype(np.uint16), n)}

    def encode(self, delta: F64) -> Coded:
        return {VALUES: to_bfloat16(_to_float32(delta))}

    def decode(self, parts: Parts, start: int, out: F64) -> None:
        out[:] = from_bfloat16(read(parts[VALUES], start, out.size))

    def check(self, parts: Parts, n: int) -> None:
        """Nothing: every content is some delta's."""


class Levels:
    """Whole levels in [-top, top] times a float32 scale for each block: its largest magnitude / top."""

    def __init__(self, bits: int, block: int, meaning: str, *, feedback: bool) -> None:
        self.bits, self.block, self.meaning, self.feedback = bits, block, meaning, feedback
        self.top = (1 << (bits - 1)) - 1

    def lengths(self, n: int) -> Mapping[str, tuple[Dtype, int]]:
        scales = (np.dtype(np.float32), _blocks(n, self.block))
        if self.bits == 8:
            return {VALUES: (np.dtype(np.int8), n), SCALES: scales}
        return {VALUES: (np.dtype(np.uint8), (n + 1) // 2), SCALES: scales}

    def encode(self, delta: F64) -> Coded:
        n = delta.size
        rows = np.zeros((_blocks(n, self.block), self.block))
        rows.reshape(-1)[:n] = delta
        with np.errstate(all="ignore"):
            scales = _to_float32(np.abs(rows).max(axis=1, initial=0.0) / self.top)
            np.divide(rows, scales[:, None], out=rows)
        rows[~np.isfinite(rows)] = (
            0.0  # 0 / 0, and blocks whose scale says that they are not finite
        )
        levels = np.rint(rows).clip(-self.top, self.top).astype(np.int8).reshape(-1)[:n]
        return {VALUES: levels if self.bits == 8 else _pack(levels), SCALES: scales}

    def decode(self, parts: Parts, start: int, out: F64) -> None:
        stop = start + out.size
        if self.bits == 8:
            out[:] = read(parts[VALUES], start, out.size)
        else:
            first, last = start // 2, (stop + 1) // 2
            levels = _unpack(read(parts[VALUES], first, last - first))
            out[:] = levels[start - 2 * first : stop - 2 * first]
        first, last = start // self.block, _blocks(stop, self.block)
        scales = np.repeat(read(parts[SCALES], first, last - first), self.block)
        np.multiply(out, scales[start - first * self.block :][: out.size], out=out)

    def check(self, parts: Parts, n: int) -> None:
        if self.bits == 4 and n % 2 and read(parts[VALUES], n // 2, 1)[0] >> 4:
            raise CodecError("the half byte behind its last level is not zero")


class TopK:
    """In each block the largest magnitudes, one in `one_in` and at least one, in bfloat16; else zero.

    Within blocks, as in arXiv 2411.19870 and 2508.15706: each block's length is known before it is read.
    """

    feedback = True

    def __init__(self, block: int, one_in: int, meaning: str) -> None:
        self.block, self.one_in, self.meaning = block, one_in, meaning
        self.kept = block // one_in

    def lengths(self, n: int) -> Mapping[str, tuple[Dtype, int]]:
        whole, rest = divmod(n, self.block)
        kept = whole * self.kept + -(-rest // self.one_in)
        return {VALUES: (np.dtype(np.uint16), kept), PLACES: (np.dtype(np.uint16), kept)}

    def encode(self, delta: F64) -> Coded:
        places, values = [np.empty(0, np.uint16)], [np.empty(0)]
        for start in range(0, delta.size, self.block):
            block = delta[start : start + self.block]
            order = np.argsort(-np.abs(block), kind="stable")  # NaN last
            chosen = np.sort(order[: -(-block.size // self.one_in)])
            if not np.isfinite(block).all():
                chosen = np.arange(chosen.size)
                block = np.full(block.size, np.nan)
            places.append(chosen.astype(np.uint16))
            values.append(block[chosen])
        kept = to_bfloat16(_to_float32(np.concatenate(values)))
        return {VALUES: kept, PLACES: np.concatenate(places)}

    def decode(self, parts: Parts, start: int, out: F64) -> None:
        first, last = start // self.block, _blocks(start + out.size, self.block)
        at = first * self.kept
        count = min(last * self.kept, size_of(parts[PLACES].shape)) - at
        values = from_bfloat16(read(parts[VALUES], at, count))
        where = self._where(read(parts[PLACES], at, count)) + first * self.block - start
        inside = (where >= 0) & (where < out.size)
        out.fill(0.0)
        out[where[inside]] = values[inside]

    def _where(self, places: NDArray[Any]) -> NDArray[np.int64]:
        """Places within blocks as places from the first of these blocks on."""
        blocks = np.arange(places.size, dtype=np.int64) // self.kept
        where: NDArray[np.int64] = blocks * self.block + places
        return where

    def check(self, parts: Parts, n: int) -> None:
        step = PIECE // self.kept * self.kept
        count = size_of(parts[PLACES].shape)
        for at in range(0, count, step):
            places = read(parts[PLACES], at, min(step, count - at))
            where = self._where(places)
            room = n - at // self.kept * self.block
            if places.max() >= self.block or where[-1] >= room or (np.diff(where) <= 0).any():
                raise CodecError("the places of its values are not ascending within their blocks")


# --- numbers ----------------------------------------------------------------------------------------


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bfloat16 as its bits: rounded half to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(
        16
    )
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32s with these upper halves."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _to_float32(values: F64) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def _pack(levels: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Levels in [-7, 7] as 1 to 15, two a byte, the first in the lower half."""
    halves = np.zeros(levels.size + levels.size % 2, np.uint8)
    halves[: levels.size] = (levels + np.int8(8)).astype(np.uint8)
    return halves[0::2] | (halves[1::2] << np.uint8(4))


def _unpack(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    halves = np.empty(2 * packed.size, np.int8)
    halves[0::2] = (packed & np.uint8(15)).astype(np.int8) - np.int8(8)
    halves[1::2] = (packed >> np.uint8(4)).astype(np.int8) - np.int8(8)
    return halves


def _blocks(n: int, block: int) -> int:
    return -(-n // block)


def read(tensor: Tensor, start: int, count: int) -> NDArray[Any]:
    if isinstance(tensor, MemoryTensor):
        return tensor.flat[start : start + count]
    out = np.empty(count, tensor.dtype)
    if count:
        tensor.read_into(out, start)
    return out


def pieces(tensor: Tensor) -> Iterator[NDArray[Any]]:
    size = size_of(tuple(tensor.shape))
    for start in range(0, size, PIECE):
        yield read(tensor, start, min(PIECE, size - start))
