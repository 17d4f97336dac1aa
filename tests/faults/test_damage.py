"""A journal and blobs that were cut, changed or lost: noticed, said by name, and never gone on from.

What a run that was killed left behind is damaged, then the same command is run again. It ends in the
model of an undisturbed run (what was damaged is not needed), or in an error that says what to do.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kills import Driver, Ended, entries

from barnraise.coordinator.journal import Journal
from barnraise.protocols.errors import BarnraiseError

APP = "everything"
KILLED_AT = "after:19"


@pytest.fixture(scope="module")
def digest(driven: Driver, tmp_path_factory: pytest.TempPathFactory) -> str:
    return driven.run(APP, tmp_path_factory.mktemp("whole") / "run").digest


@pytest.fixture(scope="module")
def killed(driven: Driver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a killed run left: the write-ahead log holds what the database does not."""
    place = tmp_path_factory.mktemp("killed") / "run"
    assert driven.run(APP, place, KILLED_AT).killed
    assert (place / "journal.db-wal").stat().st_size
    return place


@pytest.fixture(scope="module")
def merged(killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with the write-ahead log merged into the database, as an orderly end leaves it."""
    place = shutil.copytree(killed, tmp_path_factory.mktemp("merged") / "run")
    Journal(place / "journal.db").close()
    assert not (place / "journal.db-wal").exists()
    return place


@pytest.fixture
def goes_on(driven: Driver, tmp_path: Path) -> Callable[..., Ended]:
    """Damages a copy of a directory, and runs the same command in it."""
    copies = iter(range(10**6))

    def run(source: Path, damage: Callable[[Path], object]) -> Ended:
        place = shutil.copytree(source, tmp_path / str(next(copies)) / "run")
        damage(place)
        return driven.run(APP, place)

    return run


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x5A
    path.write_bytes(data)


def cut(path: Path, to: int) -> None:
    path.write_bytes(path.read_bytes()[:to])


def lost(ended: Ended) -> bool:
    return ended.error == "D106" and "are lost" in ended.text and "next: put " in ended.text


def test_undamaged_it_goes_on(
    killed: Path, merged: Path, goes_on: Callable[..., Ended], digest: str
) -> None:
    for place in (killed, merged):
        assert goes_on(place, lambda place: None).digest == digest


# --- the journal's end ------------------------------------------------------------------------------


def test_a_lost_write_ahead_log_is_said_with_the_number_of_entries(
    killed: Path, goes_on: Callable[..., Ended]
) -> None:
    """SQLite opens what is left and calls it whole."""
    ended = goes_on(killed, lambda place: (place / "journal.db-wal").unlink())
    assert lost(ended), ended
    assert f"and {len(entries(killed))} were written" in ended.text


def test_a_lost_journal_is_not_a_new_run(killed: Path, goes_on: Callable[..., Ended]) -> None:
    def lose(place: Path) -> None:
        for file in place.glob("journal.db*"):
            file.unlink()

    assert lost(goes_on(killed, lose))


def test_a_torn_tail_is_cut_back_to_a_whole_entry_and_said(
    killed: Path, goes_on: Callable[..., Ended], digest: str
) -> None:
    """Every frame of the log, and some bytes within: SQLite opens at the last whole append."""
    size = (killed / "journal.db-wal").stat().st_size
    counts = set()
    for to in [*range(32, size, (size - 32) // 24), size - 1]:
        ended = goes_on(killed, lambda place, to=to: cut(place / "journal.db-wal", to))
        assert lost(ended), (to, ended)
        counts.add(ended.text.splitlines()[1])
    assert len(counts) > 5


def test_a_tail_that_was_never_acknowledged_is_not_missed(
    killed: Path, goes_on: Callable[..., Ended], digest: str
) -> None:
    """Half an append at the end of the log: nobody was told of it."""

    def half(place: Path) -> None:
        log = place / "journal.db-wal"
        data = log.read_bytes()
        log.write_bytes(data + data[32 : 32 + 3000])

    assert goes_on(killed, half).digest == digest


def test_an_older_journal_under_a_newer_mark_is_refused(
    killed: Path, merged: Path, tmp_path: Path, goes_on: Callable[..., Ended], driven: Driver
) -> None:
    """A backup of the journal alone takes back what members hold receipts for."""
    newer = shutil.copytree(merged, tmp_path / "newer" / "run")
    assert driven.run(APP, newer, "after:23").killed

    def restore(place: Path) -> None:
        (place / "journal.db-wal").unlink()
        shutil.copyfile(merged / "journal.db", place / "journal.db")

    assert lost(goes_on(newer, restore))


def test_other_entries_of_the_same_number_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        journal = Journal(tmp_path / f"{name}.db")
        journal.append([b"one", name.encode()])
        journal.close()
    shutil.copyfile(tmp_path / "a.db", tmp_path / "b.db")
    with pytest.raises(BarnraiseError, match="lost what was written") as other:
        Journal(tmp_path / "b.db")
    assert "are not those that were written" in other.value.evidence


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda mark: flip(mark, 3), lambda mark: cut(mark, 9)]
)
def test_a_mark_that_cannot_be_read_says_nothing(
    killed: Path, goes_on: Callable[..., Ended], digest: str, damage: Callable[[Path], object]
) -> None:
    assert goes_on(killed, lambda place: damage(place / "journal.mark")).digest == digest


# --- the journal's body -----------------------------------------------------------------------------


def survives(ended: Ended, digest: str) -> bool:
    """It does not matter, or it is said to be damaged (D106), or to be no journal at all (D101)."""
    return ended.digest == digest if not ended.error else ended.error in ("D101", "D106")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 0.99])
def test_a_cut_journal_is_noticed(
    merged: Path, goes_on: Callable[..., Ended], share: float
) -> None:
    size = (merged / "journal.db").stat().st_size
    ended = goes_on(merged, lambda place: cut(place / "journal.db", int(share * size)))
    assert ended.error == "D106", ended


def flipped_anywhere(
    count: int, merged: Path, goes_on: Callable[..., Ended], digest: str
) -> dict[str, int]:
    draw, size = random.Random(0), (merged / "journal.db").stat().st_size
    ends: dict[str, int] = {}
    for _ in range(count):
        position = draw.randrange(size)
        ended = goes_on(merged, lambda place, at=position: flip(place / "journal.db", at))
        assert survives(ended, digest), (position, ended)
        key = ended.error or "the same model"
        ends[key] = ends.get(key, 0) + 1
    return ends


def test_a_flipped_byte_of_the_journal_is_noticed_or_does_not_matter(
    merged: Path, goes_on: Callable[..., Ended], digest: str
) -> None:
    ends = flipped_anywhere(20, merged, goes_on, digest)
    assert ends["D106"] > 1


@pytest.mark.slow
def test_any_flipped_byte_of_the_journal_is_noticed_or_does_not_matter(
    merged: Path, goes_on: Callable[..., Ended], digest: str
) -> None:
    ends = flipped_anywhere(400, merged, goes_on, digest)
    print(ends)
    assert ends["D106"] > 20


# --- blobs ------------------------------------------------------------------------------------------


def needed(place: Path) -> list[Path]:
    """The blobs that lie as files."""
    return sorted((place / "blobs" / "sha256").glob("??/*"))


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda blob: cut(blob, 40), lambda blob: flip(blob, -1)]
)
def test_a_lost_cut_or_changed_blob_is_noticed_or_does_not_matter(
    killed: Path, goes_on: Callable[..., Ended], digest: str, damage: Callable[[Path], object]
) -> None:
    ends = []
    for i in range(len(needed(killed))):
        ended = goes_on(killed, lambda place, i=i: damage(needed(place)[i]))
        assert survives(ended, digest), ended.text
        ends.append(ended.error)
    assert "D106" in ends


def test_a_half_written_blob_is_forgotten(
    killed: Path, goes_on: Callable[..., Ended], digest: str
) -> None:
    def half(place: Path) -> None:
        blob = needed(place)[0]
        name = blob.parent.name + blob.name
        (place / "blobs" / "incoming" / name).write_bytes(blob.read_bytes()[:30])

    assert goes_on(killed, half).digest == digest


def test_lost_envelopes_are_noticed(killed: Path, goes_on: Callable[..., Ended]) -> None:
    def lose(place: Path) -> None:
        for file in (place / "blobs").glob("envelopes.db*"):
            file.unlink()

    assert goes_on(killed, lose).error == "D106"
