"""A disk that really is full: D104, nothing lost, and the run goes on once there is room.

At the coordinator the run stops and says what to do; a node waits, for its member's work is in memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import driver
import nodes
import pytest
from federation import Federation, federation

from barnraise.coordinator import events
from barnraise.protocols.errors import BarnraiseError


def mount(place: Path, kilobytes: int, *options: str) -> subprocess.CompletedProcess[bytes]:
    size = ",".join([f"size={kilobytes}k", *options])
    return subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)], capture_output=True
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or mount(place, 64).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs of a few kilobytes")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_run_on_a_full_disk_stops_with_a_remedy_and_goes_on_with_room(
    tmp_path: Path, small_disk: Path
) -> None:
    digest = driver.run("everything", tmp_path / "whole").digest
    stops, size = 0, 64
    while True:
        try:
            ended = driver.run("everything", small_disk / "run")
            break
        except BarnraiseError as error:
            assert error.code == "D104", str(error)
            assert error.next.startswith("make room")
            stops += 1
            size += 12
            assert mount(small_disk, size, "remount").returncode == 0
    assert ended.digest == digest
    assert stops > 3


@pytest.fixture
def small_spool(tmp_path: Path) -> Iterator[Path]:
    """The spool of one of the nodes of a run that has begun, on a disk that holds no order."""
    place = tmp_path / "run"
    spool = place / "nodes" / "site-01" / "spool"
    process = nodes.start("mean", place)
    nodes.until(spool.exists, "the node has a spool")
    process.send_signal(signal.SIGINT)
    process.communicate()
    shutil.rmtree(spool)
    spool.mkdir()
    if os.geteuid() != 0 or mount(spool, 512).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs of a few kilobytes")
    try:
        yield spool
    finally:
        subprocess.run(["umount", "--lazy", str(spool)], check=True)


@pytest.mark.slow
def test_a_node_whose_disk_is_full_waits_for_room_and_loses_nothing(
    tmp_path: Path, small_spool: Path
) -> None:
    """Neither an order that cannot be fetched nor a reply that cannot be written is a failure."""
    place, logs = tmp_path / "run", small_spool.parent / "logs"
    whole = nodes.finished("mean", tmp_path / "whole")
    process = nodes.start("mean", place)
    full = "No space left on device"
    nodes.until(lambda: full in (logs / "node.log").read_text(), "the order finds no room")
    assert mount(small_spool, 1536, "remount").returncode == 0
    nodes.until(lambda: full in (logs / "worker.log").read_text(), "the reply finds no room")
    assert mount(small_spool, 1 << 16, "remount").returncode == 0
    out, said = process.communicate()
    assert process.returncode == 0, said
    told = json.loads(out)
    assert told["model"] == whole["model"]
    assert told["problems"] == []


# --- nodes and their coordinator: they wait, and say so ----------------------------------------------

KB = 1 << 10


@pytest.fixture
def disk() -> Iterator[Callable[[Path, int], Path]]:
    """Makes a folder a disk of its own, of so many kB; the path of a file that fills it, or part of it."""
    with ExitStack() as mounted:

        def make(place: Path, size: int) -> Path:
            place.mkdir(parents=True)
            if os.geteuid() != 0 or mount(place, size).returncode != 0:
                pytest.skip("needs the right to mount a tmpfs of a few kilobytes")
            lazily = ["umount", "--lazy", str(place)]
            mounted.callback(subprocess.run, lazily, check=True)
            return place / "filler"

        yield make


def fill(filler: Path, leave: int) -> None:
    """Take all room but `leave` bytes; others may be writing too."""
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while (room := os.statvfs(filler.parent)).f_bavail * room.f_frsize > leave:
            file.write(bytes(4096))


def full_disks(barn: Federation) -> list[bool]:
    """What the operator was told: True for full, False for room again."""
    return [e.needed > 0 for e in barn.house.events if isinstance(e, events.DiskFull)]


@pytest.mark.parametrize("when", [events.BatchSent, events.Answered])
def test_a_coordinator_without_room_waits_says_so_and_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disk: Callable[[Path, int], Path],
    when: type[events.Event],
) -> None:
    """Full before the replies come (their members keep them), and in the middle of the record."""
    place = tmp_path / "federation" / "house"
    filler = disk(place, 24 << 10)
    leave = 4 * KB * KB + 512 * KB if when is events.BatchSent else 0
    with federation(tmp_path, monkeypatch, headroom=4 << 20, durable=True) as barn:
        barn.start()
        filled = list[events.Event]()

        def hook(event: events.Event) -> None:
            if isinstance(event, when) and not filled:
                filled.append(event)
                fill(filler, leave)
            if isinstance(event, events.DiskFull) and event.needed:
                filler.unlink()

        barn.watch(hook)
        barn.run(rounds=2, size=KB * KB // 4)
        assert [c.accepted for c in barn.closed()] == [("ada", "bob", "cyd")] * 2
        assert full_disks(barn) == [True, False]
        assert all(m.failed == [] for m in barn.members.values())


@pytest.mark.parametrize("leave", [256, 1536])
def test_a_node_without_room_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Callable[[Path, int], Path], leave: int
) -> None:
    """No room for what it is to fetch, and none for its reply; the order and the reply are of 1 MB each."""
    filler = disk(tmp_path / "federation" / "nodes" / "bob", 8 << 10)
    with federation(tmp_path, monkeypatch) as barn:
        barn.start()
        fill(filler, leave * KB)

        def hook(event: events.Event) -> None:
            if isinstance(event, events.MemberState) and event.state == "disk full":
                filler.unlink(missing_ok=True)

        barn.watch(hook)
        barn.run(size=KB * KB // 4)
        assert [c.accepted for c in barn.closed()] == [("ada", "bob", "cyd")]
        assert not filler.exists(), "it was never said"
        assert barn.members["bob"].failed == []
