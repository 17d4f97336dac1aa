"""`model.sig`: an OpenSSF Model Signing v1.0 signature over the files of a release. Pure: it opens no file.

    a Sigstore bundle (JSON) ⊃ a DSSE envelope ⊃ an in-toto statement ⊃ each file's path and SHA-256

The key is P-256. The check needs none of the libraries that write the format, and takes nothing but what
they write for this statement and this signature: one spelling, so that no byte of the file can change.
What the statement names the model is informative, as in the format's own verifier.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

FILE = "model.sig"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
SERIALIZATION: Mapping[str, Any] = {
    "method": "files",
    "hash_type": "sha256",
    "allow_symlinks": False,
    "ignore_paths": [FILE],
}
"""How the files were read: all of them but the signature itself, no links among them."""


class SignatureFault(ValueError):
    """A `model.sig` that is not what, or not by whom, it should be. The message says which."""


def check_model_sig(data: bytes, files: Mapping[str, str], signer: str) -> None:
    """`SignatureFault` unless `data` is `signer`'s signature over exactly these files.

    `files` maps every path of the release but `model.sig` to its SHA-256 in hex. `signer` is the base64 of
    the SubjectPublicKeyInfo (DER) of a P-256 key, as the manifest has it.
    """
    key = public_key(signer)
    payload, signature = _opened(data, hint(key))
    try:
        key.verify(signature, pae(payload), ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise SignatureFault("the signature is not by the key that the manifest names") from None
    _check_statement(payload, files)


def spelled(key: ec.EllipticCurvePublicKey) -> str:
    """The key as the manifest has it; `public_key(spelled(k))` is k."""
    return _base64(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def public_key(signer: str) -> ec.EllipticCurvePublicKey:
    """The key that the manifest names. Raises `SignatureFault` for any other spelling, or curve."""
    try:
        key = load_der_public_key(base64.b64decode(signer, validate=True))
    except ValueError as error:
        raise SignatureFault(f"the signer is no public key: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise SignatureFault("the signer is no P-256 key")
    if spelled(key) != signer:
        raise SignatureFault("the signer's key is in another spelling")
    return key


def pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key as `openssl` and `model_signing verify key` read it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hint(key: ec.EllipticCurvePublicKey) -> str:
    """How the bundle names the key."""
    return hashlib.sha256(pem(key)).hexdigest()


def pae(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %b %d %b" % (len(IN_TOTO), IN_TOTO.encode(), len(payload), payload)


def bundle(key_hint: str, payload: bytes, signature: bytes) -> bytes:
    """The file, byte for byte as the `model_signing` library writes it."""
    signatures = [{"sig": _base64(signature), "keyid": ""}]
    value = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key_hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _base64(payload),
            "payloadType": IN_TOTO,
            "signatures": signatures,
        },
    }
    return json.dumps(value, separators=(",", ":")).encode()


def _opened(data: bytes, key_hint: str) -> tuple[bytes, bytes]:
    """Payload and signature of a bundle, neither of which is verified yet."""
    value = _parsed(data, "the bundle")
    try:
        envelope = value["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
    except (KeyError, IndexError, TypeError, ValueError):
        raise SignatureFault("it is no bundle of an envelope with one signature") from None
    if bundle(key_hint, payload, signature) != data:
        raise SignatureFault("the bundle is not byte for byte what the format's writer gives")
    try:
        again = encode_dss_signature(*decode_dss_signature(signature))
    except ValueError:
        raise SignatureFault("the signature is no DER pair of integers") from None
    if again != signature:
        raise SignatureFault("the signature is in another spelling")
    return payload, signature


def _check_statement(payload: bytes, files: Mapping[str, str]) -> None:
    """`SignatureFault` unless the statement is over exactly these files."""
    value = _parsed(payload, "the statement")
    if json.dumps(value, indent=2).encode() != payload:
        raise SignatureFault("the statement is not byte for byte what the format's writer gives")
    try:
        subject, resources = value["subject"][0], value["predicate"]["resources"]
        name, held = subject["name"], {one["name"]: one["digest"] for one in resources}
        hashes = b"".join(bytes.fromhex(one["digest"]) for one in resources)
    except (KeyError, IndexError, TypeError, ValueError):
        raise SignatureFault("it is no statement of the format") from None
    _check_files(held, files)
    expected = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": hashlib.sha256(hashes).hexdigest()}}],
        "predicateType": PREDICATE,
        "predicate": {"resources": _resources(resources), "serialization": dict(SERIALIZATION)},
    }
    same = json.dumps(value, sort_keys=True) == json.dumps(expected, sort_keys=True)
    if not same or not isinstance(name, str) or len(held) != len(resources):
        raise SignatureFault("the statement has other fields than the format")


def _check_files(held: Mapping[str, str], files: Mapping[str, str]) -> None:
    for path in sorted(files):
        if path not in held:
            raise SignatureFault(f"{path} is not signed")
        if held[path] != files[path]:
            raise SignatureFault(f"{path} is not the file that was signed")
    if more := set(held) - set(files):
        raise SignatureFault(f"{min(more)} was signed and is not there")


def _resources(resources: Any) -> list[dict[str, str]]:
    """The resources as the format has them, in the order in which they stand."""
    return [
        {"name": one["name"], "algorithm": "sha256", "digest": one["digest"]} for one in resources
    ]


def _parsed(data: bytes, what: str) -> Any:
    try:
        return json.loads(data.decode("ascii"))
    except (ValueError, RecursionError):
        raise SignatureFault(f"{what} is not JSON in ASCII") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
