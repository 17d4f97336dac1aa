"""Who may be in a federation: invites and members, in SQLite, and the decisions about them.

Whoever holds the directory may write: the coordinator, and a command beside it. So every decision is one
transaction, and what another process revoked is seen by the next question. Tokens are stored hashed. A
name belongs to one identity key at a time; keys that were revoked are never admitted again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from barnraise.coordinator.journal import sqlite_errors
from barnraise.protocols.identity import Member
from barnraise.protocols.pki import fingerprint

_SCHEMA = """
CREATE TABLE IF NOT EXISTS invites (
    token BLOB PRIMARY KEY, member TEXT NOT NULL, expires REAL NOT NULL, used_by TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members (
    fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL, identity_key BLOB NOT NULL,
    certificate BLOB, revoked REAL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS names ON members (name) WHERE revoked IS NULL;
"""
_LATER = {  # columns that an older directory lacks; what it holds was admitted with the invite
    "invites": ("organisation TEXT NOT NULL DEFAULT ''", "confirm INTEGER NOT NULL DEFAULT 0"),
    "members": ("organisation TEXT NOT NULL DEFAULT ''", "confirmed REAL DEFAULT 0"),
}


@dataclass(frozen=True)
class Invited:
    """An invite as it is on record: for whom, until when, and which keys have used it."""

    member: str
    expires: float
    used_by: str | None


@dataclass(frozen=True)
class Record:
    """A member as it is on record, with its newest certificate (DER). One that is not `confirmed` has shown
    an invite, and waits for the operator's word that its fingerprint was compared."""

    name: str
    identity_key: bytes
    certificate: bytes | None
    revoked: bool
    organisation: str = ""
    confirmed: bool = True


def judge(
    member: str,
    digest: str,
    invited: Invited | None,
    holder: Record | None,
    named: str | None,
    now: float,
) -> str | None:
    """Whether keys may enrol under a name: the code of what forbids it, or None.

    `digest` is the keys' fingerprint, `holder` their record, `named` the fingerprint that holds the name.
    Whoever has no invite learns nothing but that.
    """
    if invited is None or invited.member != member:
        return "N102"
    if holder is not None and holder.revoked:
        return "N105"
    if invited.used_by not in (None, digest):
        return "N104"
    if invited.used_by is None and now >= invited.expires:
        return "N103"
    if named not in (None, digest) or (holder is not None and holder.name != member):
        return "N108"
    return None


class Registry:
    """May be used by any thread; `_lock` guards the connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with sqlite_errors(path):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA busy_timeout=10000")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
        with self._transaction() as db:
            for table, columns in _LATER.items():
                held = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
                for column in columns:
                    if column.split()[0] not in held:
                        db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")

    def invite(
        self,
        member: str,
        token: str,
        expires: float,
        organisation: str = "",
        *,
        confirm: bool = False,
    ) -> None:
        """Record an invite; one of the same name that nobody used is void from now on.

        With `confirm` its keys are admitted once `confirm` is called.
        """
        with self._transaction() as db:
            db.execute("DELETE FROM invites WHERE member=? AND used_by IS NULL", (member,))
            db.execute(
                "INSERT INTO invites VALUES (?, ?, ?, NULL, ?, ?)",
                (_hash(token), member, expires, organisation, int(confirm)),
            )

    def invites(self) -> list[Invited]:
        """Those that nobody used yet, expired or not, by name."""
        with self._lock, sqlite_errors(self._path):
            rows = self._db.execute(
                "SELECT member, expires, used_by FROM invites WHERE used_by IS NULL ORDER BY member"
            )
            return [Invited(*row) for row in rows]

    def confirm(self, member: str, now: float) -> bool:
        """Admit the keys that hold this name; False if nobody enrolled under it."""
        with self._transaction() as db:
            found = db.execute(
                "UPDATE members SET confirmed=coalesce(confirmed, ?) WHERE name=? AND revoked IS NULL",
                (now, member),
            )
            return found.rowcount == 1

    def all(self) -> list[Record]:
        """Everybody who ever enrolled, by name."""
        with self._lock, sqlite_errors(self._path):
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM members ORDER BY name, revoked")
            return [_of(row) for row in rows]

    def enrol(self, token: str, member: str, identity_key: bytes, now: float) -> str | None:
        """Admit these keys under this name, and use up the invite; or the code of what forbids it."""
        digest = fingerprint(identity_key)
        with self._transaction() as db:
            row = db.execute(
                "SELECT member, expires, used_by, organisation, confirm FROM invites WHERE token=?",
                (_hash(token),),
            ).fetchone()
            invited = Invited(*row[:3]) if row else None
            named = db.execute(
                "SELECT fingerprint FROM members WHERE name=? AND revoked IS NULL", (member,)
            ).fetchone()
            holder = _record(db, digest)
            refusal = judge(member, digest, invited, holder, named[0] if named else None, now)
            if refusal is None:
                db.execute("UPDATE invites SET used_by=? WHERE token=?", (digest, _hash(token)))
                db.execute(
                    "INSERT OR IGNORE INTO members VALUES (?, ?, ?, NULL, NULL, ?, ?)",
                    (digest, member, identity_key, row[3], None if row[4] else now),
                )
        return refusal

    def certified(self, digest: str, certificate: bytes) -> None:
        """Keep a member's newest certificate."""
        with self._transaction() as db:
            db.execute(
                "UPDATE members SET certificate=? WHERE fingerprint=?", (certificate, digest)
            )

    def revoke(self, member: str, now: float) -> bool:
        """Revoke a name's keys and its open invite, for ever; False if the name was never enrolled."""
        with self._transaction() as db:
            db.execute("DELETE FROM invites WHERE member=? AND used_by IS NULL", (member,))
            db.execute(
                "UPDATE members SET revoked=? WHERE name=? AND revoked IS NULL", (now, member)
            )
            known = db.execute("SELECT 1 FROM members WHERE name=?", (member,)).fetchone()
        return known is not None

    def record(self, digest: str) -> Record | None:
        """The member with this identity fingerprint, revoked or not."""
        with self._lock, sqlite_errors(self._path):
            return _record(self._db, digest)

    def named(self, member: str) -> Record | None:
        """Who holds this name now; if nobody, who held it and was revoked."""
        with self._lock, sqlite_errors(self._path):
            row = self._db.execute(
                "SELECT fingerprint FROM members WHERE name=? ORDER BY revoked NULLS FIRST",
                (member,),
            ).fetchone()
            return _record(self._db, row[0]) if row else None

    def members(self) -> list[Member]:
        """The members that are admitted and not revoked, in canonical order."""
        with self._lock, sqlite_errors(self._path):
            rows = self._db.execute(
                "SELECT name, identity_key FROM members"
                " WHERE revoked IS NULL AND confirmed IS NOT NULL"
            )
            return sorted(Member(name, key) for name, key in rows)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, sqlite_errors(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


_COLUMNS = (
    "name, identity_key, certificate, revoked IS NOT NULL, organisation, confirmed IS NOT NULL"
)


def _record(db: sqlite3.Connection, digest: str) -> Record | None:
    row = db.execute(f"SELECT {_COLUMNS} FROM members WHERE fingerprint=?", (digest,)).fetchone()
    return _of(row) if row else None


def _of(row: tuple[str, bytes, bytes | None, int, str, int]) -> Record:
    name, key, certificate, revoked, organisation, confirmed = row
    return Record(name, key, certificate, bool(revoked), organisation, bool(confirmed))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
