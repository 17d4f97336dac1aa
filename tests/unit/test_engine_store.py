"""What is on disk: journal, blobs, members' store, directory; damage, full disks, locks."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.coordinator.directory import opened
from barnraise.coordinator.fleet import Delivery
from barnraise.coordinator.journal import Journal
from barnraise.coordinator.members import MemberStore, Work
from barnraise.protocols import blobs as blobs_module
from barnraise.protocols import merkle
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors
from barnraise.protocols.tensors import encode


def entry(n: int) -> bytes:
    return Entry("run.opened", "2026-01-01T00:00:00Z", {"n": n}).encode()


def journal(path: Path, count: int = 0) -> Journal:
    opened_ = Journal(path, durable=False, failpoint=lambda moment, index: None)
    for n in range(count):
        opened_.append([entry(n)], [f"key-{n}"])
    return opened_


def flip(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes of a file in place, as a failing disk would."""
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


# --- the journal --------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5), max_size=8))
@settings(deadline=None, max_examples=25)
def test_any_appends_give_the_root_of_rfc_6962_and_survive_reopening(
    tmp_path_factory: pytest.TempPathFactory, groups: list[int]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    written: list[bytes] = []
    for count in groups:
        log = journal(path)
        more = [entry(len(written) + i) for i in range(count)]
        assert log.append(more) == len(written)
        written += more
        log.close()
    log = journal(path)
    tree = merkle.Frontier()
    for data in written:
        tree.append(merkle.leaf_hash(data))
    assert list(log.raw()) == written and len(log) == len(written)
    assert log.root() == tree.root()
    assert [index for index, _ in log.backwards()] == list(range(len(written)))[::-1]
    log.check()
    log.close()


def test_an_entry_is_found_by_its_key(tmp_path: Path) -> None:
    log = journal(tmp_path / "journal.db", 3)
    found = log.find("key-1")
    assert found is not None and found[0] == entry(1) and found[1].body == {"n": 1}
    assert log.find("key-9") is None


def test_several_entries_are_appended_together_or_not_at_all(tmp_path: Path) -> None:
    log = journal(tmp_path / "journal.db", 2)
    root = log.root()
    with pytest.raises(BarnraiseError):
        log.append([entry(2), entry(3)], [None, object()])  # type: ignore[list-item]
    assert (len(log), log.root()) == (2, root)
    log.append([entry(2)])
    log.close()
    reopened = journal(tmp_path / "journal.db")
    assert list(reopened.raw()) == [entry(n) for n in range(3)]


def test_a_damaged_entry_is_noticed_by_whoever_reads_it_and_by_check(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal(path, 12).close()
    flip(path, b'"n":7', b'"n":9')
    log = journal(path)
    for read in (lambda: list(log.entries()), lambda: list(log.backwards()), log.check):
        with pytest.raises(BarnraiseError) as damaged:
            read()
        assert damaged.value.code == "D106" and "entry 7" in damaged.value.evidence
    with pytest.raises(BarnraiseError, match="damaged"):
        log.find("key-7")
    assert len(list(log.entries(8))) == 4


def test_a_rewritten_entry_with_its_leaf_is_noticed_by_check(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal(path, 5).close()
    db = sqlite3.connect(path)
    with db:
        db.execute("UPDATE entries SET entry=? WHERE idx=1", (entry(99),))
        leaf = merkle.leaf_hash(entry(99))
        db.execute("UPDATE nodes SET hash=? WHERE level=0 AND idx=1", (leaf,))
    db.close()
    with pytest.raises(BarnraiseError, match="damaged"):
        journal(path).check()


def executed(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(statement)
    db.close()


def test_a_hole_is_noticed_by_whoever_reads_over_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal(path, 5).close()
    executed(path, "DELETE FROM entries WHERE idx=2")
    log = journal(path)
    for read in (lambda: list(log.entries()), lambda: list(log.backwards()), log.check):
        with pytest.raises(BarnraiseError) as damaged:
            read()
        assert damaged.value.code == "D106" and "entry 2 is missing" in damaged.value.evidence
    assert len(list(log.entries(3))) == 2


@pytest.mark.parametrize("statement", ["DELETE FROM entries WHERE idx=4", "DELETE FROM nodes"])
def test_a_journal_that_does_not_fit_its_tree_does_not_open(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "journal.db"
    journal(path, 5).close()
    executed(path, statement)
    with pytest.raises(BarnraiseError) as damaged:
        journal(path)
    assert damaged.value.code == "D106"


def test_a_journal_that_another_process_wrote_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    log, other = journal(path, 2), journal(path)
    other.append([entry(2)])
    with pytest.raises(BarnraiseError) as refused:
        log.append([entry(50)])
    assert refused.value.code == "D108"
    assert "knows 2 entries, and there are 3" in refused.value.evidence
    assert list(log.raw()) == [entry(n) for n in range(3)]
    other.append([entry(3)])
    other.check()


def test_several_threads_append_to_one_log(tmp_path: Path) -> None:
    log = journal(tmp_path / "journal.db")

    def work(start: int) -> list[int]:
        return [log.append([entry(start + n)], [f"key-{start + n}"]) for n in range(25)]

    with ThreadPoolExecutor(4) as threads:
        indices = [i for done in threads.map(work, (0, 100, 200, 300)) for i in done]
    assert sorted(indices) == list(range(100)) and len(log) == 100
    assert log.index_of("key-107") == next(i for i, e in log.entries() if e.body == {"n": 107})
    assert log.index_of("key-999") is None
    log.check()


def copy_while_open(source: Path, target: Path) -> None:
    """What a crash leaves: the database and its write-ahead log, not merged."""
    target.mkdir()
    for name in ("journal.db", "journal.db-wal"):
        (target / name).write_bytes((source / name).read_bytes())


@pytest.mark.parametrize("torn", [1, 40, 5000])
def test_a_torn_tail_leaves_a_whole_prefix(tmp_path: Path, torn: int) -> None:
    (tmp_path / "one").mkdir()
    log = journal(tmp_path / "one" / "journal.db", 6)
    copy_while_open(tmp_path / "one", tmp_path / "two")
    wal = tmp_path / "two" / "journal.db-wal"
    wal.write_bytes(wal.read_bytes()[:-torn])
    after = journal(tmp_path / "two" / "journal.db")
    assert 3 <= len(after) < 6
    assert list(after.raw()) == [entry(n) for n in range(len(after))]
    after.check()
    after.append([entry(50)])
    log.close()


def test_what_is_no_journal_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database, but long enough to be one" * 50)
    with pytest.raises(BarnraiseError) as damaged:
        journal(tmp_path / "journal.db")
    assert damaged.value.code == "D106"
    (tmp_path / "a directory").mkdir()
    with pytest.raises(BarnraiseError) as folder:
        journal(tmp_path / "a directory")
    assert folder.value.code == "D106" and "no file" in folder.value.evidence


def test_a_full_disk_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    log = journal(tmp_path / "journal.db", 3)
    pages = log._db.execute("PRAGMA page_count").fetchone()[0]
    log._db.execute(f"PRAGMA max_page_count={pages + 4}")
    root, kept = log.root(), len(log)
    with pytest.raises(BarnraiseError) as full:
        while True:
            log.append([Entry("run.opened", "t", {"pad": "x" * 2000}).encode()])
            root, kept = log.root(), len(log)
    assert full.value.code == "D104" and kept > 3
    assert (log.root(), len(log)) == (root, kept)
    log.close()
    log = journal(tmp_path / "journal.db")
    assert (log.root(), len(log)) == (root, kept)
    log.check()


# --- blobs --------------------------------------------------------------------------------------------


def test_the_same_bytes_are_one_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    one, other = store.put([b"ab", b"c"]), store.put([b"a", b"bc"])
    assert one == other == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert store.read(one) == b"abc"
    store.sync()
    inode = store.path(one).stat().st_ino
    store.put([b"abc"])
    store.sync()
    assert store.path(one).stat().st_ino == inode
    assert list(store.all()) == [one] and store.size(one) == 3


def test_a_blob_is_synced_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(tmp_path / "blobs")
    blob = store.put([b"abc"])
    final = store._final(blob)
    steps: list[tuple[str, bool]] = []

    def spy(path: Path) -> None:
        steps.append(("file" if path.is_file() else path.name, final.is_file()))

    for name in ("_sync", "_fsync"):
        monkeypatch.setattr(blobs_module, name, spy)
    store.sync()
    assert steps[0] == ("file", False)
    folders = {name for name, named in steps[1:] if named}
    assert {final.parent.name, "sha256", "blobs"} <= folders


def test_half_written_blobs_are_gone_when_the_store_opens_again(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    lost = store.put([b"never synced"])
    kept = store.put([b"kept"])
    store._pending.pop(lost)
    store.sync()
    assert list((tmp_path / "incoming").iterdir())
    again = BlobStore(tmp_path)
    assert not list((tmp_path / "incoming").iterdir())
    assert again.has(kept) and not again.has(lost)


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)

    def pieces() -> Iterator[bytes]:
        yield b"begun"
        raise RuntimeError("the sender is gone")

    with pytest.raises(RuntimeError):
        store.put(pieces())
    assert not list((tmp_path / "incoming").iterdir())


def test_a_blob_whose_bytes_changed_is_noticed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    blob = store.put(encode({"a": np.ones(3, np.float32)}))
    store.sync()
    store.check(blob)
    path = store.path(blob)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BarnraiseError) as damaged:
        store.check(blob)
    assert damaged.value.code == "D106"
    path.unlink()
    with pytest.raises(BarnraiseError) as gone:
        store.check(blob)
    assert gone.value.code == "D106"


# --- what simulated members keep --------------------------------------------------------------------


def outcome(store: MemberStore, n: int, state: RecordDict | None) -> Work:
    delivery = Delivery(f"order-{n}", "ada", "sha256:" + "0" * 64, 1, {"sig": str(n)}, 0.0)
    return Work(delivery, state, None)


def kept(value: float) -> RecordDict:
    return RecordDict({"a": ArrayRecord([np.full(3, value, np.float32)])})


def test_reply_and_state_last_together_or_not_at_all(tmp_path: Path) -> None:
    store = MemberStore(tmp_path, durable=False)
    store.stage(outcome(store, 1, kept(1.0)))
    assert store.recall("ada")[0] == kept(1.0)
    store.close()
    store = MemberStore(tmp_path, durable=False)
    assert store.recall("ada")[0] == RecordDict() and store.replied("order-1") is None
    store.stage(outcome(store, 1, kept(1.0)))
    store.commit()
    store.close()
    store = MemberStore(tmp_path, durable=False)
    replied = store.replied("order-1")
    assert store.recall("ada")[0] == kept(1.0)
    assert replied is not None and replied.statement == {"sig": "1"}
    assert store.recall("bob")[0] == RecordDict()


def test_a_receipt_lets_a_reply_go_and_a_new_state_the_old_ones_blobs(tmp_path: Path) -> None:
    store = MemberStore(tmp_path, durable=False)
    for n in range(1, 6):
        store.stage(outcome(store, n, kept(float(n))))
        store.commit()
        store.forget([f"order-{n}"])
    assert store.replied("order-4") is None
    rows = store._db.execute("SELECT count(*) FROM spool").fetchone()
    assert rows == (1,)
    assert len(list(BlobStore(tmp_path / "ada").all())) == 1
    assert store.recall("ada")[0] == kept(5.0)


def test_a_failure_leaves_the_member_as_it_was(tmp_path: Path) -> None:
    store = MemberStore(tmp_path, durable=False)
    store.stage(outcome(store, 1, kept(1.0)))
    store.stage(outcome(store, 2, None))
    store.commit()
    assert store.recall("ada")[0] == kept(1.0)


# --- the directory ----------------------------------------------------------------------------------------


def test_a_directory_in_use_is_refused_and_names_who_holds_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from barnraise.coordinator.directory import opened\n"
        "with opened(Path(sys.argv[1])):\n print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(BarnraiseError) as used, opened(tmp_path / "run"):
        pass
    assert used.value.code == "D102" and str(holder.pid) in used.value.evidence
    holder.communicate()
    with opened(tmp_path / "run"):
        pass


def test_the_secret_is_for_its_owner_alone_and_stays(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as place:
        assert place.keep_secret(b"first") == b"first"
        assert place.keep_secret(b"second") == b"first"
    assert stat.S_IMODE((tmp_path / "run" / "secret").stat().st_mode) == 0o600


def test_a_path_that_cannot_be_a_directory_is_said_to_be_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BarnraiseError) as unwritable, opened(tmp_path / "file"):
        pass
    assert unwritable.value.code == "D105"


def test_a_full_disk_is_told_from_an_unwritable_one(tmp_path: Path) -> None:
    for number, code in ((28, "D104"), (122, "D104"), (30, "D105"), (13, "D105"), (2, "D106")):
        with pytest.raises(BarnraiseError) as error, disk_errors(tmp_path):
            raise OSError(number, os.strerror(number), "x")
        assert error.value.code == code
