"""SIGKILL of coordinator, daemons and workers of a run on nodes of its own (L2): the same final model.

A few kills in `make test`; with `make faults` a kill all along the entries, at every point of an order's
way through a node, and at moments drawn at random.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from kills import Row, entries, timed
from nodes import finished, kill, no_process_left, processes, start, until

from barnraise.client.node import failpoints
from barnraise.client.node.failpoints import IN_DAEMON, IN_WORKER

NODE = "barnraise.client.node"
APPS = ("zoo", "diloco")
Matrix = Callable[[Row], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of runs in one process, that nobody interrupted."""
    place = tmp_path_factory.mktemp("whole")
    return {name: finished(name, place / name)["model"] for name in APPS}


# --- the coordinator --------------------------------------------------------------------------------


def coordinator_killed_every(
    step: int, first: int, name: str, place: Path, row: Row, most: int = 99
) -> None:
    """Run and kill, run on and kill: before and after an entry by turns, so many entries apart."""
    before = entries(place)
    while row.kills < most:
        moment = ("before", "after")[row.kills % 2]
        kill_at = f"{moment}:{len(before) + (step if before else first)}"
        process = start(name, place, {"BARNRAISE_KILL_AT": kill_at})
        out, said = process.communicate()
        until(lambda: not processes(place), "the nodes end with the coordinator")
        if process.returncode == 0:
            assert json.loads(out)["model"] == row.digest
            return
        assert process.returncode == -signal.SIGKILL, said
        found = entries(place)
        assert found[: len(before)] == before
        before, row.kills, row.points = found, row.kills + 1, row.points + 1
    with no_process_left(place):
        assert finished(name, place, "--processes")["model"] == row.digest


def test_l2_unkillable_the_coordinator_of_nodes(
    tmp_path: Path, whole: dict[str, str], matrix: Matrix
) -> None:
    row = Row("zoo", "replay", "coordinator of nodes", 0, digest=whole["zoo"])
    with timed(row):
        coordinator_killed_every(9, 8, "zoo", tmp_path / "run", row, most=1)
    assert row.kills == 1
    matrix(row)


@pytest.mark.slow
def test_l2_unkillable_the_coordinator_of_nodes_all_along_the_run(
    tmp_path: Path, whole: dict[str, str], matrix: Matrix
) -> None:
    row = Row("diloco", "replay", "coordinator of nodes, all along", 0, digest=whole["diloco"])
    with timed(row):
        coordinator_killed_every(2, 1, "diloco", tmp_path / "run", row)
    assert row.kills > 8
    matrix(row)


# --- nodes ------------------------------------------------------------------------------------------


def nodes_killed_at(points: Sequence[str], name: str, where: Path, row: Row) -> None:
    """At each point the first process that comes to it dies there; the run needs no second command."""
    markers = {point: where / point.replace(":", "-") for point in points}
    kill_at = ";".join(f"{point}:{marker}" for point, marker in markers.items())
    process = start(name, where / "run", {failpoints.VARIABLE: kill_at})
    out, said = process.communicate()
    assert process.returncode == 0, said
    assert json.loads(out)["model"] == row.digest
    assert [point for point, marker in markers.items() if not marker.exists()] == []
    row.points, row.kills = len(points), len(points)
    until(lambda: not processes(where / "run"), "no process is left")


def test_l2_unkillable_nodes(tmp_path: Path, whole: dict[str, str], matrix: Matrix) -> None:
    row = Row("zoo", "replay", "daemons, a worker", 0, digest=whole["zoo"])
    with timed(row):
        nodes_killed_at(
            ["worker:handled", "daemon:written", "daemon:delivered"], "zoo", tmp_path, row
        )
    matrix(row)


@pytest.mark.slow
@pytest.mark.parametrize("name", APPS)
@pytest.mark.parametrize("turn", range(len(IN_WORKER)))
def test_l2_unkillable_nodes_at_any_point(
    tmp_path: Path, whole: dict[str, str], matrix: Matrix, name: str, turn: int
) -> None:
    """A worker that dies twice over an order has failed, so each run kills but one of them."""
    points = [IN_WORKER[turn], *IN_DAEMON[turn :: len(IN_WORKER)]]
    said = ", ".join(point.partition(":")[2] for point in points)
    row = Row(name, "replay", f"nodes: {said}", 0, digest=whole[name])
    with timed(row):
        nodes_killed_at(points, name, tmp_path, row)
    matrix(row)


# --- anything, at any time --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_l2_unkillable_anything_at_any_time(
    tmp_path: Path, whole: dict[str, str], matrix: Matrix, seed: int
) -> None:
    """Daemons and workers at random, and the coordinator now and then, until the run has ended."""
    place, draw = tmp_path / "run", random.Random(seed)
    row = Row("zoo", "replay", f"anything, any time ({seed})", 0, digest=whole["zoo"])
    with timed(row):
        for _ in range(4):
            process = start("zoo", place)
            row.kills += killed_at_random(process, place, draw)
            process.communicate()
            until(lambda: not processes(place), "the nodes end with the coordinator")
        with no_process_left(place):
            assert finished("zoo", place, "--processes")["model"] == row.digest
    row.points = row.kills
    assert row.kills >= 4
    matrix(row)


def killed_at_random(process: subprocess.Popen[str], place: Path, draw: random.Random) -> int:
    """Two nodes' processes, then the coordinator, each some time after the one before, if they live."""
    killed = 0
    for victims in (NODE, NODE, ""):
        try:
            process.wait(timeout=draw.uniform(0.3, 1.2))
            return killed
        except subprocess.TimeoutExpired:
            living = processes(place, victims) if victims else [process.pid]
            if living:
                kill(draw.choice(living))
                killed += 1
    return killed
