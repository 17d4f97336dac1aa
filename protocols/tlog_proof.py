"""`tlog-proof@v1` of C2SP: that an entry is in a log, checkable offline with the log's verifier key alone.

    c2sp.org/tlog-proof@v1
    extra <base64>                 (optional; nothing authenticates it)
    index <decimal>
    <base64 of each hash of the inclusion path, from the leaf's sibling up>

    <the checkpoint's signed note>

Only one spelling of each proof is taken: `decode(p.encode()) == p`, and `encode` gives back what was decoded.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from barnraise.protocols import merkle, notes
from barnraise.protocols.merkle import ProofError
from barnraise.protocols.notes import Checkpoint, NoteError

HEADER = "c2sp.org/tlog-proof@v1"
MAX_PROOF = notes.MAX_NOTE + (1 << 17)  # bytes
_MAX_PATH = 63


@dataclass(frozen=True)
class TlogProof:
    """The entry's zero-based index, its inclusion path (32-byte hashes), and the checkpoint's note."""

    index: int
    path: tuple[bytes, ...]
    note: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(value).decode() for value in self.path]
        return "\n".join([*lines, "", ""]).encode() + self.note

    @classmethod
    def decode(cls, data: bytes) -> TlogProof:
        """`ProofError` for anything that `encode` would not write. Nothing is verified yet."""
        if len(data) > MAX_PROOF:
            raise ProofError(f"a proof of {len(data)} bytes; the limit is {MAX_PROOF}")
        head, blank, note = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise ProofError("the head of a proof is not ASCII") from None
        if not blank or lines.pop(0) != HEADER:
            raise ProofError(f"not a proof: it does not begin with {HEADER}")
        try:
            proof = cls._of(lines, note)
        except (ValueError, IndexError):
            raise ProofError("not a proof: its index or its path is malformed") from None
        if proof.encode() != data:
            raise ProofError("a proof in another spelling")
        return proof

    @classmethod
    def _of(cls, lines: list[str], note: bytes) -> TlogProof:
        extra = None
        if lines[0].startswith("extra "):
            extra = base64.b64decode(lines.pop(0).removeprefix("extra "), validate=True)
        word, _, digits = lines.pop(0).partition(" ")
        path = tuple(base64.b64decode(line, validate=True) for line in lines)
        if word != "index" or len(digits) > 19 or len(path) > _MAX_PATH:
            raise ValueError
        if any(len(value) != 32 for value in path):
            raise ValueError
        return cls(int(digits), path, note, extra)

    def check(self, entry: bytes, log_vkey: str) -> Checkpoint:
        """The checkpoint, if the log with this key signed it and it holds `entry` at `index`.

        Raises `NoteError` where the checkpoint, `ProofError` where the path is not what it should be.
        Cosignatures are not looked at.
        """
        checkpoint = notes.open_checkpoint(self.note, log_vkey).checkpoint
        leaf = merkle.leaf_hash(entry)
        merkle.check_inclusion(leaf, self.index, checkpoint.size, self.path, checkpoint.root)
        return checkpoint


__all__ = ["HEADER", "MAX_PROOF", "NoteError", "ProofError", "TlogProof"]
