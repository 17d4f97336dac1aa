"""Signed notes of C2SP (https://c2sp.org/signed-note): so far, the verifier key of a log.

A verifier key is one line, `name+hex(id)+base64(type‖key)`, with id = SHA-256(name ‖ 0x0A ‖ type ‖ key)[:4].
"""

from __future__ import annotations

import base64
import hashlib

ED25519 = b"\x01"
"""The type of an Ed25519 key that signs notes."""


def verifier_key(name: str, public_key: bytes) -> str:
    """The verifier key of the holder of this raw Ed25519 key."""
    if not _is_key_name(name) or len(public_key) != 32:
        raise ValueError("not the name of a key, or not an Ed25519 key")
    encoded = base64.b64encode(ED25519 + public_key).decode()
    return f"{name}+{_key_id(name, public_key).hex()}+{encoded}"


def parse_verifier_key(text: str) -> tuple[str, bytes]:
    """The name and the raw key in a verifier key; `ValueError` unless it is spelled as we spell it."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise ValueError("not a verifier key: name+id+key")
    data = base64.b64decode(parts[2].encode(), validate=True)
    if data[:1] != ED25519 or verifier_key(parts[0], data[1:]) != text:
        raise ValueError("not an Ed25519 verifier key, or its id is not the key's")
    return parts[0], data[1:]


def _key_id(name: str, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]


def _is_key_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() for c in name)
