"""A disk that really is full: D104, nothing lost, and the run goes on once there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import driver
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
