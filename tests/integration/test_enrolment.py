"""Joining and renewing over a real Enrolment port on loopback, and everybody who should not get through."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from barnraise.client import enrol
from barnraise.client.channel import open_channel
from barnraise.client.keys import Membership, NodeKeys, _pem
from barnraise.coordinator.authority import Authority
from barnraise.coordinator.enrolment import EnrolmentService, serve_enrolment
from barnraise.protocols import federation_pb2, federation_pb2_grpc, pki
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member
from barnraise.protocols.invite import Invite

DRIVER = Path(__file__).with_name("enrol_driver.py")
KEYS = {"identity.key", "secret", "tls.key"}


@dataclass
class Coordinator:
    """An authority whose clock may be off, its Enrolment server, and invites to it."""

    authority: Authority
    server: grpc.Server
    port: int
    off: float = 0.0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def now(self) -> float:
        return time.time() + self.off

    def invite(self, member: str = "basel", seconds: float = 60.0) -> Invite:
        expires = self.now() + seconds
        return self.authority.invitation(member, expires, "127.0.0.1:1", self.address)

    def serve(self) -> None:
        self.server, self.port = serve_enrolment(self.authority, "127.0.0.1:0")


def founded(directory: Path, off: float = 0.0) -> Coordinator:
    coordinator = Coordinator(None, None, 0, off)  # type: ignore[arg-type]
    coordinator.authority = Authority.open(directory, "neighbours", coordinator.now)
    coordinator.serve()
    return coordinator


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = founded(tmp_path / "authority")
    yield made
    made.server.stop(None).wait(10)


@contextlib.contextmanager
def serving(
    service: federation_pb2_grpc.EnrolmentServicer, credentials: grpc.ServerCredentials
) -> Iterator[str]:
    """The address of a server with this service and these credentials."""
    server = grpc.server(ThreadPoolExecutor(2))
    federation_pb2_grpc.add_EnrolmentServicer_to_server(service, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(10)


class Stranger(federation_pb2_grpc.EnrolmentServicer):
    """Answers what a test says, and remembers what it was asked."""

    def __init__(self, answer: federation_pb2.EnrolReply | None = None) -> None:
        self.answer = answer or federation_pb2.EnrolReply()
        self.asked: list[federation_pb2.EnrolRequest | federation_pb2.RenewRequest] = []

    def Enrol(
        self, request: federation_pb2.EnrolRequest, context: grpc.ServicerContext
    ) -> federation_pb2.EnrolReply:
        self.asked.append(request)
        return self.answer

    def Renew(
        self, request: federation_pb2.RenewRequest, context: grpc.ServicerContext
    ) -> federation_pb2.EnrolReply:
        self.asked.append(request)
        return self.answer


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()}


def refusal(act: Callable[[], object]) -> BarnraiseError:
    with pytest.raises(BarnraiseError) as error:
        act()
    assert error.value.what and error.value.evidence and error.value.next
    return error.value


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


# --- renewing, and clocks ---------------------------------------------------------------------


def test_a_certificate_is_renewed_also_after_its_end(tmp_path: Path) -> None:
    node, coordinator = tmp_path / "node", founded(tmp_path / "authority", -8 * 86400.0)
    enrol.join(node, coordinator.invite())
    assert enrol.expires(node) < time.time()
    keys = {name: data for name, data in contents(node).items() if name != "tls.crt"}
    coordinator.off = 0.0
    enrol.renew(node)
    assert enrol.expires(node) > time.time() + 6 * 86400
    assert {n: d for n, d in contents(node).items() if n != "tls.crt"} == keys
    coordinator.server.stop(None).wait(10)


def handshake(authority: Authority, node: Path) -> bool:
    """Whether the node gets through a port that asks for a certificate of the federation."""
    membership = Membership.read(node)
    assert membership is not None
    ask = federation_pb2.RenewRequest(member=membership.member)
    credentials = authority.server_credentials(["127.0.0.1"], require_client=True)
    with (
        serving(Stranger(), credentials) as address,
        open_channel(address, NodeKeys.open(node).channel_credentials()) as channel,
    ):
        try:
            federation_pb2_grpc.EnrolmentStub(channel).Renew(ask, timeout=20)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAVAILABLE
            return False
    return True


@pytest.mark.parametrize("off", [-600.0, 600.0])
def test_a_clock_ten_minutes_off_hinders_nothing(tmp_path: Path, off: float) -> None:
    node, coordinator = tmp_path / "node", founded(tmp_path / "authority", off)
    enrol.join(node, coordinator.invite())
    assert handshake(coordinator.authority, node)
    enrol.renew(node)
    assert handshake(coordinator.authority, node)
    coordinator.server.stop(None).wait(10)


def test_a_clock_two_hours_off_is_said_to_be(tmp_path: Path) -> None:
    coordinator = founded(tmp_path / "authority", 7200.0)
    error = refusal(lambda: enrol.join(tmp_path / "node", coordinator.invite()))
    assert error.code == "N112"
    assert set(contents(tmp_path / "node")) == KEYS
    coordinator.server.stop(None).wait(10)


def test_mtls_admits_the_federations_certificates_alone(tmp_path: Path) -> None:
    coordinator = founded(tmp_path / "authority")
    enrol.join(tmp_path / "node", coordinator.invite())
    assert handshake(coordinator.authority, tmp_path / "node")

    other = founded(tmp_path / "other")
    enrol.join(tmp_path / "stranger", other.invite())
    ca = (tmp_path / "node" / "ca.crt").read_bytes()
    (tmp_path / "stranger" / "ca.crt").write_bytes(ca)
    assert not handshake(coordinator.authority, tmp_path / "stranger")

    for off in (-8 * 86400.0, 2 * 3600.0):
        coordinator.off = off  # expired, not yet valid
        enrol.renew(tmp_path / "node")
        assert not handshake(coordinator.authority, tmp_path / "node")
    for each in (coordinator, other):
        each.server.stop(None).wait(10)


def negotiated(coordinator: Coordinator, at_most: ssl.TLSVersion) -> str | None:
    roots = coordinator.authority.certificate.public_bytes(Encoding.PEM)
    context = ssl.create_default_context(cadata=roots.decode())
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = at_most
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", coordinator.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return connection.version()


def test_tls_is_1_3_and_never_below_1_2(coordinator: Coordinator) -> None:
    assert negotiated(coordinator, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.warns(DeprecationWarning), pytest.raises(OSError):
        negotiated(coordinator, ssl.TLSVersion.TLSv1_1)


# --- who poses as the coordinator -------------------------------------------------------------


def test_a_man_in_the_middle_with_another_authority_learns_nothing(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    other = Authority.open(tmp_path / "other", "neighbours")
    stranger = Stranger()
    with serving(stranger, other.server_credentials(["127.0.0.1"], require_client=False)) as there:
        invite = dataclasses.replace(coordinator.invite(), enrolment=there)
        assert refusal(lambda: enrol.join(tmp_path / "node", invite)).code == "N111"
    assert stranger.asked == []
    assert set(contents(tmp_path / "node")) == KEYS
    enrol.join(tmp_path / "node", dataclasses.replace(invite, enrolment=coordinator.address))


def test_a_member_cannot_pose_as_the_coordinator(coordinator: Coordinator, tmp_path: Path) -> None:
    enrol.join(tmp_path / "node", coordinator.invite())
    keys, stranger = NodeKeys.open(tmp_path / "node"), Stranger()
    pair = (_pem(keys.tls_key), (tmp_path / "node" / "tls.crt").read_bytes())
    with serving(stranger, grpc.ssl_server_credentials([pair])) as there:
        invite = dataclasses.replace(coordinator.invite("bern"), enrolment=there)
        assert refusal(lambda: enrol.join(tmp_path / "victim", invite)).code == "N111"
    assert stranger.asked == []


def test_the_coordinators_certificate_holds_for_its_hosts_alone(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    other = Authority.open(tmp_path / "authority", "neighbours")
    (tmp_path / "authority" / "server.crt").unlink()
    credentials = other.server_credentials(["barn.example.org"], require_client=False)
    with serving(EnrolmentService(other), credentials) as there:
        invite = dataclasses.replace(coordinator.invite(), enrolment=there)
        assert refusal(lambda: enrol.join(tmp_path / "node", invite)).code == "N111"


def test_a_coordinator_that_answers_something_else_is_not_believed(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    node, authority = tmp_path / "node", coordinator.authority
    keys = NodeKeys.open(node)
    honest = federation_pb2.EnrolReply(
        certificate=_certified(authority, keys, "basel"),
        authority=authority.certificate_der,
        federation="neighbours",
        log_key=authority.vkey,
    )
    lies = {
        "federation": "others",
        "log_key": Authority.open(tmp_path / "other", "neighbours").vkey,
        "authority": b"",
        "certificate": _certified(authority, NodeKeys.open(tmp_path / "another"), "bern"),
    }
    credentials = authority.server_credentials(["127.0.0.1"], require_client=False)
    for field, lie in lies.items():
        answer = federation_pb2.EnrolReply()
        answer.CopyFrom(honest)
        setattr(answer, field, lie)
        with serving(Stranger(answer), credentials) as there:
            invite = dataclasses.replace(coordinator.invite("x"), member="basel", enrolment=there)
            assert refusal(lambda invite=invite: enrol.join(node, invite)).code == "N113", field  # type: ignore[misc]
        assert set(contents(node)) == KEYS, field
    with serving(Stranger(honest), credentials) as there:
        enrol.join(node, dataclasses.replace(invite, enrolment=there))


def _certified(authority: Authority, keys: NodeKeys, member: str) -> bytes:
    csr = pki.make_csr(keys.tls_key, member)
    token = authority.invite(member, time.time() + 60)
    signature = pki.sign_csr(keys.identity, "enrol", csr)
    return authority.enrol(token, member, keys.public_key, csr, signature)


# --- who does not answer ----------------------------------------------------------------------


def test_nobody_at_the_address_is_said_at_once(coordinator: Coordinator, tmp_path: Path) -> None:
    invite = coordinator.invite()
    enrol.join(tmp_path / "enrolled", invite)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = dataclasses.replace(invite, enrolment=f"127.0.0.1:{unused.getsockname()[1]}")
        error = refusal(lambda: enrol.join(tmp_path / "node", nowhere))
        assert error.code == "N110" and "refused" in error.evidence
        enrol.join(tmp_path / "enrolled", nowhere)
        before = contents(tmp_path / "enrolled")
        assert refusal(lambda: enrol.renew(tmp_path / "enrolled")).code == "N110"
    assert contents(tmp_path / "enrolled") == before
    assert set(contents(tmp_path / "node")) == KEYS


def test_a_host_that_does_not_exist_is_said_to_be(coordinator: Coordinator, tmp_path: Path) -> None:
    invite = dataclasses.replace(coordinator.invite(), enrolment="barn.invalid:7444")
    error = refusal(lambda: enrol.join(tmp_path / "node", invite, patience=5))
    assert error.code == "N110" and "barn.invalid" in error.what


def test_one_that_takes_connections_and_says_nothing_is_given_up(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        invite = dataclasses.replace(coordinator.invite(), enrolment=address)
        error = refusal(lambda: enrol.join(tmp_path / "node", invite, patience=0.2))
    assert error.code == "N110" and "timed out" in error.evidence


def test_a_port_in_use_is_said_to_be(coordinator: Coordinator, tmp_path: Path) -> None:
    error = refusal(lambda: serve_enrolment(coordinator.authority, coordinator.address))
    assert error.code == "N118" and coordinator.address in error.what
    enrol.join(tmp_path / "node", coordinator.invite())


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
