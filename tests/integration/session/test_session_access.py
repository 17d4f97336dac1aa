"""Who may call: every RPC of every service, without credentials, with wrong ones, and after a revocation."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from session_kit import (
    NAMES,
    SECRET,
    SOON,
    Delivering,
    House,
    Reply,
    channel_credentials,
    enrolled,
    member,
    pair,
    pem,
    refusal,
    status,
)

from barnraise.coordinator.authority import Authority
from barnraise.coordinator.enrolment import serve_enrolment
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import pki
from barnraise.protocols.identity import simulated_key

RPCS = [
    (service.name, method.name, method.input_type)
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
ELSEWHERE = "Membership"  # of a federation, not of a run: test_federation_access
MTLS = [rpc for rpc in RPCS if rpc[0] not in ("Enrolment", ELSEWHERE)]
Outcome = tuple[str, str]


def call(channel: grpc.Channel, service: str, method: str, message: Any) -> list[bytes]:
    """One message of the method's own kind, whatever the method; what came back."""
    stream = channel.stream_stream(f"/barnraise.v1.{service}/{method}")
    data = pb.DESCRIPTOR.message_types_by_name[message.name]._concrete_class().SerializeToString()
    return list(stream(iter([data]), timeout=SOON))


def outcome(port: int, credentials: grpc.ChannelCredentials | None, rpc: Any) -> Outcome:
    address = f"127.0.0.1:{port}"
    opened = (
        grpc.insecure_channel(address)
        if credentials is None
        else grpc.secure_channel(address, credentials)
    )
    with opened as channel:
        return refusal(lambda: call(channel, *rpc))


