"""A directory's blobs, for whoever only reads, also while a run writes them: files, and `envelopes.db`."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from barnraise.coordinator.journal import connect_beside, sqlite_errors
from barnraise.protocols.canonical import digest as digest_of
from barnraise.protocols.canonical import is_digest

_LARGEST = 64 << 20  # bytes of a blob that is read whole


class Shelf:
    """For one thread. Nothing is made, and nothing is waited for."""

    def __init__(self, root: Path) -> None:
        self._root, self._envelopes = root, root / "envelopes.db"
        self._db: sqlite3.Connection | None = None

    def read(self, digest: str) -> bytes | None:
        """A small blob, if it is here: an agreement, a body, an envelope."""
        if not is_digest(digest):
            return None
        path = self.path(digest)
        if path.is_file():
            return path.read_bytes() if path.stat().st_size <= _LARGEST else None
        return self._envelope(digest)

    def envelope(self, digest: str) -> bytes | None:
        """A small blob, if it may be an envelope: those lie together, but for large ones."""
        if is_digest(digest) and self.path(digest).is_file():
            with self.path(digest).open("rb") as file:
                if file.read(1) != b"{":
                    return None
        return self.read(digest)

    def state(self, digest: str) -> str:
        """`whole`, `damaged` or `gone`. Memory: one chunk."""
        if not is_digest(digest):
            return "gone"
        try:
            with self.path(digest).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            data = self._envelope(digest)
            if data is None:
                return "gone"
            found = digest_of(data)[7:]
        except IsADirectoryError:
            return "damaged"
        return "whole" if found == digest[7:] else "damaged"

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def path(self, digest: str) -> Path:
        """Where a blob lies that is a file of its own, if it is here."""
        return self._root / "sha256" / digest[7:9] / digest[9:]

    def _envelope(self, digest: str) -> bytes | None:
        if self._db is None:
            if not self._envelopes.is_file():
                return None
            with sqlite_errors(self._envelopes):
                self._db = connect_beside(self._envelopes)
        with sqlite_errors(self._envelopes):
            row = self._db.execute(
                "SELECT bytes FROM documents WHERE digest=?", (digest,)
            ).fetchone()
        return bytes(row[0]) if row else None
