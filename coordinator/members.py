"""What a simulated member keeps on disk: `Context.state`, its carry file, and replies not yet receipted.

One SQLite transaction commits the replies and what goes with them, so a killed simulation redoes an
order from the last commit or not at all. Arrays lie as blobs in a folder of the member's own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flwr.app import RecordDict

from barnraise.coordinator.fleet import Delivery
from barnraise.coordinator.journal import sqlite_errors
from barnraise.protocols import flower
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import Envelope

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (member TEXT PRIMARY KEY, state BLOB, carry BLOB) STRICT;
CREATE TABLE IF NOT EXISTS spool (
    id TEXT PRIMARY KEY, member TEXT, content TEXT, size INTEGER, statement TEXT
) STRICT;
"""
_EMPTY = Envelope()


@dataclass(frozen=True)
class Work:
    """One order's outcome, to be committed. None where the member stays as it was."""

    delivery: Delivery
    state: RecordDict | None
    carry: RecordDict | None


class MemberStore:
    """Owned by `LocalFleet`. Every member's blobs are apart; nothing of it ever leaves the directory."""

    def __init__(self, root: Path, *, durable: bool) -> None:
        self._root, self._durable = root, durable
        root.mkdir(parents=True, exist_ok=True)
        self._path = root / "members.db"
        with sqlite_errors(self._path):
            self._db = sqlite3.connect(self._path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
            self._db.executescript(_SCHEMA)
            self._spooled = {row[0] for row in self._db.execute("SELECT id FROM spool")}
        self._stores: dict[str, BlobStore] = {}
        self._kept: dict[str, tuple[Envelope, Envelope]] = {}
        self._staged: list[tuple[Delivery, str]] = []
        self._changed: dict[str, tuple[Envelope, Envelope]] = {}
        self._receipted: list[str] = []

    def recall(self, member: str) -> tuple[RecordDict, RecordDict]:
        """Fresh copies of the member's state and carry, with what is staged."""
        state, carry = self._envelopes(member)
        source = self._blobs(member)
        return flower.decode(state, source), flower.decode(carry, source)

    def replied(self, order: str) -> Delivery | None:
        """The reply that this order already has, if it was committed and not yet receipted."""
        if order not in self._spooled:
            return None
        with sqlite_errors(self._path):
            row = self._db.execute("SELECT * FROM spool WHERE id=?", (order,)).fetchone()
        return Delivery(row[0], row[1], row[2], row[3], json.loads(row[4]), 0.0)

    def stage(self, work: Work) -> None:
        """Take an outcome in; `commit` makes it last."""
        member = work.delivery.member
        state, carry = self._envelopes(member)
        if work.state is not None:
            state = self._encode(member, work.state)
        if work.carry is not None:
            carry = self._encode(member, work.carry)
        if (state, carry) != self._envelopes(member):
            self._changed[member] = (state, carry)
        self._staged.append((work.delivery, json.dumps(work.delivery.statement)))

    def commit(self) -> None:
        """All that is staged, in one transaction, after its blobs are durable."""
        if not self._staged:
            return
        for member in self._changed:
            self._blobs(member).sync()
        with sqlite_errors(self._path):
            self._write()
        self._spooled |= {d.order for d, _ in self._staged}
        self._drop_replaced()
        self._staged.clear()

    def _write(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)",
            [(m, s.encode(), c.encode()) for m, (s, c) in self._changed.items()],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO spool VALUES (?, ?, ?, ?, ?)",
            [(d.order, d.member, d.content, d.size, text) for d, text in self._staged],
        )
        self._unspool()
        self._db.execute("COMMIT")

    def forget(self, orders: Sequence[str]) -> None:
        """Receipts came: the next commit drops these replies. Lost if the process dies; harmless."""
        self._receipted += orders

    def close(self) -> None:
        self._db.close()

    def _unspool(self) -> None:
        self._db.executemany("DELETE FROM spool WHERE id=?", [(o,) for o in self._receipted])
        self._spooled.difference_update(self._receipted)
        self._receipted.clear()

    def _envelopes(self, member: str) -> tuple[Envelope, Envelope]:
        if member in self._changed:
            return self._changed[member]
        if member not in self._kept:
            with sqlite_errors(self._path):
                row = self._db.execute(
                    "SELECT state, carry FROM kept WHERE member=?", (member,)
                ).fetchone()
            kept = (Envelope.decode(row[0]), Envelope.decode(row[1])) if row else (_EMPTY, _EMPTY)
            self._kept[member] = kept
        return self._kept[member]

    def _encode(self, member: str, records: RecordDict) -> Envelope:
        return flower.encode(records, self._blobs(member)) if records else _EMPTY

    def _blobs(self, member: str) -> BlobStore:
        if member not in self._stores:
            self._stores[member] = BlobStore(self._root / member, durable=self._durable)
        return self._stores[member]

    def _drop_replaced(self) -> None:
        for member, kept in self._changed.items():
            before = self._kept.get(member, (_EMPTY, _EMPTY))
            for blob in _blobs_of(before) - _blobs_of(kept):
                self._blobs(member).drop(blob)
            self._kept[member] = kept
        self._changed.clear()


def _blobs_of(kept: tuple[Envelope, Envelope]) -> set[str]:
    return {blob for envelope in kept for blob in envelope.blobs()}
