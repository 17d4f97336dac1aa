"""The envelope: what comes back is what went in, in one spelling only, and bad bytes end in ContentError."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from barnraise.protocols.canonical import digest
from barnraise.protocols.content import (
    ArrayEntry,
    Arrays,
    ContentError,
    Envelope,
    Failure,
    Values,
)

SETTINGS = settings(deadline=None, max_examples=150)
BLOB = digest(b"a blob")

text = st.one_of(
    st.sampled_from(["", "a/b.c", "ü%2F", "__metadata__", "\x00\n", "🌾", '"\\']),
    st.text(max_size=8),
)
integers = st.one_of(
    st.sampled_from([0, -1, 2**53, 2**53 + 1, -(2**63), 2**64, -(10**400)]), st.integers()
)
floats = st.one_of(
    st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308]),
    st.floats(),
)
KINDS: dict[str, list[st.SearchStrategy[Any]]] = {
    "metrics": [integers, floats],
    "config": [st.booleans(), integers, floats, text, st.binary(max_size=9)],
}


def values(kind: str) -> st.SearchStrategy[Values]:
    scalars = KINDS[kind]
    value = st.one_of(*scalars, *(st.lists(s, max_size=4) for s in scalars))
    items = st.dictionaries(text, value, max_size=5).map(lambda d: tuple(d.items()))
    return st.builds(Values, st.just(kind), items)


raw = st.tuples(text, text, st.lists(integers, max_size=3).map(tuple))
entries = st.dictionaries(text, st.none() | raw, max_size=4).map(
    lambda d: tuple(ArrayEntry(k, r) for k, r in d.items())
)
arrays = st.builds(Arrays, st.binary().map(digest), entries)
records = st.dictionaries(text, arrays | values("metrics") | values("config"), max_size=4).map(
    lambda d: tuple(d.items())
)
envelopes = st.one_of(
    st.builds(Envelope, records),
    st.builds(lambda c, r: Envelope(failure=Failure(c, r)), integers, text),
)


def exactly(value: Any) -> Any:
    """`value` with every float as its bits and every scalar beside its type, so that == is identity."""
    if isinstance(value, list | tuple):
        return [exactly(v) for v in value]
    if isinstance(value, Envelope):
        return [exactly(value.records), value.failure]
    if isinstance(value, Values):
        return [value.kind, exactly(value.items)]
    if isinstance(value, float):
        return "float", "nan" if math.isnan(value) else value.hex()
    return type(value).__name__, value


@SETTINGS
@given(envelopes)
def test_what_comes_back_is_what_went_in(envelope: Envelope) -> None:
    data = envelope.encode()
    decoded = Envelope.decode(data)
    assert exactly(decoded) == exactly(envelope)
    assert decoded.encode() == data


@SETTINGS
@given(envelopes)
def test_an_envelope_is_canonical_json(envelope: Envelope) -> None:
    data = envelope.encode()
    assert rfc8785.dumps(json.loads(data)) == data


def test_order_of_records_and_keys_is_content() -> None:
    one = Values("config", (("b", 1), ("a", 2)))
    other = Values("config", (("a", 2), ("b", 1)))
    assert Envelope((("r", one),)).encode() != Envelope((("r", other),)).encode()
    assert [k for k, _ in _only(Envelope((("r", one),))).items] == ["b", "a"]
    twice = Envelope((("z", one), ("a", other)))
    assert [name for name, _ in Envelope.decode(twice.encode()).records] == ["z", "a"]


def _only(envelope: Envelope) -> Values:
    (record,) = [r for _, r in Envelope.decode(envelope.encode()).records]
    assert isinstance(record, Values)
    return record


def test_types_are_kept_apart() -> None:
    items: Any = (("t", True), ("i", 1), ("f", 1.0), ("s", "1"), ("y", b"1"), ("e", []))
    got = _only(Envelope((("r", Values("config", items)),))).items
    assert [type(v) for _, v in got] == [bool, int, float, str, bytes, list]


def test_blobs_are_named_once_each_in_order() -> None:
    a, b = Arrays(digest(b"a"), ()), Arrays(digest(b"b"), ())
    envelope = Envelope((("1", b), ("2", a), ("3", b)))
    assert envelope.blobs() == (b.blob, a.blob)


GOOD = {
    "barnraise": 1,
    "records": [
        ["w", {"kind": "arrays", "blob": BLOB, "arrays": [["a"], ["b", "x", "y", ["2", "0"]]]}],
        ["m", {"kind": "metrics", "values": [["loss", ["f", "0x1.8000000000000p+1"]]]}],
        ["c", {"kind": "config", "values": [["l", ["l", [["i", "1"], ["i", "-2"]]]]]}],
    ],
}


def test_the_document_that_the_next_tests_damage_is_good() -> None:
    assert Envelope.decode(rfc8785.dumps(GOOD)).encode() == rfc8785.dumps(GOOD)


def _config(*tagged: Any) -> dict[str, Any]:
    pairs = [[f"k{i}", t] for i, t in enumerate(tagged)]
    return {"barnraise": 1, "records": [["c", {"kind": "config", "values": pairs}]]}


def _metrics(tagged: Any) -> dict[str, Any]:
    return {"barnraise": 1, "records": [["m", {"kind": "metrics", "values": [["k", tagged]]}]]}


def _arrays(blob: Any, *entries: Any) -> dict[str, Any]:
    record = {"kind": "arrays", "blob": blob, "arrays": list(entries)}
    return {"barnraise": 1, "records": [["w", record]]}


REFUSED: dict[str, Any] = {
    "a number": 1,
    "null": None,
    "a list": [],
    "no version": {"records": []},
    "another version": {"barnraise": 2, "records": []},
    "no records": {"barnraise": 1},
    "an unknown field": {**GOOD, "more": 1},
    "records and an error": {**GOOD, "error": {"code": "1", "reason": ""}},
    "an error with more": {"barnraise": 1, "error": {"code": "1", "reason": "", "log": ""}},
    "an error without a reason": {"barnraise": 1, "error": {"code": "1"}},
    "a code that is a number": {"barnraise": 1, "error": {"code": 1, "reason": ""}},
    "a record of three parts": {"barnraise": 1, "records": [["a", {}, 3]]},
    "a record of one part": {"barnraise": 1, "records": [["a"]]},
    "a record that is text": {"barnraise": 1, "records": ["ab"]},
    "a record without a kind": {"barnraise": 1, "records": [["a", {}]]},
    "an unknown kind": {"barnraise": 1, "records": [["a", {"kind": "x", "values": []}]]},
    "a kind that is a list": {"barnraise": 1, "records": [["a", {"kind": [], "values": []}]]},
    "a record's name twice": {"barnraise": 1, "records": [GOOD["records"][1]] * 2},  # type: ignore[index]
    "a key twice": {
        "barnraise": 1,
        "records": [["c", {"kind": "config", "values": [["k", ["i", "1"]]] * 2}]],
    },
    "an array twice": _arrays(BLOB, ["a"], ["a"]),
    "no digest": _arrays("sha256:12"),
    "a digest in capitals": _arrays(BLOB.upper()),
    "a digest and a newline": _arrays(BLOB + "\n"),
    "an array of no parts": _arrays(BLOB, []),
    "an array of three parts": _arrays(BLOB, ["a", "x", "y"]),
    "a shape of numbers": _arrays(BLOB, ["a", "x", "y", [1]]),
    "a shape that is text": _arrays(BLOB, ["a", "x", "y", "12"]),
    "an untagged value": _config(1),
    "an empty tag": _config([]),
    "an unknown tag": _config(["z", "1"]),
    "a list as a tag": _config([[], "1"]),
    "a number as an integer": _config(["i", 1]),
    "a leading zero": _config(["i", "01"]),
    "a plus sign": _config(["i", "+1"]),
    "minus zero": _config(["i", "-0"]),
    "a space": _config(["i", " 1"]),
    "an underscore": _config(["i", "1_0"]),
    "digits of another script": _config(["i", "١"]),
    "an endless integer": _config(["i", "1" * 5000]),
    "a decimal float": _config(["f", "1.5"]),
    "a float that is not normal": _config(["f", "0x3.0000000000000p+0"]),
    "a short float": _config(["f", "0x1.8p+1"]),
    "a float out of range": _config(["f", "0x1.0000000000000p+9999"]),
    "a NaN in capitals": _config(["f", "NaN"]),
    "a negative NaN": _config(["f", "-nan"]),
    "base64 that is none": _config(["y", "*"]),
    "base64 without padding": _config(["y", "QQ"]),
    "base64 with loose bits": _config(["y", "QR=="]),
    "base64 beyond ASCII": _config(["y", "ü"]),
    "truth that is text": _config(["t", "true"]),
    "truth that is a number": _config(["t", 1]),
    "a list in a list": _config(["l", [["l", []]]]),
    "a list that is text": _config(["l", "ab"]),
    "a list of two types": _config(["l", [["i", "1"], ["s", "a"]]]),
    "text as a metric": _metrics(["s", "a"]),
    "bytes as a metric": _metrics(["y", ""]),
    "truth as a metric": _metrics(["t", True]),
    "a list of text as a metric": _metrics(["l", [["s", "a"]]]),
    "a list of two types as a metric": _metrics(["l", [["f", "nan"], ["i", "1"]]]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_encode_would_not_write_is_refused(name: str) -> None:
    with pytest.raises(ContentError):
        Envelope.decode(rfc8785.dumps(REFUSED[name]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"{",
        json.dumps(GOOD).encode(),
        rfc8785.dumps(GOOD) + b"\n",
        b" " + rfc8785.dumps(GOOD),
        b"\xef\xbb\xbf" + rfc8785.dumps(GOOD),
        rfc8785.dumps(GOOD).decode().encode("utf-16"),
        b'{"barnraise":1.0,"records":[]}',
        b'{"barnraise":true,"records":[]}',
        b'{"barnraise":1,"records":[],"records":[]}',
        b'{"records":[],"barnraise":1}',
        b'{"barnraise":1,"records":[["\\ud800",{"kind":"config","values":[]}]]}',
        b'{"barnraise":1,"records":[["\\u0061",{"kind":"config","values":[]}]]}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"barnraise":1,"error":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"barnraise":' + b"1" * 5000 + b"}",
    ],
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(ContentError):
        Envelope.decode(data)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_damaged_envelope_is_refused_or_another_content(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([rfc8785.dumps(GOOD), rfc8785.dumps(_config())])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        decoded = Envelope.decode(bytes(whole))
    except ContentError:
        return
    assert decoded.encode() == bytes(whole)


@settings(deadline=None, max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["records", "error"]),
)
@example([["a", {"kind": "arrays", "blob": BLOB, "arrays": [None]}]], "records")
@example([["a", {"kind": "config", "values": [["k", None]]}]], "records")
@example([["a", {"kind": "config", "values": None}]], "records")
def test_any_json_is_refused_or_read(document: Any, field: str) -> None:
    data = rfc8785.dumps({"barnraise": 1, field: document})
    with contextlib.suppress(ContentError):
        assert Envelope.decode(data).encode() == data


@pytest.mark.parametrize(
    "make",
    [
        lambda: Values("config", (("k", None),)),  # type: ignore[arg-type]
        lambda: Values("config", (("k", [[1]]),)),  # type: ignore[list-item]
        lambda: Values("config", (("k", [1, "a"]),)),
        lambda: Values("metrics", (("k", "text"),)),
        lambda: Values("metrics", (("k", True),)),
        lambda: Envelope((("\ud800", Values("config", ())),)).encode(),
        lambda: Envelope((("r", Values("config", (("k", "\ud800"),))),)).encode(),
        lambda: Envelope((("r", Values("config", (("k", 10**5000),))),)).encode(),
        lambda: Envelope(failure=Failure(10**5000, "")).encode(),
    ],
)
def test_what_no_envelope_can_hold_is_said_when_it_is_made(make: Any) -> None:
    with pytest.raises(ContentError):
        make()
