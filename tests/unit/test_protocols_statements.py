"""Signed statements, identities and derived secrets: nothing can be bent into something else."""

from __future__ import annotations

import base64
import copy
import functools
import hashlib
import itertools
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.protocols import identity, statements
from barnraise.protocols.canonical import digest
from barnraise.protocols.identity import Member, order_id, site_names
from barnraise.protocols.randomness import commitment, derive, simulation_secret
from barnraise.protocols.statements import StatementError, reply_payload, sign, verify

KEY = identity.simulated_key(b"s" * 32, "basel")
PUBLIC = KEY.public_key().public_bytes_raw()
OTHER = identity.simulated_key(b"s" * 32, "zurich").public_key().public_bytes_raw()
PAYLOAD = reply_payload("fed", "run", digest(b"order"), digest(b"content"), statements.NO_POLICY)
SIGNED = sign(KEY, "basel", "reply", PAYLOAD)


DEEP: Any = functools.reduce(lambda inner, _: [inner], range(5000), [])  # none can be shown


def test_a_statement_gives_back_its_payload() -> None:
    assert verify(PUBLIC, "basel", "reply", SIGNED) == PAYLOAD
    assert verify(PUBLIC, "basel", "reply", json.loads(json.dumps(SIGNED))) == PAYLOAD


def test_the_signature_is_dsses_own() -> None:
    kind, body = SIGNED["payloadType"].encode(), base64.b64decode(SIGNED["payload"])
    pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)
    signature = base64.b64decode(SIGNED["signatures"][0]["sig"])
    Ed25519PublicKey.from_public_bytes(PUBLIC).verify(signature, pae)
    assert kind == b"application/vnd.barnraise.reply+json"


def test_a_reply_binds_all_that_it_answers() -> None:
    assert set(PAYLOAD) == {"federation", "run", "order", "content", "policy"}


def texts(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], str]]:
    """Every text in an envelope, with the way to it."""
    if isinstance(value, str):
        return [(path, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [found for k, v in items for found in texts(v, (*path, k))]


def with_text(path: tuple[Any, ...], text: str) -> dict[str, Any]:
    changed: Any = copy.deepcopy(SIGNED)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = text
    return changed  # type: ignore[no-any-return]


def test_any_flipped_bit_fails() -> None:
    flipped = 0
    for path, text in texts(SIGNED):
        for at, bit in itertools.product(range(len(text)), range(7)):
            changed = text[:at] + chr(ord(text[at]) ^ 1 << bit) + text[at + 1 :]
            with pytest.raises(StatementError):
                verify(PUBLIC, "basel", "reply", with_text(path, changed))
            flipped += 1
    assert flipped > 3000


def test_a_flipped_bit_of_the_bytes_under_the_base64_fails() -> None:
    for path in [("payload",), ("signatures", 0, "sig")]:
        (text,) = [t for p, t in texts(SIGNED) if p == path]
        data = base64.b64decode(text)
        for at, bit in itertools.product(range(len(data)), range(8)):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises(StatementError):
                verify(
                    PUBLIC, "basel", "reply", with_text(path, base64.b64encode(changed).decode())
                )


def test_another_key_another_name_and_another_kind_fail() -> None:
    with pytest.raises(StatementError, match="not by this member's identity key"):
        verify(OTHER, "basel", "reply", SIGNED)
    with pytest.raises(StatementError, match="signed as 'basel', not as 'zurich'"):
        verify(PUBLIC, "zurich", "reply", SIGNED)
    with pytest.raises(StatementError, match="of type 'application"):
        verify(PUBLIC, "basel", "charter", SIGNED)


def test_a_signature_cannot_be_moved_to_another_kind() -> None:
    moved = SIGNED | {"payloadType": "application/vnd.barnraise.charter+json"}
    with pytest.raises(StatementError, match="not by this member's"):
        verify(PUBLIC, "basel", "charter", moved)


SIGNATURE = SIGNED["signatures"][0]


@pytest.mark.parametrize(
    "envelope",
    [
        None,
        1,
        "text",
        [],
        ["payloadType", "payload", "signatures"],
        {},
        SIGNED | {"more": 1},
        {k: v for k, v in SIGNED.items() if k != "payload"},
        SIGNED | {"signatures": []},
        SIGNED | {"signatures": [SIGNATURE, SIGNATURE]},
        SIGNED | {"signatures": {"0": SIGNATURE}},
        SIGNED | {"signatures": None},
        SIGNED | {"signatures": ["keyid"]},
        SIGNED | {"signatures": [{"sig": SIGNATURE["sig"]}]},
        SIGNED | {"signatures": [SIGNATURE | {"more": 1}]},
        SIGNED | {"signatures": [SIGNATURE | {"keyid": ["basel"]}]},
        SIGNED | {"signatures": [SIGNATURE | {"sig": 1}]},
        SIGNED | {"signatures": [SIGNATURE | {"sig": SIGNATURE["sig"].rstrip("=")}]},
        SIGNED | {"signatures": [SIGNATURE | {"sig": SIGNATURE["sig"] + "\n"}]},
        SIGNED | {"signatures": [SIGNATURE | {"sig": ""}]},
        SIGNED | {"signatures": [SIGNATURE | {"sig": "ü"}]},
        SIGNED | {"payload": b"e30="},
        SIGNED | {"payload": None},
        SIGNED | {"payloadType": []},
        SIGNED | {"payloadType": DEEP},
        SIGNED | {"signatures": [SIGNATURE | {"keyid": DEEP}]},
    ],
)
def test_what_is_no_envelope_is_refused(envelope: Any) -> None:
    with pytest.raises(StatementError):
        verify(PUBLIC, "basel", "reply", envelope)


@pytest.mark.parametrize("body", [b"{ }", b"[]", b'{"b":1,"a":1}', b"not JSON", b""])
def test_a_signed_payload_that_is_not_canonical_is_refused(body: bytes) -> None:
    kind = SIGNED["payloadType"].encode()
    signature = KEY.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body))
    envelope = {
        "payloadType": kind.decode(),
        "payload": base64.b64encode(body).decode(),
        "signatures": [{"keyid": "basel", "sig": base64.b64encode(signature).decode()}],
    }
    with pytest.raises(StatementError, match="payload"):
        verify(PUBLIC, "basel", "reply", envelope)


