"""Room on the disk: claims fit beside each other, a full disk is said once, the clock stands meanwhile."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.coordinator.events import DiskFull
from barnraise.coordinator.refusals import Refused
from barnraise.coordinator.room import FORGOTTEN, LOOK, Claim, Room
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_full

FOLDER = Path("place")


class Disk:
    """A disk of `free` bytes and a clock, both the test's."""

    def __init__(self, free: int) -> None:
        self.free, self.clock, self.woken = free, 0.0, 0
        self.room = Room(
            FOLDER,
            self._wake,
            headroom=10,
            clock=lambda: self.clock,
            free=lambda folder: self.free,
            pause=self._pause,
        )

    def _wake(self) -> None:
        self.woken += 1

    def _pause(self, seconds: float) -> None:
        self.clock += seconds


def test_a_reply_that_does_not_fit_is_put_off_and_said_once() -> None:
    disk = Disk(100)
    with disk.room.claim(90), pytest.raises(Refused) as refused:
        disk.room.claim(1)
    assert (refused.value.code, refused.value.status) == ("N211", "UNAVAILABLE")
    disk.free = 10
    with pytest.raises(Refused):
        disk.room.claim(20)
    assert disk.woken == 2 and disk.room.next_look() == LOOK
    assert disk.room.news() == [DiskFull(FOLDER, 10, 30)]
    assert disk.room.news() == []
    disk.free = 30
    assert disk.room.news() == [DiskFull(FOLDER, 30, 0)]
    assert disk.room.news() == [] and disk.room.next_look() is None


def test_what_nobody_wants_any_more_is_not_waited_for() -> None:
    disk = Disk(100)
    with pytest.raises(Refused):
        disk.room.claim(1 << 40)
    assert len(disk.room.news()) == 1
    disk.clock += FORGOTTEN
    assert [news.needed for news in disk.room.news()] == [0]


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 200), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8))
def test_whatever_is_claimed_there_is_room_for_all_of_it(
    free: int, wanted: list[tuple[int, int]]
) -> None:
    disk, held = Disk(free), list[Claim]()
    for size, written in wanted:
        try:
            claim = disk.room.claim(size)
        except Refused:
            continue
        held.append(claim)
        claim.spent(min(size, written))
        disk.free -= min(size, written)
    assert not held or sum(c.left for c in held) + 10 <= disk.free
    for claim in held:
        with claim:
            pass
    disk.free = 70
    disk.room.claim(60)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), disk_full(Path("journal.db"))])
def test_the_record_waits_for_room_while_the_clock_stands(error: Exception) -> None:
    disk, told, tries = Disk(0), list[DiskFull](), list[float]()

    def act() -> str:
        tries.append(disk.room.now())
        if len(tries) < 4:
            raise error
        disk.free = 1000
        return "written"

    disk.clock = 5.0
    assert disk.room.patiently(act, told.append) == "written"
    assert tries == [5.0] * 4 and disk.room.now() == 5.0
    assert told == [DiskFull(FOLDER, 0, 10)]
    assert disk.room.news() == [DiskFull(FOLDER, 1000, 0)]
    disk.clock += 2.0
    assert disk.room.now() == 7.0


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), BarnraiseError("D106", "damaged")])
def test_any_other_failure_is_not_waited_for(error: Exception) -> None:
    def act() -> None:
        raise error

    with pytest.raises(type(error)):
        Disk(0).room.patiently(act, lambda news: None)


def test_a_full_disk_is_said_in_a_sentence() -> None:
    text = DiskFull(Path("run"), 1_250_000, 17_000_000).text
    assert text.startswith("the disk of run has 1.2 MB free and needs 17.0 MB: replies wait")
    assert (
        DiskFull(Path("run"), 20_000_000, 0).text == "the disk of run has 20.0 MB free: it goes on"
    )
