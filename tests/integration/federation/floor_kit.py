"""A founded federation that is served in this process, and members that say what a test has them say."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.coordinator import proposals
from barnraise.coordinator.authority import Authority
from barnraise.coordinator.federation import found, opened
from barnraise.coordinator.floor import Floor
from barnraise.coordinator.operator import Operator
from barnraise.coordinator.proposals import Draft, Proposal
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import pki, statements
from barnraise.protocols.federation_pb2_grpc import MembershipStub, SessionStub

SOON = 10.0
PEM = serialization.Encoding.PEM


class Member:
    """A member's keys and, after `enrol`, its certificate."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = Ed25519PrivateKey.generate()
        self.tls = pki.new_tls_key()
        self.certificate = b""

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def enrol(self, authority: Authority, token: str) -> None:
        csr = pki.make_csr(self.tls, self.name)
        signature = pki.sign_csr(self.key, "enrol", csr)
        self.certificate = authority.enrol(token, self.name, self.public_key, csr, signature)

    def credentials(self, authority: Authority) -> grpc.ChannelCredentials:
        pem = x509.load_der_x509_certificate(self.certificate).public_bytes(PEM)
        secret = serialization.NoEncryption()
        key = self.tls.private_bytes(PEM, serialization.PrivateFormat.PKCS8, secret)
        return grpc.ssl_channel_credentials(authority.certificate.public_bytes(PEM), key, pem)

    def says(self, kind: str, payload: dict[str, Any], name: str = "") -> pb.Signed:
        """A statement that this member's key signs, as `name`."""
        said = statements.sign(self.key, name or self.name, kind, payload)
        return pb.Signed(statement=json.dumps(said).encode())


class House:
    """`ada` and `bob` are members. `operator` is the operator's verbs."""

    def __init__(self, tmp: Path) -> None:
        self.root = tmp / "neighbours"
        self.description = found(self.root, "neighbours", "127.0.0.1:0")
        self.stack = ExitStack()
        self.members = {name: Member(name) for name in ("ada", "bob")}

    def __enter__(self) -> House:
        self.federation = self.stack.enter_context(opened(self.root))
        self.authority = self.federation.authority
        self.floor = Floor(self.federation, None)
        self.operator = Operator(self.federation, self.floor)
        for member in self.members.values():
            self.admit(member)
        self.stack.enter_context(self.floor.between_runs())
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def admit(self, member: Member) -> None:
        member.enrol(self.authority, self.authority.invite(member.name, time.time() + 60))
        self.operator.confirm(member.name)

    def propose(self) -> Proposal:
        return proposals.propose(self.federation, Draft.charter(self.root / "charter.toml"))

    def channel(self, member: str | Member) -> grpc.Channel:
        one = self.members[member] if isinstance(member, str) else member
        credentials = one.credentials(self.authority)
        channel = grpc.secure_channel(
            self.description.session, credentials, [("grpc.use_local_subchannel_pool", 1)]
        )
        self.stack.callback(channel.close)
        return channel

    def membership(self, member: str | Member) -> MembershipStub:
        return MembershipStub(self.channel(member))

    def attend(self, member: str | Member, **hello: Any) -> Attending:
        attending = Attending(self.channel(member), **hello)
        self.stack.callback(attending.call.cancel)
        return attending

    def types(self) -> list[str]:
        """The types of the log's entries."""
        return [entry.type for _, entry in self.federation.journal.entries()]


class Attending:
    """One session of a member's; what it hears comes by `next`."""

    def __init__(self, channel: grpc.Channel, **hello: Any) -> None:
        self.feed: queue.SimpleQueue[pb.FromNode | None] = queue.SimpleQueue()
        self.heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        said = pb.Hello(clock=time.time(), version="0", **hello)
        self.feed.put(pb.FromNode(hello=said))
        self.call = SessionStub(channel).Attend(iter(self.feed.get, None), wait_for_ready=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for message in self.call:
                self.heard.put(message)
            self.heard.put(None)
        except grpc.RpcError as error:
            self.heard.put(error)

    def say(self, state: str, held: str = "") -> None:
        self.feed.put(pb.FromNode(state=pb.State(state=state, held=held)))

    def next(self) -> Any:
        """The next message, or how the call ended."""
        return self.heard.get(timeout=SOON)

    def end(self) -> None:
        self.feed.put(None)


def status(error: Any) -> tuple[str, str]:
    """(gRPC status, our code) of a call that failed."""
    assert isinstance(error, grpc.RpcError), error
    return error.code().name, error.details()[:4]


def refusal(stub_call: Any, *arguments: Any) -> tuple[str, str]:
    try:
        answer = stub_call(*arguments, timeout=SOON)
        if isinstance(answer, Iterator):
            list(answer)
    except grpc.RpcError as error:
        return status(error)
    raise AssertionError("it was answered")
