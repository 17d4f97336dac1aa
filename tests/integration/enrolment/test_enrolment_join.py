"""Joining over a real Enrolment port on loopback: who gets in, who does not, and a kill before every act."""

from __future__ import annotations

import dataclasses
import json
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from enrolment_kit import KEYS, Coordinator, contents, refusal

from barnraise.client import enrol
from barnraise.client.channel import open_channel
from barnraise.client.keys import Membership, NodeKeys
from barnraise.coordinator.authority import Authority
from barnraise.coordinator.enrolment import serve_enrolment
from barnraise.protocols import federation_pb2, federation_pb2_grpc, pki
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member
from barnraise.protocols.invite import Invite

DRIVER = Path(__file__).with_name("enrol_driver.py")


# --- joining ----------------------------------------------------------------------------------


def test_a_node_joins_and_is_known_by_its_certificate(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    node = tmp_path / "node"
    invite = coordinator.invite()
    enrol.join(node, Invite.parse(str(invite)))
    keys = NodeKeys.open(node)
    pem = (node / "tls.crt").read_bytes()
    assert pki.Peer.of(pem) == pki.Peer("basel", keys.fingerprint)
    assert coordinator.authority.member(keys.fingerprint) == Member("basel", keys.public_key)
    assert Membership.read(node) == Membership(
        "neighbours", "basel", "127.0.0.1:1", coordinator.address, coordinator.authority.vkey
    )
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in node.iterdir()}
    assert set(modes) == KEYS | {"ca.crt", "tls.crt", "federation.json"}
    assert set(modes.values()) == {0o600}
    assert enrol.expires(node) == pytest.approx(time.time() + pki.WEEK, abs=60)


def test_the_invites_token_is_not_kept(coordinator: Coordinator, tmp_path: Path) -> None:
    invite = coordinator.invite()
    enrol.join(tmp_path / "node", invite)
    assert invite.token.encode() not in b"".join(contents(tmp_path / "node").values())


def test_joining_twice_needs_no_coordinator(coordinator: Coordinator, tmp_path: Path) -> None:
    invite = coordinator.invite()
    enrol.join(tmp_path / "node", invite)
    before = contents(tmp_path / "node")
    coordinator.server.stop(None).wait(10)
    enrol.join(tmp_path / "node", invite)
    assert contents(tmp_path / "node") == before


def test_an_answer_that_was_lost_is_given_again(coordinator: Coordinator, tmp_path: Path) -> None:
    node, invite = tmp_path / "node", coordinator.invite(seconds=60)
    enrol.join(node, invite)
    whole = contents(node)
    for name in ("federation.json", "tls.crt", "ca.crt"):
        (node / name).unlink()
    coordinator.off += 3600.0
    enrol.join(node, invite)
    assert contents(node) == whole


def test_a_restarted_coordinator_admits_with_an_invite_from_before(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    invite = coordinator.invite()
    coordinator.server.stop(None).wait(10)
    coordinator.authority.close()
    coordinator.authority = Authority.open(tmp_path / "authority", "neighbours")
    coordinator.serve()
    enrol.join(tmp_path / "node", dataclasses.replace(invite, enrolment=coordinator.address))
    assert enrol.expires(tmp_path / "node") > time.time()


def test_sixteen_nodes_join_at_once(coordinator: Coordinator, tmp_path: Path) -> None:
    names = [f"site-{i:02d}" for i in range(16)]
    invites = [coordinator.invite(name) for name in names]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: enrol.join(tmp_path / i.member, i), invites))
    assert [member.name for member in coordinator.authority.members()] == names


