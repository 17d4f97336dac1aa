"""The journal: an append-only log with its Merkle tree, in SQLite (WAL, `synchronous=FULL`).

An append is durable when it returns. Several entries appended together become durable together, with
one fsync. An entry may be found again by a key, such as the order that it judges; keys are an index, not
part of the log. Whatever is read is held against its leaf in the tree. Opening reads the right edge of
the tree alone, so it takes no longer for a long journal. `failpoint`, called before and after each
append, is where tests kill the process. Others read the journal by a `log.Log` of their own.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from barnraise.coordinator.mark import Mark, MarkFile
from barnraise.protocols import merkle
from barnraise.protocols.entries import Entry, EntryError
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import damaged, disk_full, fsync, is_full_database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    idx INTEGER PRIMARY KEY, entry BLOB NOT NULL, key TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS keys ON entries (key) WHERE key IS NOT NULL;
CREATE TABLE IF NOT EXISTS nodes (
    level INTEGER, idx INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;
"""

_READ = """
SELECT entries.idx, entry, hash FROM entries
LEFT JOIN nodes ON nodes.level = 0 AND nodes.idx = entries.idx
"""

_PAGE = 64  # entries that are read at once

Failpoint = Callable[[str, int], None]
KILL_AT = "BARNRAISE_KILL_AT"
_Row = tuple[int, bytes, bytes | None]  # index, entry, leaf


def kill_from_environment(moment: str, index: int) -> None:
    """`BARNRAISE_KILL_AT=before:17` (or `after:17`) kills this process at that entry: for tests."""
    if os.environ.get(KILL_AT) == f"{moment}:{index}":
        os.kill(os.getpid(), signal.SIGKILL)


