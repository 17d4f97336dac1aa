"""Certificates: a federation's own authority, its server's, its members'. Pure; times are given in.

    PkiError              a certificate or a request for one is not what it should be; the message says why
    ├── RequestError      the request (CSR), or the identity key beside it, is malformed
    ├── SignatureError    the request is not signed by that identity key
    └── CertificateError  the certificate names no member, or not in our form

Every TLS key is ECDSA P-256. A member's certificate binds its TLS key to its identity: Common Name is the
member's name, and the one URI in its SAN is `barnraise:<member>:<hex SHA-256 of the identity key>`. It is
good for clients alone and the server's for servers alone, so no member can pose as the coordinator.

Times are seconds since 1970. Certificates are valid from one hour before issue (DESIGN §8), so that a
clock that is somewhat off decides nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from barnraise.protocols.identity import is_name

TlsKey = ec.EllipticCurvePrivateKey

EARLIER = 3600.0
WEEK = 7 * 86400.0
YEAR = 365 * 86400.0
LIMIT = 8192
"""Bytes of the largest certificate or request that is looked at."""

_URI = re.compile(r"barnraise:([a-z0-9-]{1,63}):([0-9a-f]{64})")


class PkiError(ValueError):
    """A certificate or a request for one is not what it should be."""


class RequestError(PkiError):
    """The request, or the identity key beside it, is malformed."""


class SignatureError(PkiError):
    """The request is not signed by the identity key."""


class CertificateError(PkiError):
    """The certificate names no member, or not in our form."""


def fingerprint(identity_key: bytes) -> str:
    """64 hex digits: SHA-256 of the raw Ed25519 public key."""
    return hashlib.sha256(identity_key).hexdigest()


@dataclass(frozen=True)
class Peer:
    """Whom a certificate names. That it is genuine and in force is TLS's to say, not ours."""

    member: str
    fingerprint: str

    @classmethod
    def of(cls, certificate: bytes) -> Peer:
        """The member that a certificate (PEM or DER) names; else `CertificateError`."""
        parsed = _certificate(certificate)
        with _turned(CertificateError, "its names cannot be read"):
            names = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            found = [_URI.fullmatch(uri) for uri in _uris(parsed)]
        if len(found) != 1 or found[0] is None:
            raise CertificateError("it names no member of a federation")
        member, digest = found[0].groups()
        if not is_name(member) or [n.value for n in names] != [member]:
            raise CertificateError(f"it names {member!r} in one place and not in the other")
        return cls(member, digest)

    @property
    def uri(self) -> str:
        return f"barnraise:{self.member}:{self.fingerprint}"


_FAILURES = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)


@contextmanager
def _turned(to: type[PkiError], what: str) -> Iterator[None]:
    """Whatever `cryptography` raises over bytes of others becomes `to`; it parses late, so anywhere."""
    try:
        yield
    except PkiError:
        raise
    except _FAILURES as error:
        raise to(f"{what}: {error}" if str(error) else what) from None


def _certificate(data: bytes) -> x509.Certificate:
    if len(data) > LIMIT:
        raise CertificateError(f"it is larger than {LIMIT} bytes")
    with _turned(CertificateError, "it cannot be read"):
        if data.startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return list(names.value.get_values_for_type(x509.UniformResourceIdentifier))
    except x509.ExtensionNotFound:
        return []


def new_tls_key() -> TlsKey:
    return ec.generate_private_key(ec.SECP256R1())


def new_authority(federation: str, now: float) -> tuple[TlsKey, x509.Certificate]:
    """A federation's root: its key, and its certificate for twenty years."""
    key = new_tls_key()
    return key, authority_certificate(key, federation, now)


def authority_certificate(key: TlsKey, federation: str, now: float) -> x509.Certificate:
    """The root certificate of the holder of `key`, for twenty years; Common Name is the federation's."""
    name = _name(federation)
    builder = _builder(name, name, key.public_key(), now, 20 * YEAR)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(certifies=True), critical=True)
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(ski, critical=False)
    return builder.sign(key, hashes.SHA256())


def server_certificate(
    ca_key: TlsKey, ca: x509.Certificate, key: TlsKey, hosts: Sequence[str], now: float
) -> x509.Certificate:
    """For a server that is reached under these names; IP addresses stand in it as such.

    Ten years: its key lies beside the authority's, so a shorter life would protect nothing.
    """
    names = x509.SubjectAlternativeName([_host(host) for host in hosts])
    subject = _name("coordinator")
    builder = _builder(subject, ca.subject, key.public_key(), now, 10 * YEAR)
    return _leaf(builder, ca_key, names, ExtendedKeyUsageOID.SERVER_AUTH)