def test_one_invite_raced_by_eight_nodes_admits_one(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    invite = coordinator.invite()
    barrier = threading.Barrier(8)

    def race(n: int) -> str:
        barrier.wait(30)
        try:
            enrol.join(tmp_path / f"node-{n}", invite)
        except BarnraiseError as error:
            return error.code
        return "joined"

    with ThreadPoolExecutor(8) as pool:
        ends = sorted(pool.map(race, range(8)))
    assert ends == ["N104"] * 7 + ["joined"]
    assert len(coordinator.authority.members()) == 1


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_names_and_ipv6_addresses_are_hosts_too(tmp_path: Path, host: str) -> None:
    authority = Authority.open(tmp_path / "authority", "neighbours")
    try:
        server, port = serve_enrolment(authority, f"{host}:0", (host.strip("[]"),))
    except BarnraiseError:
        pytest.skip(f"this machine has no {host} to listen on")
    address = f"{host}:{port}"
    enrol.join(tmp_path / "node", authority.invitation("basel", time.time() + 60, address, address))
    server.stop(None).wait(10)
    assert enrol.expires(tmp_path / "node") > time.time()


def test_a_proxy_for_the_internet_is_not_used_on_loopback(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    enrol.join(tmp_path / "node", coordinator.invite())
    assert enrol.expires(tmp_path / "node") > time.time()


# --- who does not get in ----------------------------------------------------------------------


def test_a_used_token_is_refused_to_other_keys(coordinator: Coordinator, tmp_path: Path) -> None:
    invite = coordinator.invite()
    enrol.join(tmp_path / "node", invite)
    assert refusal(lambda: enrol.join(tmp_path / "thief", invite)).code == "N104"
    assert set(contents(tmp_path / "thief")) == KEYS


def test_an_expired_token_is_refused(coordinator: Coordinator, tmp_path: Path) -> None:
    invite = coordinator.invite(seconds=60)
    coordinator.off += 60
    assert refusal(lambda: enrol.join(tmp_path / "node", invite)).code == "N103"
    enrol.join(tmp_path / "node", coordinator.invite())


def test_a_token_does_not_hold_for_another_name(coordinator: Coordinator, tmp_path: Path) -> None:
    invite = dataclasses.replace(coordinator.invite(), member="bern")
    assert refusal(lambda: enrol.join(tmp_path / "node", invite)).code == "N102"


def test_a_revoked_members_keys_do_not_come_back(coordinator: Coordinator, tmp_path: Path) -> None:
    node = tmp_path / "node"
    enrol.join(node, coordinator.invite())
    coordinator.authority.revoke("basel")
    before = contents(node)
    assert refusal(lambda: enrol.renew(node)).code == "N105"
    assert contents(node) == before
    (node / "federation.json").unlink()
    assert refusal(lambda: enrol.join(node, coordinator.invite())).code == "N105"
    enrol.join(tmp_path / "new", coordinator.invite())
    assert [m.name for m in coordinator.authority.members()] == ["basel"]


def raw(coordinator: Coordinator, **changed: Any) -> grpc.StatusCode:
    """How the server answers a request that no node of ours would send."""
    identity, tls_key = Ed25519PrivateKey.generate(), changed.pop("key", pki.new_tls_key())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "basel")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    csr = changed.get("csr", builder.sign(tls_key, hashes.SHA256()).public_bytes(Encoding.DER))
    fields = {
        "token": coordinator.invite().token,
        "member": "basel",
        "identity_key": identity.public_key().public_bytes_raw(),
        "csr": csr,
        "signature": pki.sign_csr(identity, "enrol", csr),
    }
    roots = coordinator.authority.certificate.public_bytes(Encoding.PEM)
    request = federation_pb2.EnrolRequest(**fields | changed)
    with open_channel(coordinator.address, grpc.ssl_channel_credentials(roots)) as channel:
        try:
            federation_pb2_grpc.EnrolmentStub(channel).Enrol(request, timeout=20)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return error.code()
    return grpc.StatusCode.OK


def test_requests_that_no_node_sends_are_refused(coordinator: Coordinator) -> None:
    status = grpc.StatusCode
    assert raw(coordinator) is status.OK
    coordinator.authority.revoke("basel")
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for code, changed in (
        (status.INVALID_ARGUMENT, {"key": rsa_key}),
        (status.INVALID_ARGUMENT, {"key": ec.generate_private_key(ec.SECP384R1())}),
        (status.INVALID_ARGUMENT, {"csr": b"\x30\x80" * 999}),
        (status.INVALID_ARGUMENT, {"identity_key": b""}),
        (status.INVALID_ARGUMENT, {"member": "bern"}),
        (status.PERMISSION_DENIED, {"signature": b"\x00" * 64}),
        (status.PERMISSION_DENIED, {"signature": b""}),
        (status.PERMISSION_DENIED, {"identity_key": b"\x01" * 32}),
        (status.PERMISSION_DENIED, {"token": ""}),
        (status.RESOURCE_EXHAUSTED, {"csr": bytes(100_000)}),
    ):
        assert raw(coordinator, **changed) is code, changed
    assert coordinator.authority.members() == []
    assert raw(coordinator) is status.OK


def test_what_fails_at_the_coordinator_is_said_without_its_paths(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    (tmp_path / "authority" / "ca.key").write_bytes(b"nonsense")
    coordinator.authority.__dict__.pop("_issuing_key", None)
    error = refusal(lambda: enrol.join(tmp_path / "node", coordinator.invite()))
    assert error.code == "N119" and "D106" in error.evidence
    assert str(tmp_path / "authority") not in str(error)


# --- killed -----------------------------------------------------------------------------------


def test_a_join_that_is_killed_anywhere_goes_on_with_the_same_keys(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    names = [f"site-{i:02d}" for i in range(60)]
    lines = "".join(f"{coordinator.invite(name)}\n" for name in names)
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path / "nodes")],
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert [end["killed"] for end in ends] == [True] * (len(ends) - 1) + [False]
    assert len(ends) > 15
    for name, end in zip(names, ends, strict=False):
        before, after = end["before"], end["after"]
        assert set(after) == KEYS | {"ca.crt", "tls.crt", "federation.json"}
        assert {file: after[file] for file in before} == before, name
        peer = pki.Peer.of(bytes.fromhex(after["tls.crt"]))
        assert peer.member == name
        assert coordinator.authority.member(peer.fingerprint) is not None
    assert {frozenset(end["before"]) for end in ends} >= {frozenset(), frozenset(KEYS)}
