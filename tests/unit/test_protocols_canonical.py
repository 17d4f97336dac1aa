"""Canonical JSON, digests, and the journal's entries that stand on them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from barnraise.protocols.canonical import (
    NotCanonical,
    canonical,
    digest,
    digest_of,
    is_digest,
    parse,
)
from barnraise.protocols.entries import MAX_ENTRY, TYPES, Entry, EntryError, TooLarge

SETTINGS = settings(deadline=None, max_examples=150)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@SETTINGS
@given(JSON)
@example(2.0**60)
@example(1e21)
@example(-1e20)
@example(5e-324)
def test_parse_gives_back_what_canonical_was_given(value: Any) -> None:
    data = canonical(value)
    assert parse(data) == value
    assert canonical(parse(data)) == data


ANY_TEXT = st.text(max_size=6) | st.characters(max_codepoint=0x9F)


@settings(deadline=None, max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.tuples(inner)
            | st.dictionaries(ANY_TEXT | st.integers(), inner, max_size=4)
        ),
        max_leaves=8,
    )
)
@example({"\uff5e": 1, "\U00010000": 2})
@example({"a": "\x7f\x1f/\u2028", "A": [2**53, -(2**53)]})
def test_canonical_is_rfc_8785_to_the_byte(value: Any) -> None:
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(NotCanonical):
            canonical(value)
    else:
        assert canonical(value) == expected


# RFC 8785 appendix B: IEEE 754 bits and the text that stands for them.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize("bits", NUMBERS)
def test_the_numbers_of_rfc_8785(bits: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(number).decode() == NUMBERS[bits]
    assert parse(NUMBERS[bits].encode()) == number


def test_keys_are_sorted_by_their_utf_16_units() -> None:
    keys = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\u00f6": 7}
    assert list(parse(canonical(keys)).values()) == [2, 4, 6, 7, 1, 5, 3]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b" 1",
        b"1 ",
        b"1\n",
        b"1.0",
        b"1e0",
        b"-0",
        b"01",
        b"1e400",
        b"NaN",
        b"Infinity",
        b"9007199254740993",
        b"1" * 5000,
        b'"\\u0061"',
        b'"\\/"',
        b'"\\ud800"',
        b'{"a":1,"a":1}',
        b'{"b":1,"a":1}',
        b'{"a": 1}',
        b"[1,]",
        b"\xef\xbb\xbf1",
        "1".encode("utf-16"),
        b"[" * 400 + b"]" * 400 + b" ",
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_any_other_spelling_is_not_canonical(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        parse(data)


@SETTINGS
@given(st.binary(max_size=20))
def test_random_bytes_are_not_canonical_or_read(data: bytes) -> None:
    with contextlib.suppress(NotCanonical):
        assert canonical(parse(data)) == data


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, 2**53, -(2**53), "\ud800", {1: 2}, {"\ud800": 1}, b"", {1}, _nested(5000)],
    ids=lambda v: type(v).__name__,
)
def test_what_json_cannot_hold_is_said(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)


def test_a_digest_is_the_sha_256_of_the_bytes() -> None:
    assert digest(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert digest(memoryview(b"abc")) == digest(b"abc")
    assert digest_of({"b": 1, "a": 2}) == digest(b'{"a":2,"b":1}')


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        b"sha256:" + b"0" * 64,
        "",
        "0" * 64,
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 64 + "\n",
        "SHA256:" + "0" * 64,
        "sha256:" + "٠" * 64,
    ],
)
def test_what_is_no_digest(value: object) -> None:
    assert not is_digest(value)
    assert is_digest(digest(repr(value).encode()))


# --- entries ----------------------------------------------------------------------------------

BODIES = st.dictionaries(TEXT, JSON, max_size=4)
TIME = "2026-03-01T12:00:00Z"


@SETTINGS
@given(st.builds(Entry, st.sampled_from(sorted(TYPES)), TEXT, BODIES))
def test_an_entry_comes_back_as_it_was(entry: Entry) -> None:
    data = entry.encode()
    assert Entry.decode(data) == entry
    assert Entry.decode(data).encode() == data


def sized(size: int) -> Entry:
    """An entry of exactly `size` bytes."""
    empty = len(Entry("batch.sent", TIME, {"x": ""}).encode())
    return Entry("batch.sent", TIME, {"x": "a" * (size - empty)})


def test_an_entry_is_at_most_65535_bytes() -> None:
    assert MAX_ENTRY == 65_535
    largest = sized(MAX_ENTRY)
    assert len(largest.encode()) == MAX_ENTRY
    assert Entry.decode(largest.encode()) == largest
    with pytest.raises(TooLarge, match="65536"):
        sized(MAX_ENTRY + 1).encode()
    with pytest.raises(EntryError, match="65536"):
        Entry.decode(largest.encode().replace(b"aa", b"aaa", 1))


def test_an_unknown_type_is_neither_written_nor_read() -> None:
    with pytest.raises(EntryError, match=r"unknown type of entry 'batch\.lost'"):
        Entry("batch.lost", TIME, {}).encode()
    data = Entry("batch.sent", TIME, {}).encode()
    with pytest.raises(EntryError, match="unknown type"):
        Entry.decode(data.replace(b"batch.sent", b"batch.lost"))


@pytest.mark.parametrize("body", [{"x": math.nan}, {"x": 2**53}, {"x": b""}, {"x": "\ud800"}])
def test_a_body_that_json_cannot_hold_is_not_written(body: dict[str, Any]) -> None:
    with pytest.raises(EntryError):
        Entry("batch.sent", TIME, body).encode()


@pytest.mark.parametrize(
    "value",
    [
        1,
        [],
        {},
        {"type": "batch.sent", "time": TIME},
        {"type": "batch.sent", "time": TIME, "body": {}, "more": 1},
        {"type": "batch.sent", "time": TIME, "body": []},
        {"type": "batch.sent", "time": 1, "body": {}},
        {"type": [], "time": TIME, "body": {}},
        {"type": {}, "time": TIME, "body": {}},
        {"type": None, "time": TIME, "body": {}},
    ],
)
def test_what_encode_would_not_write_is_no_entry(value: Any) -> None:
    with pytest.raises(EntryError):
        Entry.decode(canonical(value))


def test_another_spelling_is_no_entry() -> None:
    entry = Entry("batch.sent", TIME, {"a": 1})
    with pytest.raises(EntryError):
        Entry.decode(json.dumps(json.loads(entry.encode())).encode())
    with pytest.raises(EntryError):
        Entry.decode(entry.encode() + b"\n")


def test_the_types_are_those_of_the_design() -> None:
    assert sorted(TYPES) == [
        "batch.closed",
        "batch.pulled",
        "batch.sent",
        "charter.adopted",
        "charter.signed",
        "data.stated",
        "federation.founded",
        "member.enrolled",
        "member.left",
        "member.revoked",
        "release.published",
        "reply.accepted",
        "reply.late",
        "reply.refused",
        "roster.seen",
        "round.sealed",
        "run.closed",
        "run.opened",
    ]