# --- identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "basel", "site-03", "0", "a--b", "x" * 63])
def test_what_is_a_name(name: str) -> None:
    assert identity.is_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "Basel", "a b", "a.b", "a/b", "a\n", "ü", "x" * 64, "../a", "٣"]
)
def test_what_is_no_name(name: str) -> None:
    assert not identity.is_name(name)


@given(st.integers(1, 1200))
def test_canonical_order_of_sites_is_numeric_order(count: int) -> None:
    names = site_names(count)
    assert len(set(names)) == count
    assert sorted(names) == names
    assert all(identity.is_name(n) for n in names)


def test_members_sort_by_name() -> None:
    low, high = Member("zug", b"\0" * 32), Member("aarau", b"\xff" * 32)
    assert sorted([low, high]) == [high, low]


def test_a_node_id_is_the_head_of_the_keys_digest() -> None:
    expected = int(hashlib.sha256(PUBLIC).hexdigest()[:16], 16)
    assert Member("basel", PUBLIC).node_id == expected
    assert Member("another-name", PUBLIC).node_id == expected


ORDER = ("run", 3, "basel", "train", "2", digest(b"content"), 0)


@pytest.mark.parametrize(
    ("at", "value"), list(enumerate(["r", 4, "bern", "train.x", "", digest(b"c"), 1]))
)
def test_every_part_of_an_order_is_in_its_id(at: int, value: Any) -> None:
    changed = (*ORDER[:at], value, *ORDER[at + 1 :])
    assert order_id(*changed) != order_id(*ORDER)
    assert order_id(*ORDER) == order_id(*ORDER)


# --- randomness -------------------------------------------------------------------------------

LABELS = st.lists(st.text("ab\x00", max_size=3), max_size=4)


@settings(deadline=None, max_examples=200)
@given(LABELS, LABELS)
def test_no_two_lists_of_labels_collide(one: list[str], other: list[str]) -> None:
    assert (derive(b"k", *one) == derive(b"k", *other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(("ab",), ("a", "b")), (("", "a"), ("a", "")), (("a",), ("a", "")), ((), ("",))],
)
def test_labels_do_not_run_together(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert derive(b"k", *one) != derive(b"k", *other)


def test_a_secret_decides_everything_and_its_commitment_tells_nothing_of_it() -> None:
    assert len(derive(b"k", "a")) == 32
    assert derive(b"k", "a") != derive(b"l", "a")
    assert commitment(b"k") != commitment(b"l")
    assert commitment(b"k") != digest(b"k")


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_simulations_of_different_seeds_share_nothing(one: int, other: int) -> None:
    assert (simulation_secret(one) == simulation_secret(other)) == (one == other)
