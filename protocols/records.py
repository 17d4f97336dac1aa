"""Flower's records as content: RecordDict ⇄ envelope and blobs, with lazily read arrays.

The half of the adapter that stands on flwr's public classes alone. Of their inside it uses that flwr goes
by an array's class name, that an array is its four fields, and that a record keeps its items in `_data`.
Knows neither messages nor apps.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from barnraise.protocols.content import NUMPY, ArrayEntry, Arrays, ContentError, Envelope, Values
from barnraise.protocols.tensors import (
    NATIVE,
    BlobError,
    FileTensor,
    MemoryTensor,
    Spec,
    Tensor,
    holds,
    load_all,
    size_of,
)
from barnraise.protocols.tensors import encode as encode_blob

_SMALL = 4 << 20  # bytes of a blob that is put together, and read, in one piece
_NAMES = {dtype: name for name, dtype in NATIVE.items()}


class BlobSource(Protocol):
    """Where blobs are read from."""

    def path(self, digest: str) -> Path:
        """The file that holds this blob."""
        ...

    def specs(self, digest: str) -> Mapping[str, Spec]:
        """The tensors in this blob."""
        ...


class BlobSink(BlobSource, Protocol):
    """Where blobs are written to."""

    def has(self, digest: str) -> bool: ...

    def put(self, pieces: Iterator[memoryview]) -> str:
        """Store the bytes, hashed while they flow; returns their digest."""
        ...


# --- arrays ---------------------------------------------------------------------------------------


class _Together:
    """The arrays of one record: whoever asks for the first wants the others next.

    If their blob is small, one call reads them all. What was read and not yet asked for is kept for one
    record only, in the whole process: an app that looks at the first array of each reply holds no more.
    """

    _read: ClassVar[tuple[_Together | None, dict[str, NDArray[Any]]]] = (None, {})

    def __init__(self, first: str, path: Path, specs: Collection[Spec]) -> None:
        self._first, self._path, self._specs = first, path, specs

    def load(self, spec: Spec) -> NDArray[Any]:
        """The array of this spec, private and writable. Threads may ask at once: each gets its own."""
        whose, arrays = _Together._read
        if whose is self and (array := arrays.pop(spec.name, None)) is not None:
            return array
        if spec.name != self._first:
            return spec.open(self._path).load()
        arrays = load_all(self._path, self._specs)
        array = arrays.pop(spec.name)
        _Together._read = (self, arrays)
        return array


class LazyArray(Array):
    """A flwr `Array` whose bytes stay in a blob on disk until they are asked for.

    `numpy()` reads them into a private, writable array; `data` builds npy bytes afresh each time.
    Setting any field turns it into an ordinary array. flwr goes by the class name: keep it.
    `together`: the arrays of its record, where they are small.
    """

    def __init__(
        self,
        digest: str,
        path: Path,
        spec: Spec,
        raw: tuple[str, str, tuple[int, ...]] | None,
        together: _Together | None = None,
    ) -> None:
        held = self.__dict__
        held["stype"], held["dtype"], held["shape"] = raw or (NUMPY, spec.dtype_name, spec.shape)
        held["_blob"], held["_raw"] = (digest, path, spec), raw is not None
        held["_together"] = together

    @property
    def data(self) -> bytes:
        if (held := self.__dict__.get("_held")) is not None:
            return cast(bytes, held)
        payload = self.tensor().load()
        if self.__dict__["_raw"]:
            return payload.tobytes()
        return _npy_header(payload.dtype, payload.shape) + payload.tobytes()

    @data.setter
    def data(self, value: bytes) -> None:
        self.__dict__["_held"] = value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("dtype", "shape", "stype") and not self.changed:
            self.__dict__["_held"] = self.data
        super().__setattr__(name, value)

    @property
    def changed(self) -> bool:
        """Whether someone has set a field, so that the blob no longer speaks for this array."""
        return "_held" in self.__dict__

    @property
    def blob(self) -> str:
        return cast(str, self.__dict__["_blob"][0])

    @property
    def native(self) -> bool:
        return not self.__dict__["_raw"] and not self.changed

    @property
    def spec(self) -> Spec:
        return cast(Spec, self.__dict__["_blob"][2])

    def tensor(self) -> FileTensor:
        _, path, spec = self.__dict__["_blob"]
        return cast(Spec, spec).open(path)

    def numpy(self) -> NDArray[Any]:
        if not self.native:
            return super().numpy()
        together = cast("_Together | None", self.__dict__["_together"])
        return self.tensor().load() if together is None else together.load(self.spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        return (self.dtype, self.shape, self.stype, self.data) == (
            other.dtype,
            other.shape,
            other.stype,
            other.data,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Array(dtype={self.dtype!r}, shape={self.shape!r}, stype={self.stype!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Array, (self.dtype, self.shape, self.stype, self.data))


LazyArray.__qualname__ = "Array"


@lru_cache(maxsize=4096)
def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool = False) -> bytes:
    """The bytes that `np.save` puts before an array of this dtype, shape and order."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out,
        {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": fortran,
            "shape": shape,
        },
    )
    return out.getvalue()


