"""Killing runs of the unit tests' apps, and looking at what is left without touching it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import driver

from barnraise.coordinator.journal import Journal
from barnraise.protocols.entries import Entry

MOMENTS = ("before", "after")


@dataclass(frozen=True)
class Job:
    """Run `app` in `place`; `kill` is `before:17`, `after:17` or nothing. `calls`: where orders go."""

    app: str
    place: str
    calls: str
    kill: str = ""
    rounds: int = driver.ROUNDS


@dataclass(frozen=True)
class Ended:
    """How a process ended. `calls` are the orders that its members' handlers worked on, `resumed` the
    seconds of CPU until it first wrote into the journal."""

    code: int
    calls: list[str]
    digest: str = ""
    seconds: float = 0.0
    resumed: float = 0.0
    error: str = ""
    text: str = ""

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Driver:
    """A process of `driver.py`. One job at a time."""

    def __init__(self) -> None:
        command = [sys.executable, driver.__file__]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )

    def run(
        self,
        app: str,
        place: Path,
        kill: str = "",
        *,
        rounds: int = driver.ROUNDS,
        seconds: float | None = None,
    ) -> Ended:
        """Run the app to its end or until it is killed: by itself at `kill`, or after `seconds`."""
        assert self._process.stdin is not None
        calls = place.parent / "calls"
        calls.write_bytes(b"")
        job = Job(app, str(place), str(calls), kill, rounds)
        self._process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._told()["pid"]
        if seconds is not None and not self._says_within(seconds):
            os.kill(pid, signal.SIGKILL)
        return Ended(**self._told(), calls=calls.read_text().split())

    def _says_within(self, seconds: float) -> bool:
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def _told(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def entries(place: Path) -> list[Entry]:
    """What the journal holds. A copy is read: what was killed is for the next run to mend."""
    with tempfile.TemporaryDirectory() as scratch:
        for file in place.glob("journal.*"):
            if not file.name.endswith("-shm"):
                shutil.copyfile(file, Path(scratch) / file.name)
        if not (Path(scratch) / "journal.db").exists():
            return []
        journal = Journal(Path(scratch) / "journal.db", durable=False)
        try:
            journal.check()
            return [entry for _, entry in journal.entries()]
        finally:
            journal.close()


def accepted(found: list[Entry]) -> set[str]:
    """The orders whose replies were accepted."""
    return {e.body["order"] for e in found if e.type == "reply.accepted"}


# --- the matrix -------------------------------------------------------------------------------------


@dataclass
class Row:
    """A line of the kill matrix: `points` were to be killed at, `kills` happened, all ended in `digest`."""

    app: str
    resumed: str
    who: str
    points: int
    kills: int = 0
    digest: str = ""
    seconds: float = 0.0


@contextmanager
def timed(row: Row) -> Iterator[Row]:
    started = time.monotonic()
    yield row
    row.seconds = time.monotonic() - started
