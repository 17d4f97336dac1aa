"""What witnesses have signed of a log: checkpoints and the lines that members returned, in SQLite.

No fact of a run rests on them, so they are written without waiting for the disk; what a crash loses, the
members sign again. Once a checkpoint has its quorum, older ones are of no use and go. It verifies nothing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from barnraise.coordinator.journal import connect_beside, sqlite_errors

_SCHEMA = """
CREATE TABLE IF NOT EXISTS checkpoints (size INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS lines (
    size INTEGER, member TEXT, line TEXT NOT NULL, PRIMARY KEY (size, member)
) STRICT, WITHOUT ROWID;
"""


class Cosignatures:
    """May be used from any thread; `_lock` guards the connection. The file is made when it is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def has(self, size: int) -> bool:
        """Whether the checkpoint of this size is kept."""
        return bool(self._rows("SELECT 1 FROM checkpoints WHERE size=?", size))

    def keep_note(self, size: int, note: bytes) -> None:
        with self._lock, sqlite_errors(self._path):
            self._opened().execute("INSERT OR IGNORE INTO checkpoints VALUES (?, ?)", (size, note))

    def keep_line(self, size: int, member: str, line: str, quorum: int) -> None:
        """Keep a member's line; with the quorum's last one, drop what is older."""
        with self._lock, sqlite_errors(self._path):
            db = self._opened()
            db.execute("INSERT OR IGNORE INTO lines VALUES (?, ?, ?)", (size, member, line))
            (count,) = db.execute("SELECT count(*) FROM lines WHERE size=?", (size,)).fetchone()
            if quorum and count >= quorum:
                db.execute("DELETE FROM lines WHERE size < ?", (size,))
                db.execute("DELETE FROM checkpoints WHERE size < ?", (size,))

    def newest_first(self) -> Iterator[tuple[bytes, dict[str, str]]]:
        """Each kept checkpoint's note and the lines under it by member."""
        for size, note in self._rows("SELECT size, note FROM checkpoints ORDER BY size DESC"):
            yield note, dict(self._rows("SELECT member, line FROM lines WHERE size=?", size))

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _rows(self, query: str, *arguments: int) -> list[tuple[Any, ...]]:
        """Nothing where nothing was ever kept; a reader makes no file."""
        with self._lock, sqlite_errors(self._path):
            if self._db is None and not self._path.is_file():
                return []
            if self._db is not None:
                return self._db.execute(query, arguments).fetchall()
            with closing(connect_beside(self._path)) as db:
                return db.execute(query, arguments).fetchall()

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        return self._db