def array_of(array: NDArray[Any]) -> Array:
    """An ordinary flwr `Array` with the elements of `array`, in C order; copies them once."""
    payload = np.ascontiguousarray(array).reshape(-1).data.cast("B") if array.size else b""
    data = b"".join((_npy_header(array.dtype, array.shape), payload))
    made = Array.__new__(Array)
    name = _NAMES.get(array.dtype) or str(array.dtype)
    made.__dict__.update(dtype=name, shape=array.shape, stype=NUMPY, data=data)
    return made


@contextmanager
def one_copy_arrays() -> Iterator[None]:
    """Inside, flwr makes an `Array` of a NumPy array with one copy instead of three: the same bytes."""
    original = Array.__dict__["from_numpy_ndarray"]

    def from_numpy_ndarray(cls: type[Array], ndarray: NDArray[Any]) -> Array:
        if type(ndarray) is np.ndarray and ndarray.flags.c_contiguous and ndarray.dtype in _NAMES:
            return array_of(ndarray)
        return cast(Array, original.__func__(cls, ndarray))

    Array.from_numpy_ndarray = classmethod(from_numpy_ndarray)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Array.from_numpy_ndarray = original  # type: ignore[method-assign]


@dataclass(frozen=True)
class _Npy:
    """How `np.save` writes an array: its header, and how long the whole is. `order`: C or F."""

    dtype: np.dtype[Any]
    header: bytes
    length: int
    order: Literal["C", "F"]


@lru_cache(maxsize=4096)
def _npy_forms(name: str, shape: tuple[int, ...]) -> tuple[_Npy, ...]:
    """The two forms of an array of this dtype and shape; none if a blob cannot hold it natively."""
    dtype = NATIVE.get(name)
    if dtype is None or not holds(dtype, shape):
        return ()
    size = size_of(shape) * dtype.itemsize
    headers = {"C": _npy_header(dtype, shape), "F": _npy_header(dtype, shape, fortran=True)}
    return tuple(_Npy(dtype, h, len(h) + size, cast(Any, order)) for order, h in headers.items())


def _native(array: Array) -> NDArray[Any] | None:
    """The elements in C order, without a copy where possible; None if a blob cannot hold them natively.

    Reads exactly what `np.save` writes, in C or Fortran order: no length in `array.data` is believed.
    """
    shape = _shape(array)
    if array.stype != NUMPY:
        return None
    data = array.data
    for form in _npy_forms(array.dtype, shape):
        if len(data) == form.length and data.startswith(form.header):
            flat = np.frombuffer(data, form.dtype, offset=len(form.header))
            return np.asarray(flat.reshape(shape, order=form.order), order="C")
    return None


def _shape(array: Array) -> tuple[int, ...]:
    try:
        return tuple(index(n) for n in array.shape)
    except TypeError:
        raise ContentError(f"an array's shape is {array.shape!r}") from None


def tensor_of(array: Array) -> Tensor:
    """The array's elements, read in pieces; `TypeError` if they are not a NumPy array's."""
    if isinstance(array, LazyArray) and array.native:
        return array.tensor()
    elements = _native(array)
    if elements is None:
        raise TypeError(
            f"an array of stype {array.stype!r} and dtype {array.dtype!r} has no elements"
        )
    return MemoryTensor.of(elements)


# --- records ⇄ content ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Unnamed:
    """An array record whose blob lies in memory, in one piece, and is still to be put."""

    data: bytes
    entries: tuple[ArrayEntry, ...]


@dataclass(frozen=True)
class Draft:
    """Content whose small blobs are still to be put. Whatever becomes of the records, it stays."""

    parts: tuple[tuple[str, Arrays | Values | Unnamed], ...]

    @property
    def unnamed(self) -> list[bytes]:
        """The blobs that are still to be put."""
        return [part.data for _, part in self.parts if isinstance(part, Unnamed)]

    def named(self, digests: Iterable[str]) -> Envelope:
        """The content, given the digests of those blobs in their sequence."""
        each = iter(digests)
        return Envelope(
            tuple(
                (name, Arrays(next(each), part.entries) if isinstance(part, Unnamed) else part)
                for name, part in self.parts
            )
        )


def encode(records: RecordDict, sink: BlobSink) -> Envelope:
    """The content of `records`; its blobs go to `sink`. `ContentError` if the format cannot hold it.

    Elements of NumPy arrays come out as they went in; their `data` comes out in C order.
    """
    drafted = draft(records, sink)
    return drafted.named(sink.put(iter([memoryview(data)])) for data in drafted.unnamed)


def draft(records: RecordDict, sink: BlobSink) -> Draft:
    """The same, but small blobs are left for the caller to put."""
    return Draft(tuple((name, _encode_record(record, sink)) for name, record in records.items()))


