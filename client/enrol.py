"""How a node comes by its certificate: joining with an invite, and renewing.

The coordinator is believed only if it proves itself by the authority in the invite (later: in ca.crt), and
what it answers is held against the invite before anything is kept. A join that was killed goes on where it
was: the keys are there already, and the coordinator gives the same keys the same answer.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from barnraise.client.channel import open_channel
from barnraise.client.keys import Membership, NodeKeys, damaged, not_enrolled, read
from barnraise.protocols import federation_pb2, federation_pb2_grpc, files, pki
from barnraise.protocols.errors import CODES, BarnraiseError
from barnraise.protocols.invite import Invite, split_address

PATIENCE = 20.0
"""Seconds until a coordinator that does not answer counts as unreachable."""
_BRIEFLY = 2.0
"""Seconds of the second look at one that did not answer."""

_Ask = Callable[[federation_pb2_grpc.EnrolmentStub], federation_pb2.EnrolReply]


def join(node_dir: Path, invite: Invite, patience: float = PATIENCE) -> None:
    """Enrol this node. One that is enrolled in that federation only learns its new addresses.

    Raises D104, D105, N101 to N119.
    """
    keys = NodeKeys.open(node_dir)
    known = Membership.read(node_dir)
    if known is not None:
        _move(node_dir, known, invite)
        return
    authority = _authority(invite.authority)
    csr = pki.make_csr(keys.tls_key, invite.member)
    request = federation_pb2.EnrolRequest(
        token=invite.token,
        member=invite.member,
        identity_key=keys.public_key,
        csr=csr,
        signature=pki.sign_csr(keys.identity, "enrol", csr),
    )
    membership = Membership(
        invite.federation, invite.member, invite.session, invite.enrolment, invite.log_key
    )
    reply = _ask(invite.enrolment, authority, lambda s: s.Enrol(request, timeout=patience))
    certificate = _checked(reply, membership, authority, keys)
    with files.disk_errors(node_dir):
        files.replace(node_dir / "ca.crt", authority.public_bytes(Encoding.PEM))
        files.replace(node_dir / "tls.crt", certificate.public_bytes(Encoding.PEM))
    membership.write(node_dir)


def renew(node_dir: Path, patience: float = PATIENCE) -> None:
    """Get a new certificate for the same keys; the old one may have ended. Raises N105 to N119."""
    membership = _membership(node_dir)
    keys = NodeKeys.open(node_dir)
    authority = _kept_authority(node_dir)
    csr = pki.make_csr(keys.tls_key, membership.member)
    request = federation_pb2.RenewRequest(
        member=membership.member, csr=csr, signature=pki.sign_csr(keys.identity, "renew", csr)
    )
    reply = _ask(membership.enrolment, authority, lambda s: s.Renew(request, timeout=patience))
    certificate = _checked(reply, membership, authority, keys)
    with files.disk_errors(node_dir):
        files.replace(node_dir / "tls.crt", certificate.public_bytes(Encoding.PEM))


def expires(node_dir: Path) -> float:
    """When the certificate ends, in seconds since 1970. Raises N115, N116."""
    return _validity(node_dir)[1]


def renew_at(node_dir: Path) -> float:
    """When two thirds of the certificate's life are over, in seconds since 1970. Raises N115, N116."""
    begin, end = _validity(node_dir)
    return begin + (end - begin) * 2 / 3


def _validity(node_dir: Path) -> tuple[float, float]:
    _membership(node_dir)
    return pki.validity(NodeKeys.open(node_dir).certificate())


def _membership(node_dir: Path) -> Membership:
    membership = Membership.read(node_dir)
    if membership is None:
        raise not_enrolled(node_dir)
    return membership


def _move(node_dir: Path, known: Membership, invite: Invite) -> None:
    """Take over an invite's addresses, if it is one to the federation that this node is in."""
    same = (known.federation, known.member, known.log_key) == (
        invite.federation,
        invite.member,
        invite.log_key,
    )
    if not same or _kept_authority(node_dir) != _authority(invite.authority):
        raise BarnraiseError(
            "N114",
            f"{node_dir} is enrolled as {known.member!r} in the federation {known.federation!r}",
            f"the invite is for {invite.member!r} in {invite.federation!r}"
            + (", which has other keys" if known.federation == invite.federation else ""),
            next="join from another node directory",
        )
    moved = known.at(invite.session, invite.enrolment)
    if moved != known:
        moved.write(node_dir)


