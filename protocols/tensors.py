"""Tensors as bytes: the safetensors layout, read piece by piece and written as a stream.

A blob is one safetensors file without metadata. The layout is the library's own (header padded to 8
bytes, tensors by dtype, then by name), so the same arrays always give the same bytes and any
safetensors reader opens them; a golden test holds the two together. The header of a blob that came
from a peer is believed in nothing: every length is checked against the file before it is used.

Knows nothing of Flower, of journals, or of who sent what.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

# safetensors' own dtype order (its enum), which decides the order of tensors within a file.
_ORDER = ("BOOL", "U8", "I8", "I16", "U16", "F16", "I32", "U32", "F32", "C64", "F64", "I64", "U64")
_NUMPY = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_CODE = {np.dtype(name): code for code, name in _NUMPY.items()}
NATIVE = {name: np.dtype(name) for name in _NUMPY.values()}  # what a blob can hold, by NumPy's name
MAX_HEADER = 100_000_000  # the safetensors library's own bound
MAX_DIMENSIONS = 64  # NumPy's
MAX_BYTES = 2**63 - 1  # NumPy's, counted as if an empty dimension were 1
_VECTORS = 1024  # parts that one call of the kernel's takes


class BlobError(ValueError):
    """A blob's header lies about its content, or is no safetensors header at all; or no blob can
    hold these arrays."""


class Tensor(Protocol):
    """A tensor that is read in pieces; nothing is read before it is asked for."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read_into(self, out: NDArray[Any], start: int) -> None:
        """Fill the one-dimensional `out` (of this dtype) with the elements from `start` on, in C order."""
        ...


def size_of(shape: tuple[int, ...]) -> int:
    """Elements in an array of this shape (1 for a 0-d array)."""
    return math.prod(shape)


