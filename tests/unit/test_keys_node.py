"""A node's keys: made once, kept whatever happens, and never made anew once the node is enrolled."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from barnraise.client import enrol
from barnraise.client.keys import Membership, NodeKeys, _pem
from barnraise.protocols import files, notes, pki, randomness
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import simulated_key
from barnraise.protocols.invite import Invite

NOW = 1_790_000_000.0
CA_KEY, CA = pki.new_authority("neighbours", NOW)
LOG = notes.verifier_key("neighbours/log", b"\x05" * 32)
INVITE = Invite(
    federation="neighbours",
    member="basel",
    session="127.0.0.1:1",
    enrolment="127.0.0.1:2",
    authority=CA.public_bytes(Encoding.DER),
    log_key=LOG,
    token="A" * 32,
)


@pytest.fixture
def enrolled(tmp_path: Path) -> Path:
    """A node directory as `join` leaves it behind."""
    node = tmp_path / "node"
    keys = NodeKeys.open(node)
    csr = pki.make_csr(keys.tls_key, "basel")
    certificate = pki.issue(CA_KEY, CA, csr, "basel", keys.public_key, NOW)
    files.replace(node / "ca.crt", CA.public_bytes(Encoding.PEM))
    pem = x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)
    files.replace(node / "tls.crt", pem)
    Membership("neighbours", "basel", "127.0.0.1:1", "127.0.0.1:2", LOG).write(node)
    return node


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()}


def test_keys_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    first = NodeKeys.open(tmp_path / "deep" / "node")
    again = NodeKeys.open(tmp_path / "deep" / "node")
    assert first.public_key == again.public_key
    assert first.secret == again.secret and len(first.secret) == 32
    assert first.tls_key.private_numbers() == again.tls_key.private_numbers()
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in first.directory.iterdir()}
    assert modes == {"identity.key": 0o600, "secret": 0o600, "tls.key": 0o600}
    assert stat.S_IMODE(first.directory.stat().st_mode) == 0o700


def test_a_wide_umask_does_not_widen_the_keys(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys = NodeKeys.open(tmp_path / "node")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in keys.directory.iterdir()} == {0o600}


def test_two_that_make_keys_at_once_end_with_the_same(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    found: list[tuple[bytes, bytes]] = []

    def make() -> None:
        barrier.wait(10)
        keys = NodeKeys.open(tmp_path / "node")
        found.append((keys.public_key, keys.secret))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8 and len(set(found)) == 1
    assert sorted(contents(tmp_path / "node")) == ["identity.key", "secret", "tls.key"]


def test_a_simulated_member_gets_the_keys_that_follow_from_the_seed(tmp_path: Path) -> None:
    secret = randomness.simulation_secret(7)
    identity, own = simulated_key(secret, "site-01"), randomness.derive(secret, "member", "site-01")
    keys = NodeKeys.given(tmp_path / "node", identity, own)
    assert keys.public_key == identity.public_key().public_bytes_raw()
    assert keys.secret == own
    opened = NodeKeys.open(tmp_path / "node")
    assert (opened.public_key, opened.secret) == (keys.public_key, own)
    assert NodeKeys.given(tmp_path / "node", identity, own).public_key == keys.public_key
    for other in ((simulated_key(secret, "site-02"), own), (identity, b"\x01" * 32)):
        with pytest.raises(BarnraiseError) as error:
            NodeKeys.given(tmp_path / "node", *other)
        assert error.value.code == "N115"


@pytest.mark.parametrize("name", ["identity.key", "secret", "tls.key"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_key_is_said_to_be_and_left_alone(
    tmp_path: Path, name: str, content: bytes
) -> None:
    NodeKeys.open(tmp_path / "node")
    (tmp_path / "node" / name).write_bytes(content)
    with pytest.raises(BarnraiseError) as error:
        NodeKeys.open(tmp_path / "node")
    assert error.value.code == "N115" and name in error.value.what
    assert (tmp_path / "node" / name).read_bytes() == content


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    NodeKeys.open(tmp_path / "node")
    for name, key in (
        ("identity.key", ec.generate_private_key(ec.SECP256R1())),
        ("tls.key", Ed25519PrivateKey.generate()),
    ):
        held = (tmp_path / "node" / name).read_bytes()
        (tmp_path / "node" / name).write_bytes(_pem(key))
        with pytest.raises(BarnraiseError) as error:
            NodeKeys.open(tmp_path / "node")
        assert error.value.code == "N115"
        (tmp_path / "node" / name).write_bytes(held)


@pytest.mark.parametrize("name", ["identity.key", "secret", "tls.key", "ca.crt", "tls.crt"])
def test_an_enrolled_node_never_makes_a_lost_file_anew(enrolled: Path, name: str) -> None:
    (enrolled / name).unlink()
    before = contents(enrolled)
    for act in (lambda: NodeKeys.open(enrolled), lambda: enrol.join(enrolled, INVITE)):
        with pytest.raises(BarnraiseError) as error:
            act()
        assert error.value.code == "N115" and name in error.value.what
    assert contents(enrolled) == before


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"federation": 1}', b"\xff"])
def test_a_damaged_membership_is_said_to_be(enrolled: Path, content: bytes) -> None:
    (enrolled / "federation.json").write_bytes(content)
    with pytest.raises(BarnraiseError) as error:
        Membership.read(enrolled)
    assert error.value.code == "N115"


def test_a_node_that_never_joined_is_not_enrolled(tmp_path: Path) -> None:
    keys = NodeKeys.open(tmp_path)
    assert Membership.read(tmp_path) is None
    for act in (
        lambda: enrol.expires(tmp_path),
        lambda: enrol.renew_at(tmp_path),
        lambda: enrol.renew(tmp_path),
        keys.channel_credentials,
        keys.certificate,
    ):
        with pytest.raises(BarnraiseError) as error:
            act()
        assert error.value.code == "N116"


def test_a_certificate_is_renewed_when_two_thirds_of_its_life_are_over(enrolled: Path) -> None:
    begin, end = NOW - 3600, NOW + pki.WEEK
    assert enrol.expires(enrolled) == end
    assert enrol.renew_at(enrolled) == begin + (end - begin) * 2 / 3
    assert Membership.read(enrolled).log_public_key() == b"\x05" * 32  # type: ignore[union-attr]


def test_joining_again_does_nothing_and_asks_nobody(enrolled: Path) -> None:
    before = contents(enrolled)
    enrol.join(enrolled, INVITE)
    assert contents(enrolled) == before


def test_joining_again_learns_where_the_coordinator_is_now(enrolled: Path) -> None:
    moved = dataclasses.replace(
        INVITE, session="127.0.0.1:7", enrolment="127.0.0.1:8", token="B" * 32
    )
    before = contents(enrolled)
    enrol.join(enrolled, moved)
    after = contents(enrolled)
    assert {name for name in after if after[name] != before[name]} == {"federation.json"}
    membership = Membership.read(enrolled)
    assert membership is not None
    assert (membership.session, membership.enrolment) == ("127.0.0.1:7", "127.0.0.1:8")


@pytest.mark.parametrize(
    "change",
    [
        {"federation": "others", "log_key": notes.verifier_key("others/log", b"\x05" * 32)},
        {"member": "bern"},
        {"log_key": notes.verifier_key("neighbours/log", b"\x06" * 32)},
        {"authority": pki.new_authority("neighbours", NOW)[1].public_bytes(Encoding.DER)},
    ],
    ids=["federation", "member", "log", "authority"],
)
def test_an_invite_to_elsewhere_is_refused(enrolled: Path, change: dict[str, str]) -> None:
    before = contents(enrolled)
    with pytest.raises(BarnraiseError) as error:
        enrol.join(enrolled, dataclasses.replace(INVITE, **change))  # type: ignore[arg-type]
    assert error.value.code == "N114"
    assert contents(enrolled) == before


def test_a_full_disk_loses_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = NodeKeys.open(tmp_path)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "secret").unlink()
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(BarnraiseError) as error:
            NodeKeys.open(tmp_path)
    assert error.value.code == "D104"
    assert contents(tmp_path) == before
    assert NodeKeys.open(tmp_path).public_key == keys.public_key