def _authority(der: bytes) -> x509.Certificate:
    try:
        return pki.load_authority(der)
    except pki.CertificateError as error:
        raise BarnraiseError("N101", "the invite cannot be used", str(error)) from None


def _kept_authority(node_dir: Path) -> x509.Certificate:
    path = node_dir / "ca.crt"
    try:
        return pki.load_authority(read(path))
    except pki.CertificateError as error:
        raise damaged(path, str(error)) from None


def _checked(
    reply: federation_pb2.EnrolReply,
    membership: Membership,
    authority: x509.Certificate,
    keys: NodeKeys,
) -> x509.Certificate:
    """The certificate in the answer, if all of the answer is what it must be; else N113."""
    answered = (reply.federation, reply.log_key, reply.authority)
    expected = (membership.federation, membership.log_key, authority.public_bytes(Encoding.DER))
    if answered != expected:
        raise _unfit("it is of another federation, log or authority")
    peer = pki.Peer(membership.member, keys.fingerprint)
    try:
        return pki.check_certificate(reply.certificate, authority, peer, keys.tls_key)
    except pki.CertificateError as error:
        raise _unfit(f"the certificate in it: {error}") from None


def _unfit(evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "N113",
        "the coordinator's answer does not fit the invite",
        evidence,
        changed="the answer was not kept",
        next="do not go on; ask the federation's operator for a new invite",
    )


# --- asking -------------------------------------------------------------------------------------


def _ask(address: str, authority: x509.Certificate, ask: _Ask) -> federation_pb2.EnrolReply:
    """One call to the Enrolment port; what goes wrong is raised as N102 to N119."""
    roots = authority.public_bytes(Encoding.PEM)
    try:
        with open_channel(address, grpc.ssl_channel_credentials(roots)) as channel:
            return ask(federation_pb2_grpc.EnrolmentStub(channel))
    except grpc.RpcError as error:
        raise _told(address, roots, error) from None


def _told(address: str, roots: bytes, error: grpc.RpcError) -> BarnraiseError:
    assert isinstance(error, grpc.Call)
    details = error.details() or ""
    code, _, reason = details.partition(": ")
    if code in CODES and code.startswith("N1"):
        return BarnraiseError(
            code, CODES[code], reason, "no certificate was given", "ask the federation's operator"
        )
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return _diagnosed(address, roots, details)
    return BarnraiseError(
        "N119",
        f"the coordinator at {address} failed to answer",
        f"{error.code().name}: {details}",
        "no certificate was given",
        "ask the federation's operator to look at the coordinator's output; try again",
    )


def _diagnosed(address: str, roots: bytes, details: str) -> BarnraiseError:
    """Why there is no connection. gRPC says so in changing words, so TLS alone is tried once more."""
    host, port = split_address(address)
    context = ssl.create_default_context(cadata=roots.decode())
    try:
        with (
            socket.create_connection((host, port), timeout=_BRIEFLY) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return _unreachable(address, details)
    except ssl.SSLCertVerificationError as error:
        return _unproven(address, error)
    except OSError as error:
        return _unreachable(address, error.strerror or str(error))


def _unproven(address: str, error: ssl.SSLCertVerificationError) -> BarnraiseError:
    if error.verify_code in (9, 10):  # not yet valid, has expired (OpenSSL's X509_V_ERR_…)
        return BarnraiseError(
            "N112",
            f"the certificate of the coordinator at {address} is not valid now",
            f"{error.verify_message}, at this machine's clock",
            "nothing was sent",
            "set this machine's clock, or ask the operator to look at the coordinator's",
        )
    return BarnraiseError(
        "N111",
        f"whoever answers at {address} is not the federation's coordinator",
        error.verify_message,
        "nothing was sent",
        "do not go on; ask the operator for the address, and who else could answer there",
    )


def _unreachable(address: str, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "N110",
        f"the coordinator cannot be reached at {address}",
        evidence,
        "no certificate was given",
        "look whether the coordinator runs, and whether a firewall lets this port out; try again",
    )
