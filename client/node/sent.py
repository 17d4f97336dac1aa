"""`sent.db`: everything that ever left this site, and what the site used for it, day by day.

    sent   at, last, kind, what, digest, bytes, times, run, under, policy, detail
    used   day, rounds, processor, gpu

A reply is on record, durably, before a byte of it leaves. What the session says beside (hello, states,
progress, and whatever else goes up the stream) is counted where it leaves and written down together.
Owned by the daemon's main thread, but for `said`, which any thread may call.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from barnraise.client.node.policy import Spent
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_full, is_full, is_full_database

FILE = "sent.db"
LONGEST = 4096  # characters of a row's detail
ROOM = 4096  # kinds of things said that are counted apart between two writings
_TABLES = """
create table if not exists sent(
    id integer primary key, at real not null, last real not null, kind text not null, what text not null,
    digest text not null, bytes integer not null, times integer not null, run text not null,
    under text not null, policy text not null, detail text not null);
create unique index if not exists once on sent(run, what, digest) where kind in ('reply', 'error');
create index if not exists days on sent(at);
create table if not exists used(
    day text primary key, rounds integer not null, processor real not null, gpu real not null);
"""


_USED = "select rounds, processor, gpu from used where day = ?"


@dataclass(frozen=True)
class Under:
    """Under what something leaves: the run, the approval (an agreement's or an app's digest), the policy."""

    run: str = ""
    approval: str = ""
    policy: str = ""


@dataclass(frozen=True)
class Row:
    """One thing that left, or many of the same kind: `times` of them between `at` and `last`."""

    at: float
    last: float
    kind: str
    what: str
    digest: str
    bytes: int
    times: int
    run: str
    under: str
    policy: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; times in seconds since 1970."""
        return asdict(self)


@dataclass
class _Count:
    at: float
    last: float
    bytes: int = 0
    times: int = 0
    detail: str = "{}"

    def before(self, later: _Count) -> _Count:
        """This and what was counted after it."""
        both = self.bytes + later.bytes, self.times + later.times
        return _Count(self.at, later.last, *both, later.detail)


_Counts = dict[tuple[str, str, Under], _Count]


