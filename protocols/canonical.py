"""Digests and canonical JSON (RFC 8785): the one way in which things here are named by their bytes."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import rfc8785

_PLAIN = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), check_circular=False
)
_LEAST, _MOST = 1e-4, 1e16  # between them Python and RFC 8785 spell a broken number alike
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class NotCanonical(ValueError):
    """Bytes that should be canonical JSON are not."""


def digest(data: bytes | memoryview) -> str:
    """`sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of `value`; `NotCanonical` if JSON cannot hold it (NaN, integers beyond 2^53)."""
    try:
        if _plain(value):
            return _PLAIN.encode(value).encode()
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise NotCanonical(str(error)) from None
    except RecursionError:
        raise NotCanonical("nested too deeply") from None


def _plain(value: Any) -> bool:
    """Whether Python's own encoder, three times as fast, writes the same bytes as RFC 8785 asks for.

    It would not for keys whose order UTF-16 decides, for integers beyond 2^53, and for floats that are
    whole, very small or very large.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-(2**53) < value < 2**53)
    if kind is float:
        return _LEAST <= abs(value) < _MOST and not value.is_integer()
    if kind is dict:
        keys = all(type(key) is str and key.isascii() for key in value)
        return keys and all(map(_plain, value.values()))
    return (kind is list or kind is tuple) and all(map(_plain, value))


def digest_of(value: Any) -> str:
    """The digest of `value`'s canonical JSON."""
    return digest(canonical(value))


def parse(data: bytes) -> Any:
    """`parse(canonical(v)) == v`; any other spelling of the same value is `NotCanonical`."""
    try:
        value = _QUICK.decode(data.decode("ascii"))
        if _PLAIN.encode(value).encode() == data:
            return value
    except (ValueError, RecursionError):
        pass  # nothing that is plain, or no JSON: the longer way tells
    try:
        value = json.loads(data, parse_int=_number)
    except (ValueError, RecursionError) as error:
        raise NotCanonical(f"not JSON: {error}") from None
    if canonical(value) != data:
        raise NotCanonical("JSON, but not in RFC 8785 form")
    return value


def _number(digits: str) -> int | float:
    """RFC 8785 writes floats up to 1e21 without an exponent; beyond 2^53 only a float can be meant."""
    number = int(digits)
    return number if abs(number) < 2**53 else float(digits)


def _plain_number(digits: str) -> int | float:
    """A number that is plain (`_plain`); `ValueError` for any other."""
    number = int(digits) if digits.lstrip("-").isdigit() else float(digits)
    if not _plain(number):
        raise ValueError("no plain number")
    return number


_QUICK = json.JSONDecoder(
    parse_int=_plain_number, parse_float=_plain_number, parse_constant=_plain_number
)
