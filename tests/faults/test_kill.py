"""SIGKILL, then the same command again: the same final digest, nothing accepted redone or lost.

A few places in `make test`; every place, before and after each entry, with `make faults`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import driver
import pytest

from barnraise.coordinator.journal import Journal
from barnraise.protocols.entries import Entry

ENTRIES = {"fedavg": 19, "everything": 27, "sealing": 13}
QUICK = [
    ("fedavg", "after", 0),
    ("fedavg", "before", 8),
    ("everything", "after", 12),
    ("everything", "before", 26),
    ("sealing", "after", 7),
]


def entries(place: Path) -> list[Entry]:
    if not (place / "journal.db").exists():
        return []
    log = Journal(place / "journal.db")
    try:
        log.check()
        return [entry for _, entry in log.entries()]
    finally:
        log.close()


def start(name: str, place: Path, kill_at: str = "") -> subprocess.Popen[str]:
    env = {**os.environ, "BARNRAISE_KILL_AT": kill_at, "PYTHONHASHSEED": "0"}
    command = [sys.executable, driver.__file__, name, str(place)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of runs that nobody interrupted."""
    found = {}
    for name in driver.SERVERS:
        place = tmp_path_factory.mktemp("whole") / name
        found[name] = driver.run(name, place).digest
        assert len(entries(place)) == ENTRIES[name]
    return found


def goes_on(name: str, place: Path, digest: str) -> None:
    """After the kill: run again, and hold the end against that of an undisturbed run."""
    before, calls = entries(place), list[str]()
    assert driver.run(name, place, calls).digest == digest
    assert entries(place)[: len(before)] == before
    accepted = {e.body["order"] for e in before if e.type == "reply.accepted"}
    assert accepted.isdisjoint(calls)


def killed_at(name: str, place: Path, moment: str, index: int, digest: str) -> None:
    process = start(name, place, f"{moment}:{index}")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    found = len(entries(place))
    assert found <= index if moment == "before" else found > index
    goes_on(name, place, digest)


@pytest.mark.parametrize(("name", "moment", "index"), QUICK)
def test_killed_at_this_entry_it_goes_on(
    tmp_path: Path, whole: dict[str, str], name: str, moment: str, index: int
) -> None:
    killed_at(name, tmp_path / "run", moment, index, whole[name])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "index"), [(name, i) for name, count in ENTRIES.items() for i in range(count)]
)
def test_killed_at_any_entry_it_goes_on(
    tmp_path: Path, whole: dict[str, str], name: str, index: int, moment: str
) -> None:
    killed_at(name, tmp_path / "run", moment, index, whole[name])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_time_it_goes_on(tmp_path: Path, whole: dict[str, str], seed: int) -> None:
    """The moment is drawn between the first entry and the time that a whole run takes."""
    place, draw = tmp_path / "run", random.Random(seed)
    process = start("everything", place)
    while not (place / "members").exists() and process.poll() is None:
        os.sched_yield()
    try:
        process.wait(timeout=draw.uniform(0.0, 0.4))
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    goes_on("everything", place, whole["everything"])
