"""Certificates: what is issued, what is refused, and that no bytes make the parsers fall over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from barnraise.protocols import pki
from barnraise.protocols.identity import is_name

NOW = 1_790_000_000.0
IDENTITY = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
PUBLIC = IDENTITY.public_key().public_bytes_raw()
CA_KEY, CA = pki.new_authority("neighbours", NOW)
TLS_KEY = pki.new_tls_key()
CSR = pki.make_csr(TLS_KEY, "basel")
CERTIFICATE = pki.issue(CA_KEY, CA, CSR, "basel", PUBLIC, NOW)
PEER = pki.Peer("basel", pki.fingerprint(PUBLIC))


def csr_of(
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "basel")])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def test_a_certificate_names_member_and_identity() -> None:
    assert pki.Peer.of(CERTIFICATE) == PEER
    assert PEER.uri == f"barnraise:basel:{pki.fingerprint(PUBLIC)}"
    pem = x509.load_der_x509_certificate(CERTIFICATE).public_bytes(Encoding.PEM)
    assert pki.Peer.of(pem) == PEER


def test_a_certificate_is_valid_from_an_hour_before_issue_for_seven_days() -> None:
    parsed = x509.load_der_x509_certificate(CERTIFICATE)
    assert pki.validity(parsed) == (NOW - 3600, NOW + 7 * 86400)


def test_a_members_certificate_is_for_clients_alone_and_the_servers_for_servers() -> None:
    def purposes(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)

    server = pki.server_certificate(CA_KEY, CA, TLS_KEY, ["127.0.0.1"], NOW)
    assert purposes(server) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert purposes(x509.load_der_x509_certificate(CERTIFICATE)) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]


def test_a_members_certificate_certifies_nobody() -> None:
    parsed = x509.load_der_x509_certificate(CERTIFICATE)
    assert not parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(pki.CertificateError):
        pki.load_authority(CERTIFICATE)


def test_the_server_certificate_holds_for_names_and_addresses() -> None:
    hosts = ["barn.example.org", "127.0.0.1", "::1"]
    server = pki.server_certificate(CA_KEY, CA, TLS_KEY, hosts, NOW)
    assert pki.hosts_of(server) == set(hosts)
    with pytest.raises(pki.CertificateError):
        pki.Peer.of(server.public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=["rsa", "ed25519", "p384", "secp256k1"],
)
def test_a_request_with_another_kind_of_key_is_refused(
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    with pytest.raises(pki.RequestError, match="P-256"):
        pki.check_csr(csr_of(key), "basel")


def test_a_request_for_another_name_is_refused() -> None:
    with pytest.raises(pki.RequestError, match="not for 'bern'"):
        pki.check_csr(CSR, "bern")


def test_a_request_whose_own_signature_is_wrong_is_refused() -> None:
    with pytest.raises(pki.RequestError, match="not signed by its own key"):
        pki.check_csr(CSR[:-1] + bytes([CSR[-1] ^ 1]), "basel")


def changes(data: bytes) -> Iterator[bytes]:
    """`data` with each of its bytes changed, in some ways."""
    for at in range(len(data)):
        for change in (1, 0x20, 0x80, 0xFF):
            yield data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


def test_any_changed_byte_of_a_request_is_refused() -> None:
    signed = x509.load_der_x509_csr(CSR).tbs_certrequest_bytes
    taken = 0
    for changed in changes(CSR):
        try:
            request = pki.check_csr(changed, "basel")
        except pki.RequestError:
            continue
        assert request.tbs_certrequest_bytes == signed  # another spelling of the same signature
        taken += 1
    assert taken <= 1


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200))
@example(b"")
@example(b"-----BEGIN CERTIFICATE-----\n")
@example(b"\x30" * (pki.LIMIT + 1))
def test_any_bytes_are_refused_with_a_reason(data: bytes) -> None:
    for parse in (pki.Peer.of, pki.load_authority):
        with pytest.raises(pki.CertificateError):
            parse(data)
    with pytest.raises(pki.RequestError):
        pki.check_csr(data, "basel")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_any_changed_byte_of_a_certificate_is_refused() -> None:
    signed = x509.load_der_x509_certificate(CERTIFICATE).tbs_certificate_bytes
    taken = 0
    for changed in changes(CERTIFICATE):
        try:
            certificate = pki.check_certificate(changed, CA, PEER, TLS_KEY)
        except pki.CertificateError:
            continue
        assert certificate.tbs_certificate_bytes == signed  # another spelling of the same signature
        taken += 1
    assert taken <= 1


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_an_authority_with_a_changed_byte_is_refused_or_has_the_same_key() -> None:
    for changed in changes(CA.public_bytes(Encoding.DER)):
        try:
            authority = pki.load_authority(changed)
        except pki.CertificateError:
            continue
        assert authority.tbs_certificate_bytes == CA.tbs_certificate_bytes


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_changed_certificate_names_a_peer_or_says_why_not() -> None:
    for changed in changes(CERTIFICATE):
        with contextlib.suppress(pki.CertificateError):
            assert is_name(pki.Peer.of(changed).member)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=80), st.sampled_from(["enrol", "renew"]))
def test_a_signature_holds_for_one_purpose_and_one_request(csr: bytes, purpose: str) -> None:
    signature = pki.sign_csr(IDENTITY, purpose, csr)
    pki.check_signature(PUBLIC, purpose, csr, signature)
    other = "renew" if purpose == "enrol" else "enrol"
    for wrong in ((other, csr, signature), (purpose, csr + b"!", signature), (purpose, csr, b"")):
        with pytest.raises(pki.SignatureError):
            pki.check_signature(PUBLIC, *wrong)


@pytest.mark.parametrize("key", [b"", b"\x00" * 31, b"\x00" * 33])
def test_an_identity_key_of_another_length_is_refused(key: bytes) -> None:
    with pytest.raises(pki.RequestError, match="32 bytes"):
        pki.check_signature(key, "enrol", CSR, b"")


def test_a_key_that_is_no_point_is_refused() -> None:
    with pytest.raises(pki.SignatureError):
        pki.check_signature(b"\xff" * 32, "enrol", CSR, b"\x00" * 64)


def forged(uris: list[str], common: str = "basel") -> bytes:
    """A certificate with these URIs, by the federation's own authority."""
    builder = pki._builder(pki._name(common), CA.subject, TLS_KEY.public_key(), NOW, 60)
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(CA_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("uris", "common"),
    [
        ([], "basel"),
        ([PEER.uri], "bern"),
        ([PEER.uri, PEER.uri], "basel"),
        ([PEER.uri, "https://example.org"], "basel"),
        ([PEER.uri.upper()], "basel"),
        ([PEER.uri + "0"], "basel"),
        (["barnraise:-basel:" + "0" * 64], "-basel"),
        (["barnraise:basel"], "basel"),
    ],
)
def test_a_certificate_that_names_no_member_in_our_form_is_refused(
    uris: list[str], common: str
) -> None:
    assert pki.Peer.of(forged([PEER.uri])) == PEER
    with pytest.raises(pki.CertificateError):
        pki.Peer.of(forged(uris, common))


def test_another_authoritys_or_another_peers_certificate_is_refused() -> None:
    _, other = pki.new_authority("neighbours", NOW)
    assert pki.check_certificate(CERTIFICATE, CA, PEER, TLS_KEY)
    for ca, peer, key in (
        (other, PEER, TLS_KEY),
        (CA, pki.Peer("bern", PEER.fingerprint), TLS_KEY),
        (CA, pki.Peer("basel", "0" * 64), TLS_KEY),
        (CA, PEER, pki.new_tls_key()),
    ):
        with pytest.raises(pki.CertificateError):
            pki.check_certificate(CERTIFICATE, ca, peer, key)