def hosts_of(certificate: x509.Certificate) -> set[str]:
    """The host names and IP addresses that a server's certificate holds for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    return {*names.get_values_for_type(x509.DNSName), *map(str, addresses)}


def issue(
    ca_key: TlsKey,
    ca: x509.Certificate,
    csr: bytes,
    member: str,
    identity_key: bytes,
    now: float,
    lifetime: float = WEEK,
) -> bytes:
    """A member's certificate (DER), valid until `now + lifetime`; `RequestError` if the CSR is malformed.

    Of the request nothing is taken over but its key.
    """
    request = check_csr(csr, member)
    peer = Peer(member, fingerprint(identity_key))
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(peer.uri)])
    public_key = request.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    builder = _builder(_name(member), ca.subject, public_key, now, lifetime)
    certificate = _leaf(builder, ca_key, names, ExtendedKeyUsageOID.CLIENT_AUTH)
    return certificate.public_bytes(serialization.Encoding.DER)


def make_csr(tls_key: TlsKey, member: str) -> bytes:
    """A member's request (DER) for a certificate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(member))
    return builder.sign(tls_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def check_csr(csr: bytes, member: str) -> x509.CertificateSigningRequest:
    """The parsed request: for `member`, with a P-256 key, signed by it; else `RequestError`."""
    if len(csr) > LIMIT:
        raise RequestError(f"the request is larger than {LIMIT} bytes")
    with _turned(RequestError, "the request cannot be read"):
        request = x509.load_der_x509_csr(csr)
        if not _is_p256(request.public_key()):
            raise RequestError("the request's key is not ECDSA P-256")
        whole, names = request.is_signature_valid, request.subject
    if not whole:
        raise RequestError("the request is not signed by its own key")
    if [n.value for n in names.get_attributes_for_oid(NameOID.COMMON_NAME)] != [member]:
        raise RequestError(f"the request is not for {member!r}")
    return request


def sign_csr(identity: Ed25519PrivateKey, purpose: str, csr: bytes) -> bytes:
    """The identity key's word for a request; `purpose` is `enrol` or `renew`."""
    return identity.sign(_signed(purpose, csr))


def check_signature(identity_key: bytes, purpose: str, csr: bytes, signature: bytes) -> None:
    """`SignatureError` unless the holder of this raw Ed25519 key signed `csr` for this purpose."""
    if len(identity_key) != 32:
        raise RequestError("the identity key is not 32 bytes long")
    try:
        key = Ed25519PublicKey.from_public_bytes(identity_key)
        key.verify(signature, _signed(purpose, csr))
    except InvalidSignature:
        raise SignatureError("the request is not signed by the identity key") from None


def _signed(purpose: str, csr: bytes) -> bytes:
    return b"barnraise %b\n%b" % (purpose.encode(), csr)


def check_certificate(
    certificate: bytes, ca: x509.Certificate, peer: Peer, tls_key: TlsKey
) -> x509.Certificate:
    """The parsed certificate (DER): by `ca`, for `peer` and its TLS key; else `CertificateError`."""
    parsed = _certificate(certificate)
    with _turned(CertificateError, "it is not by the federation's authority"):
        parsed.verify_directly_issued_by(ca)
        if parsed.public_key() != tls_key.public_key():
            raise CertificateError("it is for another TLS key")
    if (found := Peer.of(certificate)) != peer:
        raise CertificateError(f"it is for {found.uri}, not for {peer.uri}")
    return parsed


def load_authority(certificate: bytes) -> x509.Certificate:
    """A root's certificate (PEM or DER): it signs itself and may certify; else `CertificateError`."""
    parsed = _certificate(certificate)
    with _turned(CertificateError, "it is no authority's"):
        parsed.verify_directly_issued_by(parsed)
        basic = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not basic.ca or not _is_p256(parsed.public_key()):
            raise CertificateError("it is no authority's")
    return parsed


def validity(certificate: x509.Certificate) -> tuple[float, float]:
    """The moments from and until which it is valid."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin.timestamp(), end.timestamp()


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: float,
    lifetime: float,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(datetime.fromtimestamp(int(now - EARLIER), UTC))
    return builder.not_valid_after(datetime.fromtimestamp(int(now + lifetime), UTC))


def _leaf(
    builder: x509.CertificateBuilder,
    ca_key: TlsKey,
    names: x509.SubjectAlternativeName,
    purpose: x509.ObjectIdentifier,
) -> x509.Certificate:
    aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_usage(certifies=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(aki, critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _usage(*, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certifies,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certifies,
        crl_sign=certifies,
        encipher_only=False,
        decipher_only=False,
    )
