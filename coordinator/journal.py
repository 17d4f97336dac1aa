"""The journal: an append-only log with its Merkle tree, in SQLite (WAL, `synchronous=FULL`).

An append is durable when it returns. Several entries appended together become durable together, with
one fsync. `failpoint`, called before and after each append, is where tests kill the process.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from barnraise.protocols import merkle
from barnraise.protocols.entries import Entry, EntryError
from barnraise.protocols.errors import BarnraiseError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (idx INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS nodes (
    level INTEGER, idx INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;
"""

Failpoint = Callable[[str, int], None]


def kill_from_environment(moment: str, index: int) -> None:
    """`BARNRAISE_KILL_AT=before:17` (or `after:17`) kills this process at that entry: for tests."""
    if os.environ.get("BARNRAISE_KILL_AT") == f"{moment}:{index}":
        os.kill(os.getpid(), signal.SIGKILL)


class Journal:
    """Owned by the thread that drives the run; a second process is kept out by the directory's lock."""

    def __init__(
        self, path: Path, *, durable: bool = True, failpoint: Failpoint = kill_from_environment
    ) -> None:
        self._failpoint = failpoint
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
            self._db.executescript(_SCHEMA)
            self._frontier = self._load_frontier()
        except sqlite3.DatabaseError as error:
            raise _sqlite_error(error, path) from error

    def _load_frontier(self) -> merkle.Frontier:
        size = self._db.execute(
            "SELECT count(*), coalesce(max(idx) + 1, 0) FROM entries"
        ).fetchone()
        if size[0] != size[1]:
            raise self._damaged(f"it holds {size[0]} entries, the last numbered {size[1] - 1}")
        hashes = []
        for level, index in merkle.frontier_positions(size[1]):
            row = self._db.execute(
                "SELECT hash FROM nodes WHERE level=? AND idx=?", (level, index)
            ).fetchone()
            if row is None:
                raise self._damaged(f"node {index} at level {level} of its Merkle tree is missing")
            hashes.append(row[0])
        return merkle.Frontier(size[1], hashes)

    def append(self, encoded: Sequence[bytes]) -> int:
        """Append entries as `Entry.encode` gives them, all or none; durable on return.

        Returns the index of the first.
        """
        first = self._frontier.size
        for offset in range(len(encoded)):
            self._failpoint("before", first + offset)
        frontier = merkle.Frontier(first, self._frontier.hashes)
        nodes = [n for data in encoded for n in frontier.append(merkle.leaf_hash(data))]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT INTO entries VALUES (?, ?)", [(first + i, d) for i, d in enumerate(encoded)]
            )
            self._db.executemany("INSERT INTO nodes VALUES (?, ?, ?)", nodes)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise _sqlite_error(error, self.path) from error
        self._frontier = frontier
        for offset in range(len(encoded)):
            self._failpoint("after", first + offset)
        return first

    def __len__(self) -> int:
        return self._frontier.size

    def root(self) -> bytes:
        """The Merkle root over all entries (RFC 6962)."""
        return self._frontier.root()

    def raw(self, start: int = 0) -> Iterator[bytes]:
        """The entries' bytes from index `start` on."""
        for (data,) in self._db.execute(
            "SELECT entry FROM entries WHERE idx >= ? ORDER BY idx", (start,)
        ):
            yield data

    def entries(self, start: int = 0) -> Iterator[tuple[int, Entry]]:
        """(index, entry) from index `start` on; D106 where an entry is damaged."""
        for index, data in enumerate(self.raw(start), start):
            yield index, self._decode(index, data)

    def backwards(self, before: int | None = None) -> Iterator[tuple[int, Entry]]:
        """(index, entry) from the last (or the one before index `before`) to the first."""
        rows = self._db.execute(
            "SELECT idx, entry FROM entries WHERE idx < ? ORDER BY idx DESC",
            (len(self) if before is None else before,),
        )
        for index, data in rows:
            yield index, self._decode(index, data)

    def _decode(self, index: int, data: bytes) -> Entry:
        try:
            return Entry.decode(data)
        except EntryError as error:
            raise self._damaged(f"entry {index}: {error}") from None

    def check(self) -> None:
        """Recompute every hash from the entries; D106 at the first that differs."""
        frontier = merkle.Frontier()
        for data in self.raw():
            frontier.append(merkle.leaf_hash(data))
        if frontier.root() != self.root():
            raise self._damaged("its entries do not give the Merkle root that it stores")

    def close(self) -> None:
        self._db.close()

    def _damaged(self, evidence: str) -> BarnraiseError:
        return BarnraiseError(
            "D106",
            f"the journal {self.path} is damaged",
            evidence,
            next="restore the directory from a backup, or start again in a new one",
        )


def _sqlite_error(error: sqlite3.Error, path: Path) -> BarnraiseError:
    text = str(error)
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL or "full" in text:
        return disk_full(path)
    if isinstance(error, sqlite3.OperationalError):
        return BarnraiseError(
            "D105", f"{path} cannot be written", text, next=f"make {path.parent} writable"
        )
    return BarnraiseError(
        "D106",
        f"{path} is not a journal",
        text,
        next="restore the directory from a backup, or start again in a new one",
    )


def disk_full(path: Path) -> BarnraiseError:
    return BarnraiseError(
        "D104",
        "the disk is full",
        f"while writing {path}",
        changed="everything acknowledged so far is kept",
        next="make room, then run the same command again: it continues",
    )
