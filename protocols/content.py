"""Content: a message's records as an envelope and its blobs, under one digest.

The envelope is canonical JSON with every scalar type-tagged, so that what comes back is what went in:
integers of any size, NaN, infinities, -0.0, bytes, lists, and the order of records and keys. Each
array record is one blob (see `tensors`), named by digest; the content's digest is the envelope's. So
the same arrays under another config are the same blob. The same content always gives the same bytes.

Knows nothing of Flower and opens no file.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from barnraise.protocols import canonical

Scalar = bool | int | float | str | bytes
Value = Scalar | Sequence[Scalar]

VERSION = 1
NUMPY = "numpy.ndarray"
_HEX = re.compile(r"-?0x[01]\.[0-9a-f]{1,13}p[+-][0-9]{1,4}|nan|inf|-inf")
_INT = re.compile(r"-?[1-9][0-9]*|0")
_MAX_DIGITS = 4000  # below the bound at which Python refuses to read or write decimals


class ContentError(ValueError):
    """Records that no envelope can hold, an envelope that this format does not know, or one that
    contradicts its blobs."""


@dataclass(frozen=True)
class ArrayEntry:
    """One array of a record. `raw` is None where the blob holds the array natively; else
    (stype, dtype, shape) as the sender declared them, and the blob holds its serialized bytes."""

    key: str
    raw: tuple[str, str, tuple[int, ...]] | None = None


@dataclass(frozen=True)
class Arrays:
    blob: str
    entries: tuple[ArrayEntry, ...]


@dataclass(frozen=True)
class Values:
    """A metric or config record: `kind` is "metrics" or "config".

    Metrics are numbers; a list's values are of its first one's type. Flower's records know no others,
    so anything else is a `ContentError` here, before it could end a Flower strategy.
    """

    kind: str
    items: tuple[tuple[str, Value], ...]

    def __post_init__(self) -> None:
        fits = _is_number if self.kind == "metrics" else _is_scalar
        for key, value in self.items:
            if isinstance(value, list | tuple):
                first = type(value[0]) if value else object
                good = not value or (fits(value[0]) and all(isinstance(v, first) for v in value))
            else:
                good = fits(value)
            if not good:
                raise ContentError(f"{key!r} holds a value that has no place in {self.kind}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | bytes)


@dataclass(frozen=True)
class Failure:
    """An error reply: Flower's code, and a reason that quotes no data."""

    code: int
    reason: str


@dataclass(frozen=True)
class Envelope:
    """`Envelope.decode(e.encode()) == e`, and `e.encode()` is the only spelling of it."""

    records: tuple[tuple[str, Arrays | Values], ...] = ()
    failure: Failure | None = None

    def encode(self) -> bytes:
        document: dict[str, Any] = {"barnraise": VERSION}
        if self.failure is not None:
            code = _decimal(self.failure.code)
            document["error"] = {"code": code, "reason": self.failure.reason}
        else:
            document["records"] = [[name, _record_out(record)] for name, record in self.records]
        try:
            return canonical.canonical(document)
        except canonical.NotCanonical as error:
            raise ContentError(str(error)) from None

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """The envelope with these bytes; `ContentError` for anything `encode` would not write."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ContentError(f"not JSON: {error}") from None
        try:
            envelope = cls._from(document)
        except ContentError:
            raise
        except (TypeError, ValueError, OverflowError, KeyError, AttributeError) as error:
            raise ContentError(f"not an envelope: {error!r}") from None
        if envelope.encode() != data:
            raise ContentError("not the canonical spelling of its content")
        return envelope

    @classmethod
    def _from(cls, document: Any) -> Envelope:
        if not isinstance(document, dict) or document.get("barnraise") != VERSION:
            raise ContentError(f"not an envelope of version {VERSION}")
        if "error" in document:
            error = document["error"]
            return cls(failure=Failure(_integer(error["code"]), _text(error["reason"])))
        records = tuple((_text(name), _record_in(r)) for name, r in document["records"])
        if len({name for name, _ in records}) != len(records):
            raise ContentError("a record's name stands twice")
        return cls(records)

    def blobs(self) -> tuple[str, ...]:
        """The digests of the blobs that this content needs, each once."""
        return tuple(dict.fromkeys(r.blob for _, r in self.records if isinstance(r, Arrays)))


def _record_out(record: Arrays | Values) -> Any:
    if isinstance(record, Arrays):
        entries = [[e.key] if e.raw is None else [e.key, *_raw_out(e.raw)] for e in record.entries]
        return {"kind": "arrays", "blob": record.blob, "arrays": entries}
    return {"kind": record.kind, "values": [[k, _value_out(v)] for k, v in record.items]}


def _raw_out(raw: tuple[str, str, tuple[int, ...]]) -> list[Any]:
    return [raw[0], raw[1], [_decimal(n) for n in raw[2]]]


def _record_in(record: Any) -> Arrays | Values:
    kind = record["kind"]
    if kind == "arrays":
        if not canonical.is_digest(record["blob"]):
            raise ContentError("a blob is named by something that is not a digest")
        arrays = Arrays(record["blob"], tuple(_entry_in(e) for e in record["arrays"]))
        _unique([e.key for e in arrays.entries])
        return arrays
    if kind not in ("metrics", "config"):
        raise ContentError(f"unknown kind of record {kind!r}")
    values = Values(kind, tuple((_text(k), _value_in(v)) for k, v in record["values"]))
    _unique([k for k, _ in values.items])
    return values


def _entry_in(entry: Any) -> ArrayEntry:
    if len(entry) == 1:
        return ArrayEntry(_text(entry[0]))
    key, stype, dtype, shape = entry
    return ArrayEntry(_text(key), (_text(stype), _text(dtype), tuple(_integer(n) for n in shape)))


def _unique(keys: list[str]) -> None:
    if len(set(keys)) != len(keys):
        raise ContentError("a key stands twice")


def _value_out(value: Value) -> Any:
    if isinstance(value, list | tuple):
        return ["l", [_scalar_out(v) for v in value]]
    return _scalar_out(value)  # type: ignore[arg-type]


def _scalar_out(value: Scalar) -> list[Any]:
    match value:
        case bool():
            return ["t", value]
        case int():
            return ["i", _decimal(value)]
        case float():
            return ["f", float.hex(float(value))]
        case str():
            return ["s", str(value)]
        case bytes():
            return ["y", base64.b64encode(value).decode()]
    raise ContentError(f"a value of type {type(value).__name__} has no place in a record")


def _value_in(tagged: Any) -> Value:
    tag, value = tagged
    if tag == "l":
        return [_scalar_in(v) for v in value]
    return _scalar_in(tagged)


def _scalar_in(tagged: Any) -> Scalar:
    tag, value = tagged
    match tag, value:
        case "t", bool():
            return value
        case "i", str():
            return _integer(value)
        case "f", str() if _HEX.fullmatch(value):
            return float.fromhex(value)
        case "s", str():
            return value
        case "y", str():
            try:
                return base64.b64decode(value, validate=True)
            except binascii.Error as error:
                raise ContentError(f"bytes that are not base64: {error}") from None
    raise ContentError(f"a value with the unknown tag {tag!r}")


def _decimal(value: int) -> str:
    if value.bit_length() > 3 * _MAX_DIGITS:
        raise ContentError(f"an integer of more than {3 * _MAX_DIGITS} bits")
    return str(int(value))


def _integer(text: Any) -> int:
    if not isinstance(text, str) or len(text) > _MAX_DIGITS or _INT.fullmatch(text) is None:
        raise ContentError("an integer that is not in decimal form")
    return int(text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ContentError("something that is not text where text belongs")
    return value