def holds(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Whether NumPy can make an array of this dtype and shape, memory aside."""
    if len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0:
        return False
    return math.prod(n or 1 for n in shape) * dtype.itemsize <= MAX_BYTES


@dataclass(frozen=True)
class MemoryTensor:
    """A tensor whose elements lie in memory. `flat` is one-dimensional, in C order."""

    flat: NDArray[Any]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.flat.dtype

    def read_into(self, out: NDArray[Any], start: int) -> None:
        np.copyto(out, self.flat[start : start + out.size])

    @classmethod
    def of(cls, array: NDArray[Any]) -> MemoryTensor:
        """A view of `array`; a copy only if it is not in C order."""
        return cls(np.ascontiguousarray(array).reshape(-1), tuple(array.shape))


@dataclass(frozen=True)
class FileTensor:
    """A tensor inside a blob on disk; `pread` at `offset`, so resident memory stays flat."""

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read_into(self, out: NDArray[Any], start: int) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            read_exact(fd, out, self.offset + start * self.dtype.itemsize)
        finally:
            os.close(fd)

    def load(self) -> NDArray[Any]:
        """The whole tensor as a private, writable array."""
        out = np.empty(size_of(self.shape), self.dtype)
        if out.size:
            self.read_into(out, 0)
        return out.reshape(self.shape)


def read_exact(fd: int, out: NDArray[Any], offset: int) -> None:
    """`pread` exactly `out.nbytes` at `offset`; `BlobError` if the file is shorter."""
    view = out.data.cast("B")
    while view:
        n = os.preadv(fd, [view], offset)
        if n <= 0:
            raise BlobError(f"the file ends at byte {offset}")
        view, offset = view[n:], offset + n


@dataclass(frozen=True)
class Spec:
    """Where one tensor lies in a blob: `start` and `stop` count from the file's first byte."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int
    dtype_name: str

    def open(self, path: Path) -> FileTensor:
        return FileTensor(path, self.start, self.dtype, self.shape)


def load_all(path: Path, specs: Collection[Spec]) -> dict[str, NDArray[Any]]:
    """These tensors of one blob, which follow one another there, as private, writable arrays."""
    arrays = {spec.name: np.empty(spec.shape, spec.dtype) for spec in specs}
    parts = [a.reshape(-1).data.cast("B") for a in arrays.values() if a.size]
    fd = os.open(path, os.O_RDONLY)
    try:
        at = min((spec.start for spec in specs), default=0)
        for first in range(0, len(parts), _VECTORS):
            at = _read_into_parts(fd, parts[first : first + _VECTORS], at)
    finally:
        os.close(fd)
    return arrays


def _read_into_parts(fd: int, parts: list[memoryview], offset: int) -> int:
    """Fill `parts` one after the other with what is at `offset`; where they end. Or `BlobError`."""
    while parts:
        n = os.preadv(fd, parts, offset)
        if n <= 0:
            raise BlobError(f"the file ends at byte {offset}")
        offset += n
        while parts and n >= len(parts[0]):
            n -= len(parts.pop(0))
        if parts:
            parts[0] = parts[0][n:]
    return offset


def _escape(name: str) -> str:
    try:
        escaped = quote(name, safe="")
    except UnicodeEncodeError:
        raise BlobError(f"{name!r} is not text that can be a name") from None
    return "%5F" + escaped[1:] if escaped == "__metadata__" else escaped


def header_of(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
) -> tuple[bytes, Sequence[str]]:
    """The first bytes of a blob with these tensors, and the order in which their bytes follow.

    `BlobError` for a name with lone surrogates.
    """
    return _header(tuple((name, *tensors[name]) for name in tensors))


@lru_cache(maxsize=64)  # a run's messages carry the same few sets of tensors again and again
def _header(
    tensors: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...],
) -> tuple[bytes, tuple[str, ...]]:
    ordered = sorted(tensors, key=lambda t: (-_ORDER.index(_CODE[t[1]]), _escape(t[0])))
    header: dict[str, Any] = {}
    end = 0
    for name, dtype, shape in ordered:
        start, end = end, end + size_of(shape) * dtype.itemsize
        header[_escape(name)] = {
            "dtype": _CODE[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, tuple(name for name, _, _ in ordered)


def encode(arrays: Mapping[str, NDArray[Any]]) -> Iterator[memoryview]:
    """The bytes of the blob that holds `arrays`, piece by piece and without a copy."""
    head, names = header_of({n: (a.dtype, tuple(a.shape)) for n, a in arrays.items()})
    yield memoryview(head)
    for name in names:
        if arrays[name].size:
            yield np.ascontiguousarray(arrays[name]).reshape(-1).data.cast("B")


def _field(entry: Any, key: str) -> Any:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BlobError("a header entry has other fields than dtype, shape and data_offsets")
    return entry[key]


def _counts(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(v) is int and 0 <= v < 2**62 for v in value):
        raise BlobError("a header holds a list that is not of non-negative integers")
    return tuple(value)


def _spec(escaped: str, entry: Any, base: int, expected: int) -> Spec:
    code, shape, offsets = (
        _field(entry, "dtype"),
        _counts(_field(entry, "shape")),
        _counts(_field(entry, "data_offsets")),
    )
    if not isinstance(code, str) or code not in _NUMPY:
        raise BlobError(f"unknown dtype {code!r}")
    dtype = np.dtype(_NUMPY[code])
    if not holds(dtype, shape):
        raise BlobError("a tensor has more dimensions, or larger ones, than an array can have")
    if len(offsets) != 2 or offsets[0] != expected:
        raise BlobError("the tensors do not follow one another without gaps")
    if offsets[1] - offsets[0] != size_of(shape) * dtype.itemsize:
        raise BlobError("a tensor's shape and length contradict each other")
    name = _unescape(escaped)
    return Spec(name, dtype, shape, base + offsets[0], base + offsets[1], _NUMPY[code])


def _unescape(escaped: str) -> str:
    try:
        name = unquote(escaped, errors="strict")
    except UnicodeDecodeError:
        raise BlobError("a tensor's name is not UTF-8") from None
    if _escape(name) != escaped:
        raise BlobError("a tensor's name is not in canonical form")
    return name


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({k for k, _ in pairs}) != len(pairs):
        raise BlobError("a header names a field twice")
    return dict(pairs)


def parse(first: bytes, length: int) -> dict[str, Spec]:
    """The tensors of a blob of `length` bytes that begins with `first` (its whole header, or more).

    Strict: exactly the bytes that `encode` writes for these tensors, or `BlobError`.
    """
    size = header_length(first, length)
    if len(first) < 8 + size:
        raise BlobError("the header is cut off")
    text = bytes(first[8 : 8 + size])
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BlobError(f"the header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise BlobError("the header is not a JSON object")
    specs: dict[str, Spec] = {}
    end = 0
    for escaped, entry in header.items():
        spec = _spec(escaped, entry, 8 + size, end)
        end = spec.stop - 8 - size
        specs[spec.name] = spec
    if 8 + size + end != length:
        raise BlobError(f"the file has {length} bytes, its header accounts for {8 + size + end}")
    # What a peer claims is kept only where it is small: the cache must not grow with its headers.
    header_again = _header if size <= 65536 else _header.__wrapped__
    claimed = tuple((s.name, s.dtype, s.shape) for s in specs.values())
    if header_again(claimed)[0] != first[: 8 + size]:
        raise BlobError("the header is not in canonical form")
    return specs


def header_length(first: bytes, length: int) -> int:
    """The length of the header's JSON, from a blob's first 8 bytes; checked against the file's length."""
    if len(first) < 8 or length < 8:
        raise BlobError("the file is too short for a header")
    size = int.from_bytes(first[:8], "little")
    if size > min(length - 8, MAX_HEADER):
        raise BlobError("the header claims to be longer than the file")
    return size


def open_blob(path: Path) -> dict[str, Spec]:
    """The tensors in the blob at `path`; `BlobError` if it is not one."""
    fd = os.open(path, os.O_RDONLY)
    try:
        length = os.fstat(fd).st_size
        first = os.pread(fd, 65536, 0)
        size = header_length(first, length)
        if len(first) < 8 + size:
            first = os.pread(fd, 8 + size, 0)
    finally:
        os.close(fd)
    return parse(first, length)


def first_nonfinite(path: Path, specs: Iterable[Spec], chunk: int = 1 << 18) -> str | None:
    """The name of the first floating tensor that holds NaN or infinity, or None. Memory: one chunk."""
    fd = os.open(path, os.O_RDONLY)
    buffers: dict[np.dtype[Any], NDArray[Any]] = {}
    try:
        for spec in specs:
            if spec.dtype.kind not in "fc":
                continue
            count = size_of(spec.shape)
            buffer = buffers.setdefault(spec.dtype, np.empty(chunk, spec.dtype))
            for start in range(0, count, chunk):
                part = buffer[: min(chunk, count - start)]
                read_exact(fd, part, spec.start + start * spec.dtype.itemsize)
                if not np.isfinite(part).all():
                    return spec.name
    finally:
        os.close(fd)
    return None
