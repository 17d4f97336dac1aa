"""Enrolment, the open port: a token and a signed request for a certificate, and renewals.

TLS proves the server alone, so anybody may call, and keeps nobody else out for longer than a moment. What
a caller may have is the authority's to decide; here a refusal becomes a gRPC status whose details begin with
the code, `N104: …`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc

from barnraise.coordinator.authority import Authority
from barnraise.coordinator.ports import bind
from barnraise.protocols import federation_pb2, federation_pb2_grpc
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.invite import split_address

AT_ONCE = 64  # calls, each with a thread: one that never says what it wants holds no other up
LONGEST = 10  # seconds of a connection; then its calls have
GRACE = 5  # seconds more
_OPTIONS = [
    ("grpc.max_connection_age_ms", 1000 * LONGEST),
    ("grpc.max_connection_age_grace_ms", 1000 * GRACE),
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 1 << 16),
    ("grpc.max_connection_idle_ms", 60_000),
]
_STATUS = {
    "N105": grpc.StatusCode.PERMISSION_DENIED,
    "N107": grpc.StatusCode.INVALID_ARGUMENT,
    "N109": grpc.StatusCode.NOT_FOUND,
    "N120": grpc.StatusCode.FAILED_PRECONDITION,
}


class EnrolmentService(federation_pb2_grpc.EnrolmentServicer):
    """Answers to whoever calls; owned by the server's threads."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def Enrol(
        self, request: federation_pb2.EnrolRequest, context: grpc.ServicerContext
    ) -> federation_pb2.EnrolReply:
        try:
            certificate = self._authority.enrol(
                request.token,
                request.member,
                request.identity_key,
                request.csr,
                request.signature,
            )
        except BarnraiseError as error:
            _abort(context, error)
        return self._reply(certificate)

    def Renew(
        self, request: federation_pb2.RenewRequest, context: grpc.ServicerContext
    ) -> federation_pb2.EnrolReply:
        try:
            certificate = self._authority.renew(request.member, request.csr, request.signature)
        except BarnraiseError as error:
            _abort(context, error)
        return self._reply(certificate)

    def _reply(self, certificate: bytes) -> federation_pb2.EnrolReply:
        return federation_pb2.EnrolReply(
            certificate=certificate,
            authority=self._authority.certificate_der,
            federation=self._authority.federation,
            log_key=self._authority.vkey,
        )


def serve_enrolment(
    authority: Authority, address: str, hosts: tuple[str, ...] = ()
) -> tuple[grpc.Server, int]:
    """A started server on `address` (`host:port`, port 0 for any free one), and its port. Raises N118.

    `hosts` are the names and IP addresses that the invites give; without them, the address's own.
    """
    host, _, port = address.rpartition(":")
    if port != "0":
        host, _ = split_address(address)
    server = grpc.server(
        ThreadPoolExecutor(AT_ONCE, "enrolment"), options=_OPTIONS, maximum_concurrent_rpcs=AT_ONCE
    )
    federation_pb2_grpc.add_EnrolmentServicer_to_server(EnrolmentService(authority), server)
    credentials = authority.server_credentials(hosts or (host.strip("[]"),), require_client=False)
    bound = bind(server, address, credentials)
    server.start()
    return server, bound


def _abort(context: grpc.ServicerContext, error: BarnraiseError) -> NoReturn:
    """Say the refusal; what failed here (a full disk, a damaged file) is for the operator alone."""
    if error.code.startswith("N"):
        status = _STATUS.get(error.code, grpc.StatusCode.PERMISSION_DENIED)
        context.abort(status, f"{error.code}: {error.evidence or error.what}")
    if error.code == "F102":
        context.abort(grpc.StatusCode.UNAVAILABLE, "N121: the operator keeps the key elsewhere")
    context.abort(grpc.StatusCode.INTERNAL, f"N119: the coordinator failed ({error.code})")
