"""Renewals and clocks, who poses as the coordinator, and who does not answer."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from enrolment_kit import KEYS, Coordinator, Stranger, contents, founded, refusal, serving

from barnraise.client import enrol
from barnraise.client.channel import open_channel
from barnraise.client.keys import Membership, NodeKeys, _pem
from barnraise.coordinator.authority import Authority
from barnraise.coordinator.enrolment import AT_ONCE, EnrolmentService, serve_enrolment
from barnraise.protocols import federation_pb2, federation_pb2_grpc, pki

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


def test_who_calls_and_says_nothing_keeps_nobody_from_joining(tmp_path: Path) -> None:
    """Nobody knows such a caller, and gRPC waits for what it asks in a thread of the port."""
    coordinator, held = founded(tmp_path / "authority"), threading.Event()
    root = coordinator.authority.certificate.public_bytes(Encoding.PEM)

    def silence() -> Iterator[federation_pb2.RenewRequest]:
        held.wait(60)
        yield from ()

    with open_channel(coordinator.address, grpc.ssl_channel_credentials(root)) as channel:
        renew = channel.stream_unary("/barnraise.v1.Enrolment/Renew")
        calls = [renew.future(silence()) for _ in range(AT_ONCE // 4)]
        enrol.join(tmp_path / "node", coordinator.invite())
        assert not any(call.done() for call in calls)
        held.set()
    coordinator.server.stop(None).wait(10)
