"""The log as others read it: checkpoints and proofs of a journal that grows, and its witnesses' lines."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.coordinator.journal import Journal
from barnraise.coordinator.log import Log
from barnraise.protocols import merkle, notes
from barnraise.protocols.canonical import digest
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import simulated_key
from barnraise.protocols.notes import NoteError
from barnraise.protocols.tlog_proof import TlogProof

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = notes.verifier_key("fed/log", KEY.public_key().public_bytes_raw())
NAMES = ("basel", "cusco", "delhi", "evora")
WITNESSES = {name: simulated_key(b"w", name) for name in NAMES}
RAW = {name: key.public_key().public_bytes_raw() for name, key in WITNESSES.items()}
FOUNDED = {"federation": "fed", "log": VKEY, "authority": ""}


def entry(n: int) -> bytes:
    if n == 0:
        return Entry("federation.founded", "2026-01-01T00:00:00Z", FOUNDED).encode()
    return Entry("run.opened", "2026-01-01T00:00:00Z", {"n": n}).encode()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    log = Journal(tmp_path / "journal.db", durable=False, failpoint=lambda moment, index: None)
    log.append([entry(n) for n in range(21)], [f"key-{n}" for n in range(21)])
    yield log
    log.close()


@pytest.fixture
def log(journal: Journal) -> Iterator[Log]:
    log = Log(journal.path, KEY)
    log.expect(RAW, 3)
    yield log
    log.close()


def test_a_log_is_named_by_its_founding_entry(log: Log, journal: Journal) -> None:
    assert log.origin == "fed/log"
    named = Log(journal.path, KEY, "other")
    assert named.origin == "other/log"
    named.close()


def test_a_checkpoint_is_of_what_is_durable(log: Log, journal: Journal) -> None:
    first = log.checkpoint()
    assert notes.open_checkpoint(first, VKEY).checkpoint.root == journal.root()
    assert log.checkpoint() is first
    journal._db.execute("BEGIN IMMEDIATE")
    journal._db.execute("INSERT INTO entries VALUES (21, x'00', NULL)")
    assert (log.size(), log.checkpoint()) == (21, first)
    journal._db.execute("ROLLBACK")
    journal.append([entry(21)])
    grown = notes.open_checkpoint(log.checkpoint(), VKEY).checkpoint
    assert (grown.size, grown.root) == (22, journal.root())
    before = notes.open_checkpoint(first, VKEY).checkpoint
    path = log.consistency(before.size, grown.size)
    merkle.check_consistency(before.size, grown.size, before.root, grown.root, path)


def test_every_entry_is_proven(log: Log) -> None:
    for index, data in log.entries():
        assert data == entry(index) == log.entry(index)
        proof = TlogProof.decode(log.prove(index).encode())
        assert proof.check(data, VKEY).size == 21
    with pytest.raises(IndexError):
        log.prove(21)
    with pytest.raises(IndexError):
        log.entry(21)
    with pytest.raises(ValueError, match="fewer than 22"):
        log.consistency(3, 22)


def test_an_entry_is_found_by_its_order_and_by_its_digest(log: Log) -> None:
    assert log.find("key-7") == 7 and log.find("key-99") is None
    assert log.find_digest(digest(entry(3))) == 3
    assert log.find_digest(digest(b"none")) is None


def test_many_threads_read_while_one_appends(log: Log, journal: Journal) -> None:
    def read(n: int) -> int:
        size = notes.open_checkpoint(log.checkpoint(), VKEY).checkpoint.size
        log.prove(n % size).check(log.entry(n % size), VKEY)
        return size

    with ThreadPoolExecutor(4) as threads:
        sizes = threads.map(read, range(120))
        for n in range(21, 61):
            journal.append([entry(n)])
        seen = list(sizes)
    assert min(seen) >= 21 and max(seen) <= 61
    assert read(0) == 61


def cosigned(log: Log, name: str, size: int) -> str:
    checkpoint = notes.Checkpoint(log.origin, size, log.root(size))
    return notes.cosign(WITNESSES[name], name, checkpoint, 7)


def test_the_newest_checkpoint_with_a_quorum_is_the_witnessed_one(
    log: Log, journal: Journal
) -> None:
    assert log.witnessed() is None and log.kept() is None
    for name in NAMES[:3]:
        log.keep_cosignature(21, log.root(21), name, cosigned(log, name, 21))
        log.keep_cosignature(21, log.root(21), name, cosigned(log, name, 21))
        assert (log.witnessed() is None) == (name != "delhi")
    journal.append([entry(21)])
    log.keep_cosignature(22, log.root(22), "evora", cosigned(log, "evora", 22))
    witnessed = notes.open_checkpoint(log.witnessed() or b"", VKEY)
    assert witnessed.checkpoint.size == 21
    assert [notes.line_name(line) for line in witnessed.lines] == ["basel", "cusco", "delhi"]
    kept = notes.open_checkpoint(log.kept() or b"", VKEY)
    assert kept.checkpoint.size == 22 and len(kept.lines) == 1
    assert log.prove(4).note == log.witnessed()
    assert log.prove(21).check(entry(21), VKEY).size == 22


def test_what_lies_under_a_quorum_outlives_the_process(log: Log, journal: Journal) -> None:
    for name in NAMES[1:]:
        log.keep_cosignature(9, log.root(9), name, cosigned(log, name, 9))
    again = Log(journal.path)
    again.expect(RAW, 3)
    assert again.witnessed() == log.witnessed() is not None
    assert again.prove(8).note == log.witnessed()
    with pytest.raises(BarnraiseError) as unsigned:
        again.prove(9)
    assert unsigned.value.code == "L105"
    again.close()


@pytest.mark.parametrize(
    ("size", "root", "member", "signer", "reason"),
    [
        (21, None, "mallory", "basel", "no witness"),
        (21, b"\0" * 32, "basel", "basel", "another root"),
        (22, b"\0" * 32, "basel", "basel", "another root"),
        (0, b"\0" * 32, "basel", "basel", "another root"),
        (21, None, "basel", "cusco", "not a cosignature by basel"),
    ],
)
def test_a_cosignature_is_of_this_log_by_a_witness(
    log: Log, size: int, root: bytes | None, member: str, signer: str, reason: str
) -> None:
    line = cosigned(log, signer, 21)
    with pytest.raises(NoteError, match=reason):
        log.keep_cosignature(size, log.root(21) if root is None else root, member, line)
    assert log.kept() is None


def executed(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("statement", "evidence"),
    [
        ("UPDATE entries SET entry = x'00' WHERE idx = 3", "entry 3 is not what was appended"),
        ("DELETE FROM entries WHERE idx = 3", "entry 3 is missing"),
        ("DELETE FROM nodes WHERE level = 4", "node 0 at level 4"),
    ],
)
def test_damage_is_noticed_by_whoever_reads_it(
    log: Log, journal: Journal, statement: str, evidence: str
) -> None:
    executed(journal.path, statement)
    with pytest.raises(BarnraiseError) as damaged:
        list(log.entries())
        log.root()
    assert damaged.value.code == "D106" and evidence in damaged.value.evidence


@pytest.mark.parametrize("what", ["nothing", "an empty journal", "another first entry"])
def test_where_there_is_no_log_it_is_said(tmp_path: Path, what: str) -> None:
    path = tmp_path / "place" / "journal.db"
    if what != "nothing":
        path.parent.mkdir()
        made = Journal(path, durable=False)
        if what == "another first entry":
            made.append([entry(1)])
        made.close()
    with pytest.raises(BarnraiseError) as none:
        Log(path, KEY)
    assert none.value.code == "L101"
