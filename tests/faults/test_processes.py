"""Runs on nodes of their own: the same digest as in process (L9), whatever is killed (L2), no orphans.

A few places in `make test`; all with `make faults`.
"""

from __future__ import annotations

import fcntl
import json
import random
import signal
import socket
import subprocess
from pathlib import Path

import nodes
import pytest
from nodes import APPS, finished, kill, no_process_left, processes, start, until

from barnraise.client.node.failpoints import IN_DAEMON, IN_WORKER
from barnraise.coordinator.journal import Journal

NODE = "barnraise.client.node"


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


@pytest.mark.parametrize("name", APPS)
def test_l9_one_semantics_in_process_and_in_processes(
    tmp_path: Path, whole: dict[str, str], name: str
) -> None:
    with no_process_left(tmp_path):
        told = finished(name, tmp_path / "run", "--processes")
    assert told["model"] == whole[name]
    assert told["problems"] == []


# --- kills ------------------------------------------------------------------------------------------


def goes_on(name: str, place: Path, digest: str) -> None:
    with no_process_left(place):
        assert finished(name, place, "--processes")["model"] == digest


def coordinator_killed_at(name: str, place: Path, moment: str, index: int, digest: str) -> None:
    process = start(name, place, {"BARNRAISE_KILL_AT": f"{moment}:{index}"})
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    until(lambda: not processes(place), "the nodes end with the coordinator")
    goes_on(name, place, digest)


def node_killed_at(name: str, place: Path, point: str, digest: str) -> None:
    """A daemon or a worker dies once at this point; the run needs no second command."""
    marker = place.parent / "died"
    process = start(name, place, {"BARNRAISE_NODE_KILL_AT": f"{point}:{marker}"})
    out, said = process.communicate()
    assert marker.exists(), "the point was never reached"
    assert process.returncode == 0, said
    assert json.loads(out)["model"] == digest
    until(lambda: not processes(place), "no process is left")


@pytest.mark.parametrize(("name", "moment", "index"), [("mean", "after", 5), ("zoo", "before", 17)])
def test_l2_unkillable_a_coordinator_killed_at_this_entry(
    tmp_path: Path, whole: dict[str, str], name: str, moment: str, index: int
) -> None:
    coordinator_killed_at(name, tmp_path / "run", moment, index, whole[name])


@pytest.mark.parametrize("point", ["worker:handled", "daemon:written", "daemon:delivered"])
def test_l2_unkillable_a_node_killed_at_this_point(
    tmp_path: Path, whole: dict[str, str], point: str
) -> None:
    node_killed_at("zoo", tmp_path / "run", point, whole["zoo"])


@pytest.mark.slow
@pytest.mark.parametrize("index", range(1, 34, 3))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_l2_unkillable_a_coordinator_killed_at_any_entry(
    tmp_path: Path, whole: dict[str, str], moment: str, index: int
) -> None:
    coordinator_killed_at("zoo", tmp_path / "run", moment, index, whole["zoo"])


@pytest.mark.slow
@pytest.mark.parametrize("name", APPS)
@pytest.mark.parametrize("point", [*IN_WORKER, *IN_DAEMON])
def test_l2_unkillable_a_node_killed_at_any_point(
    tmp_path: Path, whole: dict[str, str], name: str, point: str
) -> None:
    node_killed_at(name, tmp_path / "run", point, whole[name])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_l2_unkillable_anything_killed_at_any_time(
    tmp_path: Path, whole: dict[str, str], seed: int
) -> None:
    """Coordinator, daemons and workers are killed at random until the run has ended; the same command
    again as often as the coordinator was among them."""
    place, draw = tmp_path / "run", random.Random(seed)
    for _ in range(4):
        process = start("zoo", place)
        for _ in range(draw.randrange(1, 4)):
            try:
                process.wait(timeout=draw.uniform(0.2, 3.0))
                break
            except subprocess.TimeoutExpired:
                victims = [process.pid, *processes(place, NODE)]
                kill(draw.choice(victims))
        process.kill()
        process.communicate()
        until(lambda: not processes(place), "the nodes end with the coordinator")
    goes_on("zoo", place, whole["zoo"])


# --- how it ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_process_is_left_however_the_command_ends(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    place = tmp_path / "run"
    with no_process_left(place):
        process = start("mean", place)
        until(lambda: len(processes(place, NODE)) >= 2 * nodes.SITES, "daemons and workers run")
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
    process = start("mean", place)
    until(lambda: len(processes(place, NODE)) >= 2 * nodes.SITES, "daemons and workers run")
    process.send_signal(signal.SIGINT)
    process.communicate()
    with (place / "nodes" / "site-01" / "lock").open() as held, no_process_left(place):
        fcntl.flock(held, fcntl.LOCK_EX)
        done = subprocess.run(
            nodes.command("mean", place, "--processes"), capture_output=True, text=True, check=False
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
