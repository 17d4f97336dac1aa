"""Runs on nodes of their own: the same digest as in process (L9), and no orphans however they end."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import nodes
import pytest
from nodes import APPS, finished, kill, no_process_left, processes, start, until

from barnraise.coordinator.journal import Journal

NODE = "barnraise.client.node"
SOON_TIRED = """
from barnraise import __main__, processes
processes.RESTARTS = 1
raise SystemExit(__main__.main())
"""  # the command, which gives a node up after two deaths


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of runs in one process, that nobody interrupted."""
    place = tmp_path_factory.mktemp("whole")
    return {name: finished(name, place / name)["model"] for name in APPS}


def entries(place: Path) -> int:
    journal = Journal(place / "journal.db")
    try:
        return len(journal)
    finally:
        journal.close()


def all_run(place: Path) -> bool:
    """Whether every site has its daemon, which holds its lock, and a worker beside it."""
    homes = [place / "nodes" / f"site-{i:02d}" for i in range(nodes.SITES)]
    return all((h / "lock").exists() and len(processes(h, NODE)) >= 2 for h in homes)


@pytest.mark.parametrize("name", APPS)
def test_l9_one_semantics_in_process_and_in_processes(
    tmp_path: Path, whole: dict[str, str], name: str
) -> None:
    with no_process_left(tmp_path):
        told = finished(name, tmp_path / "run", "--processes")
    assert told["model"] == whole[name]
    assert told["problems"] == []


# --- how it ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_process_is_left_however_the_command_ends(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    place = tmp_path / "run"
    with no_process_left(place):
        process = start("mean", place, None, "-c", "rounds=10000")
        until(lambda: all_run(place), "daemons and workers run")
        process.send_signal(number)
        _, said = process.communicate()
        assert process.returncode == code, said
        assert "Traceback" not in said


def test_a_port_in_use_is_n118(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, no_process_left(tmp_path):
        port = str(taken.getsockname()[1])
        words = nodes.command("mean", tmp_path / "run", "--processes", "--port", port)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "N118"


def test_a_node_that_cannot_start_is_n308_with_its_last_words(tmp_path: Path) -> None:
    place = tmp_path / "run"
    cut = start("mean", place, {"BARNRAISE_KILL_AT": "before:8"})  # all have attended by then
    cut.communicate()
    assert cut.returncode == -signal.SIGKILL
    with (place / "nodes" / "site-01" / "lock").open() as held, no_process_left(place):
        fcntl.flock(held, fcntl.LOCK_EX)
        words = nodes.command("mean", place, "--processes")
        done = subprocess.run(
            [sys.executable, "-c", SOON_TIRED, *words[3:]],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
    told = json.loads(done.stdout)
    assert told["error"] == "N308"
    assert "N301" in told["evidence"]


def test_another_process_can_ask_who_is_doing_what(tmp_path: Path) -> None:
    place = tmp_path / "run"
    told = finished("mean", place, "--processes")
    words = [*nodes.command("mean", place)[:3], "sim", "status", str(place), "--json"]
    status = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert status["running"] is False
    assert set(status["members"]) == set(told["members"])
    assert entries(place) > 10


def test_a_daemon_killed_again_and_again_is_started_again_and_said_so(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    place = tmp_path / "run"
    process = start("zoo", place)
    found: list[int] = []
    for deaths in (1, 2):
        until(lambda n=deaths: len(_new(found, place)) >= n, "the daemon runs")  # type: ignore[misc]
        kill(found[-1])
    out, said = process.communicate()
    assert process.returncode == 0, said
    assert json.loads(out)["model"] == whole["zoo"]
    assert "site-01 starts again: its daemon ended with -9" in said


def _new(found: list[int], place: Path) -> list[int]:
    """`found`, and the daemon of site-01 if it is another than those."""
    found += [p for p in processes(place, "nodes/site-01") if p not in found][:1]
    return found
