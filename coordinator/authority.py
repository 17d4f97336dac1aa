"""A federation's authority: its keys on disk, whom it admits, and the certificates that it gives.

    DIR/ca.key  ca.crt  log.key  server.key  server.crt  members.db

Keys are made once. `ca.crt` is written last: where it is, the federation is founded, and a key that is
missing then is damage, never made anew. The authority's own key is read when the first certificate is
issued, so a process that only asks who a peer is never holds it.
"""

from __future__ import annotations

import base64
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.coordinator.registry import Invited, Record, Registry
from barnraise.protocols import files, notes, pki
from barnraise.protocols.errors import CODES, BarnraiseError
from barnraise.protocols.identity import Member, is_name
from barnraise.protocols.invite import Invite, log_name

_PEM = serialization.Encoding.PEM


class Authority:
    """Open it with `Authority.open`. May be used by any thread; two processes may share a directory."""

    def __init__(
        self, directory: Path, certificate: x509.Certificate, clock: Callable[[], float]
    ) -> None:
        self.directory = directory
        self.certificate = certificate
        self.federation = _common_name(certificate)
        self._clock = clock
        self._lock = threading.Lock()  # server.crt
        self._registry = Registry(directory / "members.db")

    @classmethod
    def open(
        cls,
        directory: Path,
        federation: str,
        clock: Callable[[], float] = time.time,
        *,
        offline: bool = False,
    ) -> Authority:
        """Load the federation in `directory`, or found it. Raises D101, D104, D105, D106, N117.

        With `offline` the authority's own key may be elsewhere: what needs it raises F102.
        """
        _check_name(federation)
        with files.disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (directory / "ca.crt").exists():
                _found(directory, federation, clock())
            certificate = _loaded_authority(directory / "ca.crt")
            for name in ("ca.key", "log.key", "members.db"):
                if not (offline and name == "ca.key") and not (directory / name).exists():
                    raise _damaged(directory / name, "it is missing, and the federation is founded")
            authority = cls(directory, certificate, clock)
        if authority.federation != federation:
            authority.close()
            raise BarnraiseError(
                "D101",
                f"{directory} belongs to the federation {authority.federation!r}",
                f"asked for: {federation!r}",
                next="give another directory",
            )
        return authority

    def close(self) -> None:
        self._registry.close()

    @cached_property
    def log_key(self) -> Ed25519PrivateKey:
        path = self.directory / "log.key"
        try:
            return Ed25519PrivateKey.from_private_bytes(base64.b64decode(_read(path)))
        except ValueError:
            raise _damaged(path, "it holds no Ed25519 key") from None

    @cached_property
    def vkey(self) -> str:
        """The log's verifier key."""
        public_key = self.log_key.public_key().public_bytes_raw()
        return notes.verifier_key(log_name(self.federation), public_key)

    @cached_property
    def certificate_der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @cached_property
    def _issuing_key(self) -> pki.TlsKey:
        path = self.directory / "ca.key"
        if not path.exists():
            raise BarnraiseError(
                "F102",
                "the authority's key is not here, and a certificate is to be issued",
                f"there is no {path}",
                "no certificate was issued",
                f"put the key back at {path} for as long as members join or renew",
            )
        key = _tls_key(path)
        if key.public_key() != self.certificate.public_key():
            raise _damaged(path, "it is not the key of ca.crt")
        return key

    # --- members --------------------------------------------------------------------------------

    def invite(
        self, member: str, expires: float, organisation: str = "", *, confirm: bool = False
    ) -> str:
        """A token (192 bits) that admits `member` once, before `expires` (seconds since 1970).

        An earlier invite of that name that nobody used is void. With `confirm` the keys that use it wait
        for `confirm`. Raises N117.
        """
        _check_name(member)
        token = secrets.token_urlsafe(24)
        self._registry.invite(member, token, expires, organisation, confirm=confirm)
        return token

    def invitation(
        self,
        member: str,
        expires: float,
        session: str,
        enrolment: str,
        organisation: str = "",
        *,
        confirm: bool = False,
    ) -> Invite:
        """`invite`, with all else that the member's node needs; addresses are `host:port`."""
        token = self.invite(member, expires, organisation, confirm=confirm)
        return Invite(
            federation=self.federation,
            member=member,
            session=session,
            enrolment=enrolment,
            authority=self.certificate_der,
            log_key=self.vkey,
            token=token,
        )

    def enrol(
        self, token: str, member: str, identity_key: bytes, csr: bytes, signature: bytes
    ) -> bytes:
        """A member's first certificate (DER). The same keys again get the same one while it is valid.

        Raises N102 to N108; N120 while the operator has not confirmed the keys.
        """
        _check_request(member, identity_key, "enrol", csr, signature)
        if code := self._registry.enrol(token, member, identity_key, self._clock()):
            raise refused(code)
        record = self._registry.record(pki.fingerprint(identity_key))
        assert record is not None
        if not record.confirmed:
            raise refused("N120", "the operator has not confirmed this node's fingerprint yet")
        return self._certify(record, csr, again=True)

    def confirm(self, member: str) -> Member:
        """Admit the keys that enrolled under this name. Again does no harm. Raises N109."""
        if not self._registry.confirm(member, self._clock()):
            raise refused("N109", f"member: {member}")
        record = self._registry.named(member)
        assert record is not None
        return Member(record.name, record.identity_key)

    def records(self) -> list[Record]:
        """Everybody who ever enrolled, by name; the revoked and the unconfirmed too."""
        return self._registry.all()

    def invites(self) -> list[Invited]:
        """The invites that nobody used yet."""
        return self._registry.invites()

    def renew(self, member: str, csr: bytes, signature: bytes) -> bytes:
        """A new certificate (DER) for an enrolled member, also after the last one ended.

        Raises N105, N106, N107, N109.
        """
        record = self._registry.named(member)
        if record is None:
            raise refused("N109")
        _check_request(member, record.identity_key, "renew", csr, signature)
        if record.revoked:
            raise refused("N105")
        if not record.confirmed:
            raise refused("N120", "the operator has not confirmed this node's fingerprint yet")
        return self._certify(record, csr, again=False)

    def _certify(self, record: Record, csr: bytes, *, again: bool) -> bytes:
        """Issue a certificate; `again` gives the one on record if it is valid and for the same key."""
        now = self._clock()
        if again and record.certificate is not None:
            given = x509.load_der_x509_certificate(record.certificate)
            same = given.public_key() == pki.check_csr(csr, record.name).public_key()
            if same and now < pki.validity(given)[1]:
                return record.certificate
        certificate = pki.issue(
            self._issuing_key, self.certificate, csr, record.name, record.identity_key, now
        )
        self._registry.certified(pki.fingerprint(record.identity_key), certificate)
        return certificate

    def revoke(self, member: str) -> None:
        """Never admit this member's keys again. Again does no harm. Raises N109."""
        if not self._registry.revoke(member, self._clock()):
            raise refused("N109", f"member: {member}")

    def member(self, fingerprint: str) -> Member | None:
        """The member with this identity fingerprint (hex); None if unknown or revoked."""
        record = self._registry.record(fingerprint)
        if record is None or record.revoked or not record.confirmed:
            return None
        return Member(record.name, record.identity_key)

    def revoked(self, member: Member) -> bool:
        """Whether this member's keys were enrolled once and are revoked."""
        record = self._registry.record(pki.fingerprint(member.public_key))
        return record is not None and record.revoked

    def members(self) -> list[Member]:
        """The members that are not revoked, in canonical order."""
        return self._registry.members()

    # --- the server -----------------------------------------------------------------------------

    def server_credentials(
        self, hosts: Sequence[str], *, require_client: bool
    ) -> grpc.ServerCredentials:
        """TLS for a server that is reached under these hosts (names or IP addresses, no ports).

        With `require_client` only holders of a certificate of this federation get through (mTLS).
        """
        with files.disk_errors(self.directory):
            key, chain = self._server_pair(hosts)
        roots = self.certificate.public_bytes(_PEM) if require_client else None
        return grpc.ssl_server_credentials([(key, chain)], roots, require_client)

    def _server_pair(self, hosts: Sequence[str]) -> tuple[bytes, bytes]:
        """Key and certificate (PEM), the latter made anew for hosts that it lacks, and near its end."""
        path = self.directory / "server.key"
        pem = files.keep(path, _pem(pki.new_tls_key()))
        with self._lock:
            held = _server_certificate(self.directory / "server.crt")
            known = pki.hosts_of(held) if held is not None else set()
            if held is None or not set(hosts) <= known or self._is_due(held):
                names = sorted(known.union(hosts))
                held = pki.server_certificate(
                    self._issuing_key, self.certificate, _tls_key(path), names, self._clock()
                )
                files.replace(self.directory / "server.crt", held.public_bytes(_PEM))
        return pem, held.public_bytes(_PEM)

    def _is_due(self, certificate: x509.Certificate) -> bool:
        """Whether two thirds of its life are over; without the authority's key, all of it."""
        begin, end = pki.validity(certificate)
        part = 2 / 3 if (self.directory / "ca.key").exists() else 1.0
        return self._clock() > begin + (end - begin) * part


