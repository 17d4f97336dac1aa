"""A coordinator's Enrolment port on loopback, with a clock that may be off, and strangers beside it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from barnraise.coordinator.authority import Authority
from barnraise.coordinator.enrolment import serve_enrolment
from barnraise.protocols import federation_pb2, federation_pb2_grpc
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.invite import Invite

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
