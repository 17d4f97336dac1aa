"""The log as others read it: signed checkpoints, entries and proofs of a journal that may be growing.

A `Log` has a connection of its own. In WAL mode it sees what is durable and nothing else, and never
makes the writer wait. What it reads is held against the tree. It appends nothing; the cosignatures of
witnesses, which are no entries, lie beside the journal (`cosignatures`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.coordinator.cosignatures import Cosignatures
from barnraise.coordinator.journal import connect_beside, sqlite_errors
from barnraise.protocols import canonical, merkle, notes
from barnraise.protocols.entries import Entry, EntryError
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import damaged
from barnraise.protocols.invite import log_name
from barnraise.protocols.notes import Checkpoint, NoteError
from barnraise.protocols.tlog_proof import TlogProof

COSIGNATURES = "cosignatures.db"
_PAGE = 256  # entries that are read at once


class Log:
    """May be used from any thread; `_lock` guards the connection, `_signing` the last checkpoint.

    `key` signs checkpoints; without it only what was signed before can be had. `federation` names the
    log; by default it is read from the log's first entry. Raises D105, D106, L101.
    """

    def __init__(
        self, path: Path, key: Ed25519PrivateKey | None = None, federation: str | None = None
    ) -> None:
        self.path = path
        self._key = key
        self._lock = threading.Lock()
        self._signing = threading.Lock()
        self._signed: tuple[int, bytes] | None = None
        self._witnesses: dict[str, bytes] = {}
        self._quorum = 0
        self._cosignatures = Cosignatures(path.with_name(COSIGNATURES))
        self._db = _connected(path)
        name = federation if federation is not None else self._founded()["federation"]
        self.origin = log_name(str(name))

    def close(self) -> None:
        with self._lock:
            self._db.close()
        self._cosignatures.close()

    # --- entries -----------------------------------------------------------------------------------

    def size(self) -> int:
        """How many entries are durable."""
        (last,) = self._row("SELECT max(idx) FROM entries") or (None,)
        return 0 if last is None else int(last) + 1

    def entry(self, index: int) -> bytes:
        """The bytes of an entry. `IndexError` if there is none, D106 if they are others than appended."""
        for found, data in self._page(index, index + 1):
            if found == index:
                return data
        raise IndexError(f"the log has no entry {index}")

    def entries(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """(index, bytes) of the entries in [start, end), by default of all that are durable now."""
        end = self.size() if end is None else end
        while start < end:
            page = self._page(start, min(start + _PAGE, end))
            for index, data in page:
                if index != start:
                    raise self._damaged(f"entry {start} is missing")
                yield index, data
                start += 1
            if not page:
                raise self._damaged(f"entry {start} is missing")

    def find(self, key: str) -> int | None:
        """The index of the verdict on an order, by its id; of `run.opened RUN` and `run.closed RUN`."""
        row = self._row("SELECT idx FROM entries WHERE key = ?", key)
        return int(row[0]) if row else None

    def find_digest(self, digest: str) -> int | None:
        """The index of the entry whose bytes have this digest. Reads the log from its end."""
        size = self.size()
        for end in range(size, 0, -_PAGE):
            for index, data in reversed(self._page(max(0, end - _PAGE), end)):
                if canonical.digest(data) == digest:
                    return index
        return None

    # --- proofs ------------------------------------------------------------------------------------

    def node(self, level: int, index: int) -> bytes:
        """A complete subtree's hash (`merkle.Node`). D106 if it is missing."""
        row = self._row("SELECT hash FROM nodes WHERE level=? AND idx=?", level, index)
        if row is None or len(row[0]) != 32:
            raise self._damaged(f"node {index} at level {level} of its Merkle tree is missing")
        return bytes(row[0])

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` entries, by default over all."""
        return merkle.root_of(self.node, self.size() if size is None else size)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The path of an entry in the tree of this size; `ValueError` if it is not in it."""
        return merkle.inclusion_path(self.node, index, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The path between two trees; `ValueError` unless `new` is the later one, and durable."""
        if new > self.size():
            raise ValueError(f"the log has fewer than {new} entries")
        return merkle.consistency_path(self.node, old, new)

    def checkpoint(self) -> bytes:
        """The signed note of the durable size; the same size again gives the same bytes. L105 without key."""
        with self._signing:
            size = self.size()
            if self._signed is None or self._signed[0] != size:
                self._signed = size, self._note(size)
            return self._signed[1]

    def _note(self, size: int) -> bytes:
        if self._key is None:
            raise BarnraiseError(
                "L105",
                f"the log {self.origin} cannot be signed here",
                "its key is not in this directory, and no kept checkpoint reaches that far",
                next="ask who holds the federation's directory",
            )
        return notes.sign_checkpoint(self._key, Checkpoint(self.origin, size, self.root(size)))

    def prove(self, index: int) -> TlogProof:
        """That an entry is in the log: under the newest witnessed checkpoint if that holds it, else
        under a new one. `IndexError`, L105."""
        if not 0 <= index < self.size():
            raise IndexError(f"the log has no entry {index}")
        note = self.witnessed()
        size = notes.size_in(note) if note is not None else 0
        if note is None or index >= size:
            note = self.checkpoint()
            size = notes.size_in(note)
        return TlogProof(index, tuple(self.inclusion(index, size)), note)

    # --- witnesses ---------------------------------------------------------------------------------

    def expect(self, witnesses: Mapping[str, bytes], quorum: int) -> None:
        """Whose cosignatures count (raw Ed25519 keys by member), and how many of them are enough."""
        with self._signing:
            self._witnesses, self._quorum = dict(witnesses), quorum

    def keep_cosignature(self, size: int, root: bytes, member: str, line: str) -> None:
        """Keep a witness's line under the checkpoint of this size; a second one of the same is ignored.

        `NoteError` if it is no witness, if the root is not this log's, or if it did not sign that.
        """
        with self._signing:
            witnesses, quorum = self._witnesses, self._quorum
        if (key := witnesses.get(member)) is None:
            raise NoteError(f"{member} is no witness of this log")
        if not 0 < size <= self.size() or self.root(size) != root:
            raise NoteError(f"the log has another root over {size} entries")
        notes.check_cosignature(line, member, key, Checkpoint(self.origin, size, root))
        if not self._cosignatures.has(size):
            self._cosignatures.keep_note(size, self._note(size))
        self._cosignatures.keep_line(size, member, line, quorum)

    def witnessed(self) -> bytes | None:
        """The note of the newest checkpoint that a quorum has cosigned, with their lines."""
        with self._signing:
            witnesses, quorum = self._witnesses, self._quorum
        if quorum < 1:
            return None
        for note, lines in self._cosignatures.newest_first():
            counted = [line for member, line in sorted(lines.items()) if member in witnesses]
            if len(counted) >= quorum:
                return notes.with_lines(note, counted)
        return None

    def kept(self) -> bytes | None:
        """The newest checkpoint that anybody has cosigned, with all lines, a quorum or not."""
        for note, lines in self._cosignatures.newest_first():
            return notes.with_lines(note, [line for _, line in sorted(lines.items())])
        return None

    # --- reading -----------------------------------------------------------------------------------

    def _page(self, start: int, end: int) -> list[tuple[int, bytes]]:
        with self._lock, sqlite_errors(self.path):
            rows = self._db.execute(
                "SELECT entries.idx, entry, hash FROM entries"
                " LEFT JOIN nodes ON nodes.level = 0 AND nodes.idx = entries.idx"
                " WHERE entries.idx >= ? AND entries.idx < ? ORDER BY entries.idx",
                (start, end),
            ).fetchall()
        for index, data, leaf in rows:
            if merkle.leaf_hash(data) != leaf:
                raise self._damaged(f"entry {index} is not what was appended")
        return [(index, data) for index, data, _ in rows]

    def _row(self, query: str, *arguments: int | str) -> tuple[Any, ...] | None:
        with self._lock, sqlite_errors(self.path):
            row: tuple[Any, ...] | None = self._db.execute(query, arguments).fetchone()
        return row

    def _founded(self) -> Mapping[str, Any]:
        if self.size() == 0:
            raise no_log(self.path.parent, "its journal is empty")
        try:
            entry = Entry.decode(self.entry(0))
        except EntryError as error:
            raise self._damaged(f"entry 0: {error}") from None
        if entry.type != "federation.founded":
            raise no_log(self.path.parent, "its first entry does not found a federation")
        return entry.body

    def _damaged(self, evidence: str) -> BarnraiseError:
        return damaged(f"the journal {self.path} is damaged", evidence)


def _connected(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise no_log(
            path.parent, f"it has no {path.name}" if path.parent.is_dir() else "it is none"
        )
    with sqlite_errors(path):
        return connect_beside(path)


def no_log(directory: Path, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "L101",
        f"{directory} holds no log",
        evidence,
        next="give the directory of a federation, or the --dir of a run",
    )
