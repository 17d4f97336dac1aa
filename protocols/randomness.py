"""Where every random number comes from: one secret per side, and HMAC-SHA-256 from it.

The run seed is secret, for a known seed would let anyone subtract the noise of differential privacy;
only `commitment` is logged.
"""

from __future__ import annotations

import hashlib
import hmac


def derive(secret: bytes, *labels: str) -> bytes:
    """32 bytes for these labels; labels are length-prefixed, so no two lists of them collide."""
    message = b"".join(len(b := label.encode()).to_bytes(4, "big") + b for label in labels)
    return hmac.new(secret, message, hashlib.sha256).digest()


def commitment(secret: bytes) -> str:
    """What the log holds of a secret: enough to check it later, nothing to guess it from."""
    return "sha256:" + hashlib.sha256(b"barnraise seed commitment\n" + secret).hexdigest()


def simulation_secret(seed: int) -> bytes:
    """The secret of a simulation, which anyone may know: derived from its seed."""
    return hashlib.sha256(f"barnraise simulation {seed}".encode()).digest()
