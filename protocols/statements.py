"""What a member signs: DSSE envelopes (https://github.com/secure-systems-lab/dsse), Ed25519.

A reply's statement binds federation, run, order, content and policy, so that it can stand for nothing
else: not for another run, another order, or another content.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from barnraise.protocols import canonical

NO_POLICY = canonical.digest(b"{}")
Check = Callable[[bytes, bytes, bytes], None]
"""Asked whether a raw Ed25519 key made a signature over a message; `StatementError` if it did not."""


class StatementError(ValueError):
    """A statement that is not what, or not by whom, it should be. The message says which."""


def _type(kind: str) -> str:
    return f"application/vnd.barnraise.{kind}+json"


def _pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(
    key: Ed25519PrivateKey, keyid: str, kind: str, payload: Mapping[str, Any]
) -> dict[str, Any]:
    """The DSSE envelope (JSON) over `payload`'s canonical bytes."""
    body = canonical.canonical(dict(payload))
    signature = key.sign(_pae(_type(kind), body))
    return {
        "payloadType": _type(kind),
        "payload": base64.b64encode(body).decode(),
        "signatures": [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}],
    }


def check_signature(public_key: bytes, signature: bytes, message: bytes) -> None:
    """`StatementError` unless the holder of this raw Ed25519 key signed the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise StatementError("the signature is not by this member's identity key") from None


def verify(
    public_key: bytes, keyid: str, kind: str, envelope: Any, check: Check = check_signature
) -> dict[str, Any]:
    """The payload that `keyid`, the holder of `public_key`, signed as a `kind`; else `StatementError`.

    Strict: exactly what `sign` writes. One signature, no other field, one spelling of each base64 text.
    """
    payload_type, body, sig = _opened(envelope, keyid)
    if payload_type != _type(kind):
        raise StatementError(f"a statement of type {payload_type!r}, not {_type(kind)!r}")
    check(public_key, sig, _pae(payload_type, body))
    try:
        payload = canonical.parse(body)
    except canonical.NotCanonical as error:
        raise StatementError(f"the payload is {error}") from None
    if not isinstance(payload, dict):
        raise StatementError("the payload is not an object")
    return payload


def _opened(envelope: Any, keyid: str) -> tuple[str, bytes, bytes]:
    """Payload type, payload and signature of a DSSE envelope, none of which is verified yet."""
    envelope = _fields(envelope, {"payloadType", "payload", "signatures"})
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise StatementError("not a DSSE envelope with one signature")
    signature = _fields(signatures[0], {"keyid", "sig"})
    if not isinstance(signature["keyid"], str) or not isinstance(envelope["payloadType"], str):
        raise StatementError("not a DSSE envelope: a name that is no text")
    if signature["keyid"] != keyid:
        raise StatementError(f"signed as {signature['keyid']!r}, not as {keyid!r}")
    return envelope["payloadType"], _unbase64(envelope["payload"]), _unbase64(signature["sig"])


def _fields(value: Any, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        raise StatementError("not a DSSE envelope: it has other fields")
    return value


def _unbase64(text: Any) -> bytes:
    """Base64 has several spellings of the same bytes; only the one that `sign` writes is taken."""
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise StatementError(f"not a DSSE envelope: {error}") from None
    if base64.b64encode(data).decode() != text:
        raise StatementError("not a DSSE envelope: base64 in another spelling")
    return data


def reply_payload(
    federation: str, run: str, order: str, content: str, policy: str
) -> dict[str, str]:
    """What a member signs of its reply (DESIGN §8)."""
    return {
        "federation": federation,
        "run": run,
        "order": order,
        "content": content,
        "policy": policy,
    }
