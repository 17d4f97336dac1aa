"""Running the real command with `--processes`, finding its processes, and killing them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
APPS = {
    "mean": (ROOT / "benchmarks" / "apps" / "flower_round", ["-c", "mb=1 nodes=3 rounds=3"]),
    "zoo": (ROOT / "tests" / "integration" / "apps" / "zoo", ["-c", "strategy=FedAdam rounds=2"]),
    "diloco": (
        ROOT / "tests" / "integration" / "apps" / "zoo",
        ["-c", "strategy=barnraise-diloco rounds=2"],
    ),
}
SITES = 3
PATIENCE = 60.0


def command(name: str, place: Path, *options: str) -> list[str]:
    app, config = APPS[name]
    words = ["sim", "run", str(app), "--sites", str(SITES), "--dir", str(place), "--json"]
    return [sys.executable, "-m", "barnraise", *words, *config, *options]


def start(
    name: str, place: Path, env: dict[str, str] | None = None, *options: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(name, place, "--processes", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )


def finished(name: str, place: Path, *options: str) -> dict[str, Any]:
    """Run the command to its end; its JSON object."""
    done = subprocess.run(
        command(name, place, *options), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def processes(place: Path, part: str = "") -> list[int]:
    """The living processes that have `place` in their command line or environment, and `part`."""
    return [pid for pid, text in _command_lines() if str(place) in text and part in text]


def _command_lines() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            text = (entry / "cmdline").read_bytes().decode(errors="replace")
            where = str((entry / "cwd").readlink())
        except OSError:
            continue
        if state != "Z" and int(entry.name) != os.getpid():
            yield int(entry.name), f"{text} {where}"


def until(holds: Callable[[], bool], what: str) -> None:
    """Return when it holds; fails after `PATIENCE` seconds."""
    limit = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < limit, f"not within {PATIENCE:.0f} s: {what}"
        os.sched_yield()


@contextmanager
def no_process_left(place: Path) -> Iterator[None]:
    yield
    until(lambda: not processes(place), f"no process of {place} is left")


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
