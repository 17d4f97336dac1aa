"""Invites: the round trip, every kind of damage, and the fingerprint that people compare."""

from __future__ import annotations

import dataclasses
import string

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.protocols import notes, pki
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import is_name
from barnraise.protocols.invite import PREFIX, Invite, log_name, split_address, spoken

_, CA = pki.new_authority("neighbours", 1_790_000_000.0)
DER = CA.public_bytes(Encoding.DER)
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x02" * 32).public_key().public_bytes_raw()
INVITE = Invite(
    federation="neighbours",
    member="basel",
    session="barn.example.org:7443",
    enrolment="[2001:db8::1]:7444",
    authority=DER,
    log_key=notes.verifier_key("neighbours/log", KEY),
    token="A" * 32,
)
LINE = str(INVITE)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True).filter(is_name)
HOSTS = st.sampled_from(["127.0.0.1", "localhost", "[::1]", "a.b-c.example", "x"])
ADDRESSES = st.builds("{}:{}".format, HOSTS, st.integers(1, 65535))
SIGNS = string.ascii_letters + string.digits + string.punctuation + "é\u200b–\0"


def refused(line: str) -> BarnraiseError:
    with pytest.raises(BarnraiseError) as error:
        Invite.parse(line)
    assert error.value.code == "N101"
    assert error.value.evidence and error.value.next
    return error.value


@settings(deadline=None, max_examples=100)
@given(
    NAMES, NAMES, ADDRESSES, ADDRESSES, st.binary(min_size=32, max_size=32), st.binary(min_size=16)
)
def test_any_invite_survives_being_written_and_read(
    federation: str, member: str, session: str, enrolment: str, key: bytes, token: bytes
) -> None:
    log_key = notes.verifier_key(log_name(federation), key)
    invite = Invite(federation, member, session, enrolment, DER, log_key, token.hex()[:64])
    line = str(invite)
    assert Invite.parse(line) == invite
    assert set(line) <= set(string.ascii_letters + string.digits + "_-")
    assert str(Invite.parse(line)) == line


@settings(deadline=None, max_examples=400)
@given(st.integers(0, len(LINE) - 1), st.sampled_from(SIGNS))
def test_any_changed_character_is_refused(at: int, sign: str) -> None:
    if LINE[at] != sign:
        refused(LINE[:at] + sign + LINE[at + 1 :])


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(LINE) - 1), st.integers(1, 40))
def test_any_lost_characters_are_refused(at: int, count: int) -> None:
    refused(LINE[:at] + LINE[at + count :])


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(LINE)), st.text(st.sampled_from(SIGNS), min_size=1, max_size=5))
def test_any_added_characters_are_refused(at: int, added: str) -> None:
    refused(LINE[:at] + added + LINE[at:])


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=100), st.booleans())
def test_any_text_is_refused(text: str, prefixed: bool) -> None:
    refused(PREFIX + text if prefixed else text)


def test_white_space_does_not_count() -> None:
    wrapped = "\n".join(LINE[i : i + 72] for i in range(0, len(LINE), 72))
    assert Invite.parse(f"  {wrapped}\r\n\t") == INVITE


def test_a_line_without_end_is_refused() -> None:
    refused(PREFIX + "A" * 10_000_000)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("federation", "Neighbours"),
        ("federation", "others"),
        ("member", ""),
        ("member", "../basel"),
        ("session", "barn.example.org"),
        ("session", "barn.example.org:0"),
        ("enrolment", "unix:/run/x:7443"),
        ("enrolment", "a b:7443"),
        ("authority", b""),
        ("authority", DER[:-1]),
        ("log_key", "neighbours/log+00000000+AAAA"),
        ("log_key", notes.verifier_key("others/log", KEY)),
        ("token", "short"),
        ("token", "A" * 31 + "é"),
    ],
)
def test_an_invite_with_a_wrong_part_is_refused_though_its_checksum_is_right(
    part: str, value: str | bytes
) -> None:
    refused(str(dataclasses.replace(INVITE, **{part: value})))


def test_a_members_certificate_is_no_authority() -> None:
    key, ca = pki.new_authority("neighbours", 0.0)
    csr = pki.make_csr(pki.new_tls_key(), "basel")
    refused(str(dataclasses.replace(INVITE, authority=pki.issue(key, ca, csr, "basel", KEY, 0.0))))


def test_an_invite_does_not_show_its_token_by_accident() -> None:
    assert INVITE.token not in repr(INVITE)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:65535", ("::1", 65535)),
        ("barn.example.org:1", ("barn.example.org", 1)),
    ],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", ":80", "x:", "x:65536", "x:01", "x:+1", "x:²", "::1:80", "-x:80", "x:80:"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BarnraiseError) as error:
        split_address(address)
    assert error.value.code == "N101"


def test_the_spoken_fingerprint_covers_both_keys() -> None:
    said = spoken(KEY, INVITE.log_key)
    assert [len(group) for group in said.split()] == [5, 5, 5, 5]
    assert said.replace(" ", "").isdecimal()
    others = {
        spoken(KEY, notes.verifier_key("neighbours/log", b"\x03" * 32)),
        spoken(b"\x03" * 32, INVITE.log_key),
        said,
    }
    assert len(others) == 3


def test_the_spoken_fingerprint_does_not_drift() -> None:
    assert spoken(KEY, INVITE.log_key) == "11475 59105 11570 89012"


@pytest.mark.parametrize(
    "vkey",
    [
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
    ],
)
def test_verifier_keys_of_others_read_as_they_write_them(vkey: str) -> None:
    name, key = notes.parse_verifier_key(vkey)
    assert notes.verifier_key(name, key) == vkey


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a+b",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeuman+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW=",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "é+c74f20a3+é",
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        notes.parse_verifier_key(text)