@pytest.fixture
def calls_seen(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every call that gets as far as one of our handlers."""
    seen: list[str] = []
    desk = type(house.fleet.office).desk

    def looked(office: Any) -> Any:
        seen.append("a handler ran")
        return desk(office)

    monkeypatch.setattr(type(house.fleet.office), "desk", looked)
    return seen


def test_the_enumeration_is_of_every_service() -> None:
    assert {service for service, _, _ in RPCS} >= {"Enrolment", "Session", "Exchange"}
    assert len(MTLS) >= 3


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: f"{rpc[0]}.{rpc[1]}")
def test_without_a_certificate_no_rpc_is_answered(
    house: House, rpc: Any, calls_seen: list[str]
) -> None:
    server_only = grpc.ssl_channel_credentials(pem(house.authority.certificate_der))
    for credentials in (None, server_only):
        assert outcome(house.port, credentials, rpc)[0] == "UNAVAILABLE"
    assert calls_seen == []


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: f"{rpc[0]}.{rpc[1]}")
def test_at_the_enrolment_port_nothing_but_enrolment_is_served(house: House, rpc: Any) -> None:
    server, port = serve_enrolment(house.authority, "127.0.0.1:0")
    try:
        credentials = grpc.ssl_channel_credentials(pem(house.authority.certificate_der))
        code, said = outcome(port, credentials, rpc)
        assert (code == "UNIMPLEMENTED") == (rpc[0] != "Enrolment")
        assert said.startswith("N1") == (rpc[0] == "Enrolment")
    finally:
        server.stop(None).wait()


def other_federation(house: House, tmp_path: Path) -> grpc.ChannelCredentials:
    """A member of the same name and identity key, certified by somebody else, who trusts our server."""
    authority = Authority.open(tmp_path / "other", "test")
    identity, tls = simulated_key(SECRET, "ada"), pki.new_tls_key()
    csr = pki.make_csr(tls, "ada")
    certificate = authority.enrol(
        authority.invite("ada", time.time() + 60),
        "ada",
        identity.public_key().public_bytes_raw(),
        csr,
        pki.sign_csr(identity, "enrol", csr),
    )
    authority.close()
    return channel_credentials(house.authority.certificate_der, tls, certificate)


def issued_at(house: House, now: float) -> grpc.ChannelCredentials:
    """A genuine certificate of an enrolled member, as issued at this time, for a week."""
    house.credentials("ada")
    tls = pki.new_tls_key()
    certificate = pki.issue(
        house.authority._issuing_key,
        house.authority.certificate,
        pki.make_csr(tls, "ada"),
        "ada",
        member("ada").public_key,
        now,
    )
    return channel_credentials(house.authority.certificate_der, tls, certificate)


def expired(house: House, tmp_path: Path) -> grpc.ChannelCredentials:
    return issued_at(house, time.time() - pki.WEEK - 60)


def not_yet_valid(house: House, tmp_path: Path) -> grpc.ChannelCredentials:
    return issued_at(house, time.time() + pki.EARLIER + 60)


def the_servers_own(house: House, tmp_path: Path) -> grpc.ChannelCredentials:
    """The coordinator's own certificate is no member's, and good for a server alone."""
    folder = house.authority.directory
    root = pem(house.authority.certificate_der)
    return grpc.ssl_channel_credentials(
        root, (folder / "server.key").read_bytes(), (folder / "server.crt").read_bytes()
    )


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: f"{rpc[0]}.{rpc[1]}")
@pytest.mark.parametrize("wrong", [other_federation, expired, not_yet_valid, the_servers_own])
def test_with_a_certificate_that_is_not_good_no_rpc_is_answered(
    house: House,
    tmp_path: Path,
    rpc: Any,
    wrong: Callable[[House, Path], grpc.ChannelCredentials],
    calls_seen: list[str],
) -> None:
    assert outcome(house.port, wrong(house, tmp_path), rpc)[0] == "UNAVAILABLE"
    assert calls_seen == []


def test_ten_minutes_either_way_are_nothing_to_a_certificate(house: House) -> None:
    for off in (-600.0, 600.0):
        house.node("ada", issued_at(house, time.time() + off)).attend().welcomed()


@pytest.mark.parametrize("rpc", MTLS, ids=lambda rpc: f"{rpc[0]}.{rpc[1]}")
def test_a_certificate_of_nobody_on_record_is_refused_by_every_rpc(
    house: House, rpc: Any, calls_seen: list[str]
) -> None:
    """Issued by the authority's key, and not for a member: a certificate alone admits nobody."""
    tls = pki.new_tls_key()
    certificate = pki.issue(
        house.authority._issuing_key,
        house.authority.certificate,
        pki.make_csr(tls, "eve"),
        "eve",
        member("eve").public_key,
        time.time(),
    )
    credentials = channel_credentials(house.authority.certificate_der, tls, certificate)
    assert outcome(house.port, credentials, rpc) == ("PERMISSION_DENIED", "N201")
    assert calls_seen == []


@pytest.mark.parametrize("rpc", MTLS, ids=lambda rpc: f"{rpc[0]}.{rpc[1]}")
def test_a_revoked_member_is_refused_by_every_rpc_on_the_connection_it_has(
    house: House, rpc: Any, calls_seen: list[str]
) -> None:
    node = house.node("ada")
    with pytest.raises(grpc.RpcError):
        node.fetch("sha256:" + "0" * 64)
    calls_seen.clear()
    house.authority.revoke("ada")
    assert refusal(lambda: call(node.channel, *rpc)) == ("PERMISSION_DENIED", "N201")
    assert calls_seen == []


# --- revoked in mid-session ---------------------------------------------------------------------------


def test_a_revocation_ends_what_the_member_is_doing_and_nobody_elses(
    house: House, tmp_path: Path
) -> None:
    reply, content = Reply.good(tmp_path / "reply", size=1 << 20), house.content(1.0, size=8 << 20)
    orders = {name: house.order(name, 1, content) for name in NAMES}
    house.fleet.dispatch(list(orders.values()))
    mallory, other = house.node("ada"), house.node("bob")
    session, others = mallory.attend().welcomed(), other.attend().welcomed()
    session.orders(1)
    fetching = mallory.exchange.Fetch(pb.FetchRequest(digest=biggest(house, content)))
    next(fetching)
    with (
        Delivering(mallory, mallory.offer(orders["ada"].id, reply)) as delivering,
        Delivering(other, other.offer(orders["bob"].id, reply)) as undisturbed,
    ):
        first, *rest = list(reply.pieces(delivering.wanted))
        delivering.send(first)
        undisturbed.send(first)
        house.fleet.revoke("ada")
        assert delivering.refused().code() == grpc.StatusCode.CANCELLED
        with pytest.raises(grpc.RpcError) as cut:
            list(fetching)
        assert cut.value.code() == grpc.StatusCode.CANCELLED
        assert session.next().why == "revoked"
        assert status(session.end()) == ("PERMISSION_DENIED", "N201")
        for piece in rest:
            undisturbed.send(piece)
        undisturbed.taken()
    assert [m.name for m in house.fleet.roster()] == ["bob", "cyd"]
    assert [d.member for d in house.arrivals() or house.arrivals()] == ["bob"]
    assert others.orders(1)
    assert status(house.node("ada").attend().end()) == ("PERMISSION_DENIED", "N201")
    assert house.fleet.wait_for(["ada", "bob"]) == []
    assert house.fleet.presence("ada").state == "revoked"


def biggest(house: House, content: str) -> str:
    from barnraise.protocols.content import Envelope

    (blob,) = Envelope.decode(house.blobs.read(content)).blobs()
    return blob


def test_a_revocation_wakes_the_grid_and_outlives_a_restart(house: House) -> None:
    house.credentials("ada")
    timer = threading.Timer(0.05, lambda: house.fleet.revoke("ada"))
    timer.start()
    assert list(house.fleet.arrivals(None)) == []
    timer.join()
    house.restart()
    assert [m.name for m in house.fleet.roster()] == ["bob", "cyd"]


def test_a_revocation_by_another_process_ends_the_session_at_the_next_order(house: House) -> None:
    session = house.node("ada").attend().welcomed()
    elsewhere = Authority.open(house.root / "federation", "test")
    elsewhere.revoke("ada")
    elsewhere.close()
    house.fleet.dispatch([house.order("ada")])
    ended = session.end()
    assert isinstance(ended, grpc.RpcError)
    assert [m.name for m in house.fleet.roster()] == ["bob", "cyd"]


# --- TLS ------------------------------------------------------------------------------------------------


def handshake(house: House, most: ssl.TLSVersion) -> str | None:
    """The TLS version that a client which knows no newer one gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem(house.authority.certificate_der).decode())
    for file, data in zip(("key", "crt"), pair(house.authority, "ada"), strict=True):
        (house.root / file).write_bytes(data)
    context.load_cert_chain(house.root / "crt", house.root / "key")
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = most
    with (
        socket.create_connection(("127.0.0.1", house.port), timeout=SOON) as raw,
        context.wrap_socket(raw) as tls,
    ):
        return tls.version()


def test_tls_is_1_3_and_nothing_older_than_1_2(house: House) -> None:
    assert handshake(house, ssl.TLSVersion.MAXIMUM_SUPPORTED) == "TLSv1.3"
    assert handshake(house, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        handshake(house, ssl.TLSVersion.TLSv1_1)


def test_enrolled_credentials_get_through(house: House) -> None:
    """What makes the refusals above mean something: with the right certificate each call is heard."""
    credentials = enrolled(house.authority, "bob")
    for rpc in MTLS:
        if rpc[0] == "Transparency":  # some of its questions have an answer when nothing is said
            continue
        assert outcome(house.port, credentials, rpc)[1][:4] in ("N203", "N209")