class Journal:
    """May be used from any thread: `_lock` guards the connection and the tree's right edge.

    A second process is kept out by the directory's lock; one that wrote all the same is noticed at the
    next append (D108), before anything is appended.
    """

    def __init__(
        self,
        path: Path,
        *,
        durable: bool = True,
        failpoint: Failpoint = kill_from_environment,
        read_only: bool = False,
    ) -> None:
        self._failpoint = failpoint
        self._lock = threading.RLock()
        self.path = path
        if path.exists() and not path.is_file():
            raise damaged(f"the journal {path} is damaged", "it is no file")
        self._mark = MarkFile(path.with_suffix(".mark"))
        marked = self._mark.read()
        with sqlite_errors(path):
            self._db = connect_read_only(path) if read_only else _connect(path, durable)
            self._frontier = self._load_frontier()
        if marked and (why := marked.contradicts(len(self), self.root())):
            self.close()
            raise _not_what_was_written(path, why)

    def _load_frontier(self) -> merkle.Frontier:
        size = _size(self._db)
        leaves = self._db.execute("SELECT max(idx) FROM nodes WHERE level=0").fetchone()[0]
        if (-1 if leaves is None else leaves) + 1 != size:
            raise self._damaged(f"it holds {size} entries, and its Merkle tree another number")
        hashes = []
        for level, index in merkle.frontier_positions(size):
            row = self._db.execute(
                "SELECT hash FROM nodes WHERE level=? AND idx=?", (level, index)
            ).fetchone()
            if row is None:
                raise self._damaged(f"node {index} at level {level} of its Merkle tree is missing")
            hashes.append(row[0])
        return merkle.Frontier(size, hashes)

    def append(self, encoded: Sequence[bytes], keys: Sequence[str | None] = ()) -> int:
        """Append entries as `Entry.encode` gives them, all or none; durable on return.

        `keys` are those by which `find` gives them back. Returns the index of the first.
        """
        with self._lock:
            first = self._frontier.size
            for offset in range(len(encoded)):
                self._failpoint("before", first + offset)
            frontier = merkle.Frontier(first, self._frontier.hashes)
            nodes = [n for data in encoded for n in frontier.append(merkle.leaf_hash(data))]
            rows = [(first + i, data, keys[i] if keys else None) for i, data in enumerate(encoded)]
            with sqlite_errors(self.path):
                self._insert(rows, nodes)
            self._frontier = frontier
            self._mark.write(Mark(frontier.size, frontier.root()))
            for offset in range(len(encoded)):
                self._failpoint("after", first + offset)
            return first

    def _insert(
        self, rows: Sequence[tuple[int, bytes, str | None]], nodes: Sequence[tuple[int, int, bytes]]
    ) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if (found := _size(self._db)) != self._frontier.size:
                raise _written_by_another(self.path, self._frontier.size, found)
            self._db.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
            self._db.executemany("INSERT INTO nodes VALUES (?, ?, ?)", nodes)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def __len__(self) -> int:
        return self._frontier.size

    def root(self) -> bytes:
        """The Merkle root over all entries (RFC 6962)."""
        return self._frontier.root()

    def raw(self, start: int = 0) -> Iterator[bytes]:
        """The entries' bytes from index `start` on; D106 where they are not what was appended."""
        for _, data in self._forwards(start):
            yield data

    def entries(self, start: int = 0) -> Iterator[tuple[int, Entry]]:
        """(index, entry) from index `start` on; D106 where one is damaged."""
        for index, data in self._forwards(start):
            yield index, self._decode(index, data)

    def backwards(self, before: int | None = None) -> Iterator[tuple[int, Entry]]:
        """(index, entry) from the last (or the one before index `before`) to the first."""
        before = len(self) if before is None else before
        where = f"WHERE entries.idx < ? ORDER BY entries.idx DESC LIMIT {_PAGE}"
        while page := self._read(where, before):
            for row in page:
                before, data = self._checked(row, before - 1)
                yield before, self._decode(before, data)

    def _forwards(self, start: int) -> Iterator[tuple[int, bytes]]:
        where = f"WHERE entries.idx >= ? ORDER BY entries.idx LIMIT {_PAGE}"
        while page := self._read(where, start):
            for row in page:
                index, data = self._checked(row, start)
                start = index + 1
                yield index, data

    def find(self, key: str) -> tuple[bytes, Entry] | None:
        """The entry that was appended under this key, and its bytes."""
        return self._found(self._read("WHERE key = ?", key))

    def index_of(self, key: str) -> int | None:
        """The index of the entry that was appended under this key."""
        with self._lock, sqlite_errors(self.path):
            row = self._db.execute("SELECT idx FROM entries WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def look_up(self, key: str) -> tuple[bytes, Entry] | None:
        """As `find`, but without waiting for an append: by a connection of its own."""
        with sqlite_errors(self.path):
            db = connect_beside(self.path)
        with closing(db):
            return self._found(self._read("WHERE key = ?", key, db))

    def _found(self, rows: Sequence[_Row]) -> tuple[bytes, Entry] | None:
        for row in rows:
            index, data = self._checked(row, row[0])
            return data, self._decode(index, data)
        return None

    def _read(
        self, where: str, argument: int | str, db: sqlite3.Connection | None = None
    ) -> list[_Row]:
        """Rows as they lie there. Nothing of an append that goes on is seen."""
        with self._lock if db is None else nullcontext(), sqlite_errors(self.path):
            return (db or self._db).execute(_READ + where, (argument,)).fetchall()

    def _checked(self, row: _Row, expected: int) -> tuple[int, bytes]:
        """Index and bytes of a row; D106 unless it is the entry of this index, as it was appended."""
        index, data, leaf = row
        if index != expected:
            raise self._damaged(f"entry {expected} is missing")
        if merkle.leaf_hash(data) != leaf:
            raise self._damaged(f"entry {index} is not what was appended")
        return index, data

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
        self._mark.close()

    def _damaged(self, evidence: str) -> BarnraiseError:
        return damaged(f"the journal {self.path} is damaged", evidence)


def _size(db: sqlite3.Connection) -> int:
    """How many entries there are: the last one's index and one. Looks at the end of the table alone."""
    (last,) = db.execute("SELECT max(idx) FROM entries").fetchone()
    return 0 if last is None else int(last) + 1


def _written_by_another(path: Path, known: int, found: int) -> BarnraiseError:
    return BarnraiseError(
        "D108",
        f"another process has written to the journal {path}",
        f"this process knows {known} entries, and there are {found}",
        changed="nothing was appended; what is on record stays as it is",
        next="end the other process, then run the same command again",
    )


def _not_what_was_written(path: Path, why: str) -> BarnraiseError:
    log = path.with_name(f"{path.name}-wal")
    return BarnraiseError(
        "D106",
        f"the journal {path} has lost what was written into it",
        f"{why}\n{path.with_suffix('.mark')} says so; members may hold receipts for it",
        changed="nothing was appended",
        next=f"put {log} back if it was removed, or restore the directory from a backup, "
        "or start again in a new one",
    )


def sync_left(path: Path) -> None:
    """Make durable what a database's last process left behind: killed in a commit, it may have written that
    and not synced it, and SQLite reads it as committed all the same."""
    for file in (path, path.with_name(f"{path.name}-wal")):
        if file.exists():
            fsync(file)


def _connect(path: Path, durable: bool) -> sqlite3.Connection:
    if durable:
        sync_left(path)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and tables.isdisjoint({"entries", "nodes"}):  # a full disk may have left one of two
        raise BarnraiseError(
            "D101",
            f"{path} is not a journal of Barnraise",
            f"it is a database that holds {', '.join(sorted(tables))}",
            next="give a directory that is empty, or does not exist",
        )
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
    db.executescript(_SCHEMA)
    return db


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A database where nothing can be written, not even its locks. D105 if it was not closed."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise BarnraiseError(
            "D105",
            f"{path} cannot be read where nothing can be written",
            f"it was not closed: {log} holds what belongs into it",
            next=f"copy {path.parent} to where you may write, and use the copy",
        )
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)


def connect_beside(path: Path) -> sqlite3.Connection:
    """A database that another process may be writing, to read what is durable. For one thread at a time."""
    if not os.access(path.parent, os.W_OK):  # not even SQLite's own shared memory can be made
        return connect_read_only(path)
    address = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turns what SQLite says into D104, D105 or D106."""
    try:
        yield
    except sqlite3.Error as error:
        raise _sqlite_error(error, path) from error


def _sqlite_error(error: sqlite3.Error, path: Path) -> BarnraiseError:
    if is_full_database(error, path):
        return disk_full(path)
    text = str(error)
    if isinstance(error, sqlite3.OperationalError):
        return BarnraiseError(
            "D105", f"{path} cannot be used", text, next=f"make {path.parent} writable"
        )
    return damaged(f"{path} is damaged", text)