class Sent:
    """`durable`: a commit is on disk when it returns. Raises N320 where nothing can be written down, D104
    where the disk is full: what was counted is not forgotten then."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._path = path
        self._lock = threading.Lock()  # _counts, _used, _under
        self._used: dict[str, Spent] = {}
        self._today: tuple[str, float, Spent] | None = None  # what `spent` said last, kept up with
        self._counts: _Counts = {}
        self._under = Under()
        with self._recorded():
            path.touch(0o600)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._db.executescript(f"begin immediate; {_TABLES} commit;")

    def close(self) -> None:
        self.flush()
        self._db.close()

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if _says_full(error, self._path):
                raise disk_full(self._path) from error
            raise BarnraiseError(
                "N320",
                f"{self._path} cannot be written",
                str(error),
                "nothing leaves that is not on record",
                next="make the file writable, and start the node again",
            ) from None

    @contextmanager
    def _together(self) -> Iterator[sqlite3.Connection]:
        with self._recorded():
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("rollback")
                raise
            self._db.execute("commit")

    # --- what leaves ------------------------------------------------------------------------------

    def under(self, under: Under) -> None:
        """Under what that which is said from now on leaves."""
        with self._lock:
            self._under = under

    def said(self, kind: str, what: str, size: int, now: float, **detail: Any) -> None:
        """Something small leaves in the session; it is counted. Any thread; no I/O."""
        with self._lock:
            key = (kind, what, self._under)
            if key not in self._counts and len(self._counts) >= ROOM:
                key = (kind, "much else", self._under)
            count = self._counts.setdefault(key, _Count(now, now))
            count.last, count.bytes, count.times = now, count.bytes + size, count.times + 1
            if detail:
                count.detail = _text(detail)

    def flush(self) -> None:
        """Write down what was counted, said and used."""
        with self._lock:
            idle = not self._counts and not self._used
        if not idle:
            with self._with_counts():
                pass

    @contextmanager
    def _with_counts(self) -> Iterator[sqlite3.Connection]:
        """One commit with what was counted until now."""
        with self._lock:
            counts, self._counts = self._counts, {}
            used, self._used = self._used, {}
        try:
            with self._together() as db:
                _write(db, counts, used)
                yield db
        except BaseException:
            self._put_back(counts, used)
            raise

    def _put_back(self, counts: _Counts, used: Mapping[str, Spent]) -> None:
        with self._lock:
            for key, count in counts.items():
                later = self._counts.get(key)
                self._counts[key] = count if later is None else count.before(later)
            for day, spent in used.items():
                self._used[day] = spent + self._used.get(day, Spent())

    def reply(
        self,
        order: str,
        content: str,
        size: int,
        under: Under,
        now: float,
        *,
        error: bool = False,
        **detail: Any,
    ) -> None:
        """A reply is about to leave. One that leaves again is the same row, one time more.

        What was counted until now is written down with it.
        """
        kind = "error" if error else "reply"
        row = (now, now, kind, order, content, size, under.run, under.approval, under.policy)
        with self._with_counts() as db:
            (times,) = db.execute(
                "insert into sent values (null, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?) on conflict(run, what,"
                " digest) where kind in ('reply', 'error') do update set times = times + 1, last = ?"
                " returning times",
                (*row, _text(detail), now),
            ).fetchone()
        if self._today is not None and times == 1 and now >= self._today[1]:
            self._more(self._today[0], Spent(out=size))

    def handed(
        self, kind: str, what: str, digest: str, size: int, now: float, **detail: Any
    ) -> None:
        """Something is about to be handed out beside the session, as a file."""
        row = (now, now, kind, what, digest, size, 1, "", "", "", _text(detail))
        with self._together() as db:
            db.execute(f"insert into sent values (null{', ?' * 11})", row)

    # --- what is used -----------------------------------------------------------------------------

    def use(self, day: str, rounds: int = 0, processor: float = 0.0, gpu: float = 0.0) -> None:
        """Counted, and written down with what is next. Seconds; `day` as 2026-03-04."""
        used = Spent(rounds, processor, gpu)
        with self._lock:
            self._used[day] = self._used.get(day, Spent()) + used
        self._more(day, used)

    def _more(self, day: str, used: Spent) -> None:
        if self._today is not None and self._today[0] == day:
            self._today = (*self._today[:2], self._today[2] + used)

    def spent(self, day: str, midnight: float) -> Spent:
        """What was used on this day, which began at `midnight` (seconds since 1970)."""
        if self._today is None or self._today[:2] != (day, midnight):
            self._today = (day, midnight, self._on_record(day, midnight))
        return self._today[2]

    def _on_record(self, day: str, midnight: float) -> Spent:
        with self._recorded():
            used = self._db.execute(_USED, (day,)).fetchone()
            (out,) = self._db.execute(
                "select coalesce(sum(bytes), 0) from sent where kind in ('reply', 'error') and at >= ?",
                (midnight,),
            ).fetchone()
        rounds, processor, gpu = used or (0, 0.0, 0.0)
        with self._lock:
            return Spent(rounds, processor, gpu, out) + self._used.get(day, Spent())


def used_since(path: Path, day: str, midnight: float) -> Spent:
    """What was used on this day, as it stands on record; nothing where there is no record. Raises N321."""
    rows = list(listed(path, midnight)) if path.exists() else []
    out = sum(r.bytes for r in rows if r.kind in ("reply", "error") and r.at >= midnight)
    with _reading(path) as db:
        found = db.execute(_USED, (day,)).fetchone() if db is not None else None
    rounds, processor, gpu = found or (0, 0.0, 0.0)
    return Spent(rounds, processor, gpu, out)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    if not path.exists():
        yield None
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            made = db.execute("select count(*) from sqlite_master where name in ('sent', 'used')")
            yield db if made.fetchone() == (2,) else None  # a node that begins has made none yet
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise BarnraiseError(
            "N321",
            f"{path} cannot be read",
            str(error),
            next="restore the node's directory from a backup",
        ) from None


def _text(detail: Mapping[str, Any]) -> str:
    text = json.dumps(detail, sort_keys=True)
    return text if len(text) <= LONGEST else json.dumps({"beginning": text[:LONGEST]})


def _says_full(error: sqlite3.Error | OSError, path: Path) -> bool:
    if isinstance(error, sqlite3.Error):
        return is_full_database(error, path)
    return is_full(error)


def _write(db: sqlite3.Connection, counts: _Counts, used: Mapping[str, Spent]) -> None:
    db.executemany(
        f"insert into sent values (null{', ?' * 11})",
        [
            (
                c.at,
                c.last,
                kind,
                what,
                "",
                c.bytes,
                c.times,
                u.run,
                u.approval,
                u.policy,
                c.detail,
            )
            for (kind, what, u), c in counts.items()
        ],
    )
    db.executemany(
        "insert into used values (?1, ?2, ?3, ?4) on conflict(day) do update set"
        " rounds = rounds + ?2, processor = processor + ?3, gpu = gpu + ?4",
        [(day, s.rounds, s.processor, s.gpu) for day, s in used.items()],
    )


def listed(path: Path, since: float = 0.0) -> Iterator[Row]:
    """Everything that left since then, oldest first. Empty where nothing ever did. Raises N321."""
    with _reading(path) as db:
        if db is None:
            return
        for row in db.execute(
            "select at, last, kind, what, digest, bytes, times, run, under, policy, detail"
            " from sent where last >= ? order by at, id",
            (since,),
        ):
            yield Row(*(*row[:-1], json.loads(row[-1])))
