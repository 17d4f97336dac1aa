"""The journal's mark: how many entries it held when it last took one, and their Merkle root.

    D/journal.mark      `SIZE ROOT CHECK`

A database cannot know that it has lost its end: without its write-ahead log, or with that cut, SQLite
opens at an earlier state and calls it whole. The mark stands in a file of its own, written after each
append and never synced, so it survives a kill; what a power cut takes of it can only make it older, or
unreadable, and then it says nothing. It knows nothing of what the entries say.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

_WIDTH = 128


@dataclass(frozen=True)
class Mark:
    """The journal held `size` entries, with this root."""

    size: int
    root: bytes

    def encode(self) -> bytes:
        """One line of fixed width."""
        text = f"{self.size} {self.root.hex()}"
        return f"{text} {_check(text)}".ljust(_WIDTH - 1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Mark | None:
        """None for anything but what `encode` writes."""
        text, _, check = data.decode("ascii", errors="replace").rstrip().rpartition(" ")
        if check != _check(text):
            return None
        size, _, root = text.partition(" ")
        return cls(int(size), bytes.fromhex(root))

    def contradicts(self, size: int, root: bytes) -> str | None:
        """Why a journal of this size and root is not the one that was written, or None."""
        if size < self.size:
            return f"it holds {size} entries, and {self.size} were written: {self.size - size} are lost"
        if size == self.size and root != self.root:
            return (
                f"its {size} entries are not those that were written: their Merkle root is another"
            )
        return None


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class MarkFile:
    """The mark on disk. Written by whoever appends, read once by whoever opens the journal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def read(self) -> Mark | None:
        """None where there is none that can be read."""
        try:
            return Mark.decode(self._path.read_bytes())
        except OSError:
            return None

    def write(self, mark: Mark) -> None:
        """Never fails: the entries are durable already, and an older mark contradicts nothing."""
        with contextlib.suppress(OSError):
            if self._file is None:
                self._file = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600)
            os.pwrite(self._file, mark.encode(), 0)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
