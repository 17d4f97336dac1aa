"""Small documents by digest, in one SQLite file: what a batch brings is durable with one fsync.

As files of their own, the envelopes of 32 replies cost 32 creations and, with their folders, twice as
many fsyncs. Knows nothing of what a document says.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from barnraise.coordinator.journal import connect_read_only, sqlite_errors, sync_left
from barnraise.protocols.canonical import digest

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    digest TEXT PRIMARY KEY, bytes BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""
_INSERT = "INSERT OR IGNORE INTO documents VALUES (?, ?)"


class Documents:
    """Owned by the thread that drives the run. The file is made when the first document is."""

    def __init__(self, path: Path, *, durable: bool, read_only: bool = False) -> None:
        self._path, self._durable, self._read_only = path, durable, read_only
        self._db: sqlite3.Connection | None = None
        self._pending: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        """Take a document in; returns its digest. `sync` makes it last."""
        name = digest(data)
        self._pending[name] = data
        return name

    def sync(self) -> None:
        """All that was put, in one transaction."""
        if not self._pending:
            return
        with sqlite_errors(self._path):
            db = self._opened()
            try:
                db.execute("BEGIN IMMEDIATE")
                db.executemany(_INSERT, self._pending.items())
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        self._pending.clear()

    def read(self, name: str) -> bytes | None:
        """The document with this digest, if it is here."""
        if name in self._pending:
            return self._pending[name]
        if self._db is None and not self._path.exists():
            return None
        with sqlite_errors(self._path):
            row = self._opened().execute("SELECT bytes FROM documents WHERE digest=?", (name,))
            found: tuple[bytes] | None = row.fetchone()
        return found[0] if found else None

    def all(self) -> Iterator[str]:
        """The digests of the durable documents."""
        if self._db is not None or self._path.exists():
            with sqlite_errors(self._path):
                yield from (
                    row[0] for row in self._opened().execute("SELECT digest FROM documents")
                )

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _opened(self) -> sqlite3.Connection:
        if self._db is None and self._read_only:
            self._db = connect_read_only(self._path)
        elif self._db is None:
            self._db = self._made()
        return self._db

    def _made(self) -> sqlite3.Connection:
        if self._durable:
            sync_left(self._path)
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'OFF'}")
            db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        return db
