"""The manifest of a release is strict, its paths stay inside it; a run's rounds follow from its entries."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.protocols import release
from barnraise.protocols.canonical import canonical
from barnraise.protocols.entries import Entry
from barnraise.protocols.release import Manifest, ReleaseError
from barnraise.protocols.telling import Telling, metrics

DIGEST = "sha256:" + "ab" * 32
MANIFEST = Manifest(
    "neighbours",
    "neighbours/log+1234abcd+key",
    "0123456789abcdef",
    DIGEST,
    DIGEST,
    "open",
    "",
    {"model.safetensors": (12, "ab" * 32), "members/basel.json": (0, "00" * 32)},
)


def test_decode_gives_what_encode_took() -> None:
    assert Manifest.decode(MANIFEST.encode()) == MANIFEST


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "barnraise-release/v2"),
        ("model", "ab" * 32),
        ("agreement", "none"),
        ("contributions", "public"),
        ("run", 7),
        ("files", []),
        ("files", {"../model": {"bytes": 1, "sha256": "ab" * 32}}),
        ("files", {"log/checkpoint": {"bytes": 1, "sha256": "ab" * 32}}),
        ("files", {"manifest.json": {"bytes": 1, "sha256": "ab" * 32}}),
        ("files", {"model.sig": {"bytes": 1, "sha256": "ab" * 32}}),
        ("files", {"a": {"bytes": -1, "sha256": "ab" * 32}}),
        ("files", {"a": {"bytes": True, "sha256": "ab" * 32}}),
        ("files", {"a": {"bytes": 1, "sha256": "AB" * 32}}),
        ("files", {"a": {"bytes": 1, "sha256": "ab" * 32, "more": 1}}),
        ("more", ""),
    ],
)
def test_anything_else_is_no_manifest(field: str, value: Any) -> None:
    held = json.loads(MANIFEST.encode())
    with pytest.raises(ReleaseError):
        Manifest.decode(canonical({**held, field: value}))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_changed_byte_is_another_manifest_or_none(data: st.DataObject) -> None:
    held = bytearray(MANIFEST.encode())
    at = data.draw(st.integers(0, len(held) - 1))
    held[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ReleaseError):
        assert Manifest.decode(bytes(held)) != MANIFEST


def test_a_manifest_in_another_spelling_is_none() -> None:
    for data in (MANIFEST.encode() + b"\n", json.dumps(json.loads(MANIFEST.encode())).encode()):
        with pytest.raises(ReleaseError):
            Manifest.decode(data)
    assert replace(MANIFEST, signer="key").digest != MANIFEST.digest


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", ".", "a/../b", "a\\b", "a\nb", "a" * 1025]
)
def test_a_path_that_leads_elsewhere_is_none(path: str) -> None:
    assert not release.is_sound_path(path)


def test_a_blob_lies_where_its_digest_says() -> None:
    assert release.digest_at(release.blob_path(DIGEST)) == DIGEST
    assert release.digest_at("sha256/ab/../" + "ab" * 31) is None


# --- a run as its entries tell it -------------------------------------------------------------------


def entry(type_: str, second: int, **body: Any) -> Entry:
    return Entry(type_, f"2026-01-01T00:00:{second:02d}.000000Z", {"run": "r", **body})


def orders(kind: str, *members: str) -> list[dict[str, Any]]:
    one = {"content": DIGEST, "group": "", "members": list(members), "ttl": 1, "type": kind}
    return [one]


def told(*entries: Entry) -> Telling:
    telling = Telling("r")
    for one in entries:
        telling.see(one)
    return telling


OPENED = entry("run.opened", 0, members=[], app={"name": "a", "digest": DIGEST})


def closed(batch: int, second: int, accepted: dict[str, str], **more: Any) -> Entry:
    body = {"batch": batch, "accepted": accepted, "set_aside": {}, "absent": [], "void": False}
    return entry("batch.closed", second, **{**body, **more})


def ids(*members: str) -> list[str]:
    from barnraise.protocols.log_rules import orders_of

    found = {
        m: o for o, m in orders_of({"run": "r", "batch": 1, "orders": orders("train", *members)})
    }
    return [found[m] for m in members]


def test_a_round_tells_who_was_asked_accepted_refused_and_silent() -> None:
    first, second, third = ids("a", "b", "c")
    assert third
    said = {"batch": 1, "bytes": 5}
    telling = told(
        OPENED,
        entry("batch.sent", 1, batch=1, kind="send", orders=orders("train", "a", "b", "c")),
        entry("reply.accepted", 3, order=first, member="a", content=DIGEST, **said),
        entry("reply.refused", 4, order=second, member="b", code="M106", reason="NaN", **said),
        closed(1, 6, {first: DIGEST}, absent=["c"]),
        entry("round.sealed", 7, round=1, model=DIGEST, report={"after": {"loss": 2.0}}),
    )
    (one,) = telling.rounds
    assert (one.asked, one.accepted, one.absent) == (("a", "b", "c"), ("a",), ("c",))
    assert one.refused == {"b": "M106: NaN"}
    assert one.received == 10 and one.after == {"loss": 2.0}
    assert one.seconds_of == {"a": 2.0, "b": 3.0}
    assert one.phases == {"train": 5.0, "evaluate": 0.0, "other": 2.0}


def test_without_seals_each_train_batch_is_a_round() -> None:
    (first,) = ids("a")
    telling = told(
        OPENED,
        entry("batch.sent", 1, batch=1, kind="send", orders=orders("train", "a")),
        entry("reply.accepted", 2, batch=1, bytes=1, order=first, member="a", content=DIGEST),
        closed(1, 3, {first: DIGEST}),
        entry("batch.sent", 4, batch=2, kind="send", orders=orders("train", "a")),
        closed(2, 5, {}, absent=["a"], void=True),
    )
    assert [(one.number, one.accepted, one.void) for one in telling.rounds] == [
        (1, ("a",), False),
        (2, (), True),
    ]


def test_other_runs_are_passed_over() -> None:
    other = Entry("batch.sent", OPENED.time, {"run": "other", "batch": 1, "orders": []})
    assert told(OPENED, other).rounds == ()


def test_metrics_are_json_in_one_spelling() -> None:
    telling = told(OPENED, entry("run.closed", 9, model=DIGEST, named=True, report={}))
    held = metrics(telling)
    assert canonical(held) == canonical(json.loads(canonical(held)))
    assert held["model"] == DIGEST and held["rounds"] == []
