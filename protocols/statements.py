"""What a member signs: DSSE envelopes (https://github.com/secure-systems-lab/dsse), Ed25519.

A reply's statement binds federation, run, order, content and policy, so that it can stand for nothing
else: not for another run, another order, or another content.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from barnraise.protocols import canonical

NO_POLICY = canonical.digest(b"{}")


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


def verify(public_key: bytes, kind: str, envelope: Any) -> dict[str, Any]:
    """The payload that the holder of `public_key` signed as a `kind`; `StatementError` otherwise."""
    try:
        if set(envelope) != {"payloadType", "payload", "signatures"}:
            raise StatementError("not a DSSE envelope")
        (signature,) = envelope["signatures"]
        body = base64.b64decode(envelope["payload"], validate=True)
        sig = base64.b64decode(signature["sig"], validate=True)
        payload_type = envelope["payloadType"]
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        raise StatementError(f"not a DSSE envelope: {error!r}") from None
    if payload_type != _type(kind):
        raise StatementError(f"a statement of type {payload_type!r}, not {_type(kind)!r}")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(sig, _pae(payload_type, body))
    except InvalidSignature:
        raise StatementError("the signature is not by this member's identity key") from None
    try:
        payload = canonical.parse(body)
    except canonical.NotCanonical as error:
        raise StatementError(f"the payload is {error}") from None
    if not isinstance(payload, dict):
        raise StatementError("the payload is not an object")
    return payload


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
