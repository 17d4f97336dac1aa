"""A disk that really is full: D104, nothing lost, and the run goes on once there is room.

At the coordinator the run stops and says what to do; a node waits, for its member's work is in memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import driver
import nodes
import pytest

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