def refused(code: str, evidence: str = "") -> BarnraiseError:
    """Why a request for a certificate is refused, as its sender may know it."""
    return BarnraiseError(code, CODES[code], evidence, next="ask the federation's operator")


def _check_request(
    member: str, identity_key: bytes, purpose: str, csr: bytes, signature: bytes
) -> None:
    try:
        pki.check_signature(identity_key, purpose, csr, signature)
        pki.check_csr(csr, member)
    except pki.SignatureError as error:
        raise refused("N106", str(error)) from None
    except pki.RequestError as error:
        raise refused("N107", str(error)) from None


def _found(directory: Path, federation: str, now: float) -> None:
    """Make the keys, then the certificate that says that all of them are there."""
    log_key = Ed25519PrivateKey.generate().private_bytes_raw()
    files.keep(directory / "log.key", base64.b64encode(log_key) + b"\n")
    files.keep(directory / "ca.key", _pem(pki.new_tls_key()))
    Registry(directory / "members.db").close()
    certificate = pki.authority_certificate(_tls_key(directory / "ca.key"), federation, now)
    files.keep(directory / "ca.crt", certificate.public_bytes(_PEM))


def _check_name(name: str) -> None:
    if not is_name(name):
        raise BarnraiseError(
            "N117",
            f"{name!r} cannot be the name of a member or a federation",
            "a name is made of a-z, 0-9 and inner hyphens, 63 characters at most",
            next="choose such a name",
        )


def _common_name(certificate: x509.Certificate) -> str:
    (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(name.value)


def _read(path: Path) -> bytes:
    with files.disk_errors(path):
        return path.read_bytes()


def _pem(key: pki.TlsKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _tls_key(path: Path) -> pki.TlsKey:
    try:
        key = serialization.load_pem_private_key(_read(path), None)
    except (ValueError, TypeError):
        raise _damaged(path, "it holds no private key") from None
    if not isinstance(key, pki.TlsKey):
        raise _damaged(path, "it holds another kind of key")
    return key


def _loaded_authority(path: Path) -> x509.Certificate:
    try:
        return pki.load_authority(_read(path))
    except pki.CertificateError as error:
        raise _damaged(path, str(error)) from None


def _server_certificate(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(_read(path)) if path.exists() else None
    except ValueError:
        raise _damaged(path, "it holds no certificate") from None


def _damaged(path: Path, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "D106",
        f"{path} is damaged",
        evidence,
        next="restore the federation's directory from a backup",
    )