def _encode_record(
    record: ArrayRecord | MetricRecord | ConfigRecord, sink: BlobSink
) -> Arrays | Values | Unnamed:
    if isinstance(record, ArrayRecord):
        return _encode_arrays(record, sink)
    kind = "metrics" if isinstance(record, MetricRecord) else "config"
    return Values(kind, tuple((key, _own(value)) for key, value in record.items()))


def _own(value: Any) -> Any:
    """A record's list may be changed by whoever has the record; what was drafted stays as it was."""
    return list(value) if isinstance(value, list) else value


def _encode_arrays(record: ArrayRecord, sink: BlobSink) -> Arrays | Unnamed:
    if (known := _unchanged_blob(record, sink)) is not None:
        return Arrays(known, tuple(ArrayEntry(key) for key in record))
    arrays: dict[str, NDArray[Any]] = {}
    entries = []
    for key, array in record.items():
        elements = array.numpy() if _is_native_lazy(array) else _native(array)
        if elements is None:
            entries.append(ArrayEntry(key, (array.stype, array.dtype, _shape(array))))
            elements = np.frombuffer(array.data, np.uint8)
        else:
            entries.append(ArrayEntry(key))
        arrays[key] = elements
    try:
        if sum(a.nbytes for a in arrays.values()) <= _SMALL:
            return Unnamed(b"".join(encode_blob(arrays)), tuple(entries))
        return Arrays(sink.put(encode_blob(arrays)), tuple(entries))
    except BlobError as error:
        raise ContentError(str(error)) from None


def shelve(records: RecordDict, envelope: Envelope, source: BlobSource) -> None:
    """Let go of the bytes of arrays that `source` keeps by now: they are read from there when asked for.

    `envelope` is what `encode` made of `records`. Whoever holds such an array holds a `LazyArray` then: the
    same elements, the same `data`. Arrays of which that could not be said stay as they are.
    """
    for name, record in envelope.records:
        if isinstance(record, Arrays):
            _shelve_arrays(records.array_records[name], record, source)


def _shelve_arrays(arrays: ArrayRecord, kept: Arrays, source: BlobSource) -> None:
    path, specs = source.path(kept.blob), source.specs(kept.blob)
    for entry in kept.entries:
        array, spec = arrays[entry.key], specs[entry.key]
        if type(array) is not Array or entry.raw is not None or tuple(array.shape) != spec.shape:
            continue
        if array.dtype == spec.dtype_name and array.data.startswith(
            _npy_header(spec.dtype, spec.shape)
        ):
            lazy = LazyArray(kept.blob, path, spec, None)
            array.__class__, array.__dict__ = LazyArray, lazy.__dict__


def _is_native_lazy(array: Array) -> bool:
    return isinstance(array, LazyArray) and array.native


def _unchanged_blob(record: ArrayRecord, sink: BlobSink) -> str | None:
    """The blob that already holds exactly these arrays under these names, if the sink has it."""
    first = next(iter(record.values()), None)
    if not isinstance(first, LazyArray) or not sink.has(first.blob):
        return None
    for key, array in record.items():
        if not (
            isinstance(array, LazyArray)
            and array.native
            and array.blob == first.blob
            and array.spec.name == key
        ):
            return None
    return first.blob if set(record) == set(sink.specs(first.blob)) else None


def decode(envelope: Envelope, source: BlobSource) -> RecordDict:
    """Fresh records with lazily read arrays. `ContentError` if envelope and blobs contradict."""
    records = RecordDict()
    for name, record in envelope.records:
        if isinstance(record, Arrays):
            records[name] = _decode_arrays(record, source)
        elif record.kind == "metrics":
            records[name] = MetricRecord(dict(record.items))  # type: ignore[arg-type]
        else:
            records[name] = ConfigRecord(dict(record.items))  # type: ignore[arg-type]
    return records


def _together(record: Arrays, path: Path, specs: Mapping[str, Spec]) -> _Together | None:
    size = sum(spec.stop - spec.start for spec in specs.values())
    if len(specs) < 2 or size > _SMALL:
        return None
    return _Together(record.entries[0].key, path, specs.values())


def _decode_arrays(record: Arrays, source: BlobSource) -> ArrayRecord:
    path, specs = source.path(record.blob), source.specs(record.blob)
    if {e.key for e in record.entries} != set(specs):
        raise ContentError("the envelope names other arrays than its blob holds")
    arrays: dict[str, Array] = {}
    together = _together(record, path, specs)
    for entry in record.entries:
        spec = specs[entry.key]
        if entry.raw is not None and (spec.dtype != np.uint8 or len(spec.shape) != 1):
            raise ContentError("a serialized array whose blob is not bytes")
        arrays[entry.key] = LazyArray(record.blob, path, spec, entry.raw, together)
    made = ArrayRecord()
    made.__dict__["_data"] = arrays  # item by item, flwr checks what is known here
    return made
