"""A node's keys and what it knows of its federation, as files in its directory.

    identity.key   Ed25519, PEM: who the member is; signs statements and every request for a certificate
    secret         32 bytes: the randomness of its handlers follows from it
    tls.key        ECDSA P-256, PEM
    ca.crt  tls.crt  federation.json     there once it is enrolled; federation.json is written last

Each is made once and never again: whoever is killed halfway and runs again finds the same keys.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.protocols import files, notes, pki
from barnraise.protocols.errors import BarnraiseError

_PEM = serialization.Encoding.PEM
_SECRET = 32


@dataclass(frozen=True)
class NodeKeys:
    """What is the node's own. `NodeKeys.open` makes what is missing."""

    directory: Path
    identity: Ed25519PrivateKey
    secret: bytes
    tls_key: pki.TlsKey

    @classmethod
    def open(cls, directory: Path) -> NodeKeys:
        """Load the keys, and make those that are missing, unless the node is enrolled with them.

        Raises D104, D105, N115.
        """
        with files.disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if (directory / "federation.json").exists():
                _demand(directory, "identity.key", "secret", "tls.key", "ca.crt", "tls.crt")
            identity = _identity(directory, None)
            secret = _secret(directory, None)
            tls = files.keep(directory / "tls.key", _pem(pki.new_tls_key()))
        return cls(directory, identity, secret, _tls_key(directory / "tls.key", tls))

    @classmethod
    def given(cls, directory: Path, identity: Ed25519PrivateKey, secret: bytes) -> NodeKeys:
        """The same with an identity and a secret that are not random: a simulated member's.

        N115 if the directory holds others.
        """
        with files.disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            held = _identity(directory, identity)
            if held.private_bytes_raw() != identity.private_bytes_raw():
                raise damaged(directory / "identity.key", "it holds another member's key")
            if _secret(directory, secret) != secret:
                raise damaged(directory / "secret", "it holds another secret")
        return cls.open(directory)

    @property
    def public_key(self) -> bytes:
        """The raw identity key, 32 bytes."""
        return self.identity.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        """The identity fingerprint, as it stands in the certificate: 64 hex digits."""
        return pki.fingerprint(self.public_key)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """mTLS towards the session port, with the certificate of this moment. Raises N115, N116.

        What is no certificate is found here: gRPC would try it again and again without a word.
        """
        self.certificate()
        _authority(self.directory / "ca.crt")
        return grpc.ssl_channel_credentials(
            root_certificates=read(self.directory / "ca.crt"),
            private_key=_pem(self.tls_key),
            certificate_chain=read(self.directory / "tls.crt"),
        )

    def certificate(self) -> x509.Certificate:
        """The newest certificate. Raises N115, N116."""
        path = self.directory / "tls.crt"
        try:
            certificate = x509.load_pem_x509_certificate(read(path))
        except ValueError:
            raise damaged(path, "it holds no certificate") from None
        if certificate.public_key() != self.tls_key.public_key():
            raise damaged(path, "it is not for tls.key")
        return certificate


@dataclass(frozen=True)
class Membership:
    """What a node knows of its federation: `federation.json`. Addresses are `host:port`."""

    federation: str
    member: str
    session: str
    enrolment: str
    log_key: str

    @classmethod
    def read(cls, directory: Path) -> Membership | None:
        """None if the node is not enrolled. Raises N115."""
        path = directory / "federation.json"
        if not path.exists():
            return None
        try:
            membership = cls(**json.loads(read(path)))
            membership.log_public_key()
        except (ValueError, TypeError, AttributeError):
            raise damaged(path, "it is not what `join` wrote") from None
        return membership

    def write(self, directory: Path) -> None:
        """In one rename."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        with files.disk_errors(directory):
            files.replace(directory / "federation.json", text.encode())

    def at(self, session: str, enrolment: str) -> Membership:
        """The same federation, reached elsewhere."""
        return replace(self, session=session, enrolment=enrolment)

    def log_public_key(self) -> bytes:
        """The raw Ed25519 key that signs receipts, 32 bytes."""
        return notes.parse_verifier_key(self.log_key)[1]


def _authority(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read(path))
    except ValueError:
        raise damaged(path, "it holds no certificate") from None


def read(path: Path) -> bytes:
    """The bytes of a file that enrolment wrote; N116 if there was no enrolment, N115 if it is gone."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if (path.parent / "federation.json").exists():
            raise damaged(path, "it is missing") from None
        raise not_enrolled(path.parent) from None
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None


def not_enrolled(directory: Path) -> BarnraiseError:
    return BarnraiseError(
        "N116",
        f"{directory} is not enrolled in a federation",
        "it holds no certificate",
        next="join with an invite from the federation's operator",
    )


def damaged(path: Path, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "N115",
        f"{path} cannot be used",
        evidence,
        next="restore the node directory from a backup, or join from a new one",
    )


def _demand(directory: Path, *names: str) -> None:
    for name in names:
        if not (directory / name).exists():
            raise damaged(directory / name, "it is missing, and the node is enrolled")


def _identity(directory: Path, given: Ed25519PrivateKey | None) -> Ed25519PrivateKey:
    path = directory / "identity.key"
    held = files.keep(path, _pem(given or Ed25519PrivateKey.generate()))
    try:
        key = serialization.load_pem_private_key(held, None)
    except (ValueError, TypeError):
        raise damaged(path, "it holds no private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise damaged(path, "it holds another kind of key than Ed25519")
    return key


def _secret(directory: Path, given: bytes | None) -> bytes:
    path = directory / "secret"
    held = files.keep(path, given or secrets.token_bytes(_SECRET))
    if len(held) != _SECRET:
        raise damaged(path, f"it holds {len(held)} bytes, not {_SECRET}")
    return held


def _tls_key(path: Path, pem: bytes) -> pki.TlsKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise damaged(path, "it holds no private key") from None
    if not isinstance(key, pki.TlsKey):
        raise damaged(path, "it holds another kind of key than ECDSA")
    return key


def _pem(key: Ed25519PrivateKey | pki.TlsKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
