"""What members sign: agreements and charter texts, strict both ways."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.protocols import canonical, statements
from barnraise.protocols.agreements import Agreement, AgreementError, Work
from barnraise.protocols.apps import BUILT_IN
from barnraise.protocols.errors import BarnraiseError

DIGEST = "sha256:" + "ab" * 32
KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
HEX = KEY.public_key().public_bytes_raw().hex()
AGREEMENT = Agreement("neighbours", "log", DIGEST, DIGEST, {"ada": HEX, "bob": "00" * 32}, 2)

values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.dictionaries(words, values), words, st.none() | st.integers(1, 99))
@settings(deadline=None, max_examples=60)
def test_any_apps_terms_are_read_as_they_were_written(
    config: dict[str, Any], name: str, quorum: int | None
) -> None:
    work = Work(name, "tiny.client:app", config, quorum, None, 1.5)
    assert Work.of(work.text()) == work


def test_an_agreement_is_read_as_it_was_written() -> None:
    assert Agreement.decode(AGREEMENT.encode()) == AGREEMENT
    assert AGREEMENT.digest == canonical.digest(AGREEMENT.encode())


@pytest.mark.parametrize(
    "change",
    [
        {"quorum": 0},
        {"quorum": 3},
        {"quorum": True},
        {"quorum": "2"},
        {"members": {}},
        {"members": {"Ada": HEX}},
        {"members": {"ada": HEX.upper(), "bob": HEX}},
        {"members": {"ada": HEX[:-2], "bob": HEX}},
        {"members": [["ada", HEX]]},
        {"charter": "sha256:ab"},
        {"app": 7},
        {"more": 1},
    ],
)
def test_an_agreement_that_is_none_is_refused(change: dict[str, Any]) -> None:
    said = json.loads(AGREEMENT.encode()) | change
    with pytest.raises(AgreementError):
        Agreement.decode(canonical.canonical(said))


def test_an_agreement_has_one_spelling() -> None:
    for data in (
        AGREEMENT.encode() + b" ",
        json.dumps(json.loads(AGREEMENT.encode())).encode(),
        b"",
    ):
        with pytest.raises(AgreementError):
            Agreement.decode(data)


def test_a_signature_is_of_one_member_under_one_agreement() -> None:
    said = statements.sign(KEY, "ada", "charter", AGREEMENT.payload())
    AGREEMENT.check_signature("ada", said)
    other = replace(AGREEMENT, quorum=1)
    for agreement, name in ((other, "ada"), (AGREEMENT, "bob"), (AGREEMENT, "eve")):
        with pytest.raises(AgreementError):
            agreement.check_signature(name, said)


def test_a_charter_is_the_built_in_apps_terms() -> None:
    text = """
name = "neighbours"
[task]
name = "causal-lm"
[training]
steps = 1
[rounds]
count = 1
quorum = 2
grace = 3.0
"""
    work = Work.of(text)
    assert (work.component, work.config, work.quorum, work.grace) == (
        BUILT_IN,
        {"charter": text},
        2,
        3.0,
    )


@pytest.mark.parametrize(
    "text",
    [
        "[app]\nname = 'a'\ncomponent = 'builtin'",
        "[app]\nname = 'a'",
        "[app]\nname = 'a'\ncomponent = 'm:o'\n[config]\na = [1]",
        "[app]\nname = 'a'\ncomponent = 'm:o'\n[rounds]\nquorum = 0",
        "[app]\nname = 'a'\ncomponent = 'm:o'\n[rounds]\ngrace = -1",
        "[app]\nname = 'a'\ncomponent = 'm:o'\n[more]\na = 1",
        "app = 1",
        "nothing = 1",
        "= ",
    ],
)
def test_terms_that_are_none_are_refused(text: str) -> None:
    with pytest.raises((AgreementError, BarnraiseError)):
        Work.of(text)
