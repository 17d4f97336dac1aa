"""Signed notes, checkpoints and cosignatures of C2SP (signed-note, tlog-checkpoint, tlog-cosignature).

    verifier key   name+hex(id)+base64(type‖key)      id = SHA-256(name ‖ 0x0A ‖ type ‖ key)[:4]
    checkpoint     origin ⏎ size ⏎ base64(root) ⏎
    note           the checkpoint's text, a blank line, and lines `— name base64(id‖signature)`

Strict beyond what C2SP asks: one spelling of every number and base64 text, no extension lines, no line
twice. Lines by keys that are not asked about are handed back unverified. It knows no log and no clock.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = b"\x01"
"""The type of an Ed25519 key that signs notes."""
COSIGNER = b"\x04"
"""The type of an Ed25519 key that cosigns checkpoints."""

MAX_NOTE = 1 << 18  # bytes; a cosignature's line takes about 170 of them
_DASH = "\u2014"
_MOST = 2**63 - 1


class NoteError(ValueError):
    """A note, checkpoint or cosignature that is not what, or not by whom, it should be."""


# --- verifier keys -------------------------------------------------------------------------------


def verifier_key(name: str, public_key: bytes, kind: bytes = ED25519) -> str:
    """The verifier key of the holder of this raw Ed25519 key."""
    if not _is_key_name(name) or len(public_key) != 32:
        raise ValueError("not the name of a key, or not an Ed25519 key")
    encoded = base64.b64encode(kind + public_key).decode()
    return f"{name}+{_key_id(name, public_key, kind).hex()}+{encoded}"


def parse_verifier_key(text: str, kind: bytes = ED25519) -> tuple[str, bytes]:
    """The name and the raw key in a verifier key; `ValueError` unless it is spelled as we spell it."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise ValueError("not a verifier key: name+id+key")
    data = base64.b64decode(parts[2].encode(), validate=True)
    if data[:1] != kind or verifier_key(parts[0], data[1:], kind) != text:
        raise ValueError("not an Ed25519 verifier key, or its id is not the key's")
    return parts[0], data[1:]


def cosigner_key(name: str, public_key: bytes) -> str:
    """The verifier key of a cosigner (type 0x04)."""
    return verifier_key(name, public_key, COSIGNER)


def parse_cosigner_key(text: str) -> tuple[str, bytes]:
    """The name and the raw key in a cosigner's verifier key, or `ValueError`."""
    return parse_verifier_key(text, COSIGNER)


def _key_id(name: str, public_key: bytes, kind: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind + public_key).digest()[:4]


def _is_key_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() or c < " " for c in name)


# --- checkpoints ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """The head of a log: how many entries, and their Merkle root. `parse(c.text()) == c`."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Three lines, each ended by a newline."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """`NoteError` for anything that `text` would not write."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise NoteError("a checkpoint has not three lines")
        if not _is_key_name(lines[0]):
            raise NoteError("a checkpoint's origin is empty or has spaces")
        size, root = _number(lines[1], "a checkpoint's size"), _unbase64(lines[2])
        if len(root) != 32:
            raise NoteError("a checkpoint's root is not 32 bytes long")
        return cls(lines[0], size, root)


@dataclass(frozen=True)
class Signed:
    """A checkpoint whose log signature was verified, and the other signature lines, which were not."""

    checkpoint: Checkpoint
    lines: tuple[str, ...]


def sign_checkpoint(key: Ed25519PrivateKey, checkpoint: Checkpoint) -> bytes:
    """The signed note. The key's name is the checkpoint's origin."""
    text = checkpoint.text()
    public = key.public_key().public_bytes_raw()
    id_ = _key_id(checkpoint.origin, public, ED25519)
    return f"{text}\n{_line(checkpoint.origin, id_ + key.sign(text.encode()))}\n".encode()


