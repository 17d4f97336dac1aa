"""Who is who: members' names and keys, and the ids that follow from them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.protocols.canonical import digest_of
from barnraise.protocols.randomness import derive

SIMULATED = "sim"
"""The federation of every simulation; no other may be called so."""
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, order=True)
class Member:
    """A member: its short name, which people see, and its raw Ed25519 public key (32 bytes).

    Members sort into canonical order: by ascending name.
    """

    name: str
    public_key: bytes

    @property
    def node_id(self) -> int:
        """Flower's node id: the first 8 bytes of SHA-256 of the public key, unsigned."""
        return int.from_bytes(hashlib.sha256(self.public_key).digest()[:8], "big")


def is_name(name: str) -> bool:
    """Lower-case letters, digits and inner hyphens; 63 characters at most."""
    return _NAME.fullmatch(name) is not None


def simulated_key(secret: bytes, name: str) -> Ed25519PrivateKey:
    """The identity key of a simulated member; follows from (seed, name)."""
    return Ed25519PrivateKey.from_private_bytes(derive(secret, "identity", name))


def site_names(count: int) -> list[str]:
    """`site-00`, `site-01`, …: zero-padded, so that canonical order is numeric order."""
    width = max(2, len(str(count - 1)))
    return [f"site-{i:0{width}d}" for i in range(count)]


@lru_cache(maxsize=4096, typed=True)
def order_id(
    run: str, batch: int, member: str, type_: str, group: str, content: str, n: int
) -> str:
    """Flower's message_id, the idempotency key and the spool key. `n` counts identical orders."""
    return digest_of(
        {
            "run": run,
            "batch": batch,
            "member": member,
            "type": type_,
            "group": group,
            "content": content,
            "n": n,
        }
    )