def open_checkpoint(note: bytes, vkey: str) -> Signed:
    """The checkpoint in a note that the log with this verifier key signed; else `NoteError`."""
    name, public = parse_verifier_key(vkey)
    text, lines = _split(note)
    mine = [
        line for line in lines if _parse_line(line)[:2] == (name, _key_id(name, public, ED25519))
    ]
    if not mine:
        raise NoteError(f"not signed by the log {name}")
    if len(mine) > 1:
        raise NoteError(f"signed twice by the log {name}")
    signature = _parse_line(mine[0])[2]
    _verify(public, signature, text.encode(), f"the signature is not by the log {name}")
    checkpoint = Checkpoint.parse(text)
    if checkpoint.origin != name:
        raise NoteError(f"the checkpoint is of {checkpoint.origin}, not of {name}")
    return Signed(checkpoint, tuple(line for line in lines if line != mine[0]))


def size_in(note: bytes) -> int:
    """The size in a checkpoint's note that is known to be one."""
    return int(note.split(b"\n", 2)[1])


def with_lines(note: bytes, lines: Iterable[str]) -> bytes:
    """The note with further signature lines; `NoteError` for one that is there or is none."""
    more = list(lines)
    grown = note + "".join(f"{line}\n" for line in more).encode()
    _split(grown)
    return grown


def _split(note: bytes) -> tuple[str, list[str]]:
    """The text of a note and its signature lines, in form but not verified."""
    if len(note) > MAX_NOTE:
        raise NoteError(f"a note of {len(note)} bytes; the limit is {MAX_NOTE}")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise NoteError("a note is not UTF-8") from None
    if any(c < " " and c != "\n" for c in whole):
        raise NoteError("a note has control characters")
    text, blank, signatures = whole.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise NoteError("not a note: text, a blank line, signature lines")
    lines = signatures.removesuffix("\n").split("\n")
    for line in lines:
        _parse_line(line)
    if len(set(lines)) != len(lines):
        raise NoteError("a note has a signature line twice")
    return text + "\n", lines


def _line(name: str, data: bytes) -> str:
    return f"{_DASH} {name} {base64.b64encode(data).decode()}"


def _parse_line(line: str) -> tuple[str, bytes, bytes]:
    """Name, key id and signature of a signature line."""
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != _DASH or not _is_key_name(parts[1]):
        raise NoteError("not a signature line: a dash, a name, a signature")
    data = _unbase64(parts[2])
    if len(data) <= 4:
        raise NoteError("a signature line without a signature")
    return parts[1], data[:4], data[4:]


# --- cosignatures --------------------------------------------------------------------------------


def line_name(line: str) -> str:
    """Whose a signature line claims to be."""
    return _parse_line(line)[0]


def cosign(key: Ed25519PrivateKey, name: str, checkpoint: Checkpoint, time: int) -> str:
    """The signature line of a cosignature/v1, without a newline. `time` in POSIX seconds."""
    public = key.public_key().public_bytes_raw()
    signature = key.sign(_cosigned(checkpoint, time))
    return _line(name, _key_id(name, public, COSIGNER) + time.to_bytes(8, "big") + signature)


def check_cosignature(line: str, name: str, public_key: bytes, checkpoint: Checkpoint) -> int:
    """The time at which this cosigner signed this checkpoint; else `NoteError`."""
    signer, id_, data = _parse_line(line)
    if (signer, id_) != (name, _key_id(name, public_key, COSIGNER)):
        raise NoteError(f"not a cosignature by {name}")
    if len(data) != 72 or (time := int.from_bytes(data[:8], "big")) > _MOST:
        raise NoteError(f"the cosignature of {name} is malformed")
    problem = f"the cosignature is not by {name}, or of another checkpoint"
    _verify(public_key, data[8:], _cosigned(checkpoint, time), problem)
    return time


def _cosigned(checkpoint: Checkpoint, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{checkpoint.text()}".encode()


def _verify(public_key: bytes, signature: bytes, message: bytes, problem: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        raise NoteError(problem) from None


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0"):
        raise NoteError(f"{what} is not a decimal without leading zeros")
    if len(text) > 19 or int(text) > _MOST:
        raise NoteError(f"{what} is too large")
    return int(text)


def _unbase64(text: str) -> bytes:
    """Base64 has several spellings of the same bytes; only the canonical one is taken."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise NoteError("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise NoteError("base64 in another spelling")
    return data
