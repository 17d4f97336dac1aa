"""A directory is put back to an older state, and its nodes are not: they stop, and the run says why."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "benchmarks" / "apps" / "flower_round"


def run(place: Path, kill_at: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "barnraise", "sim", "run", str(APP), "--sites", "3"]
    command += ["--processes", "--json", "--dir", str(place), "-c", "rounds=4 mb=0.1 nodes=3"]
    env = {**os.environ, "BARNRAISE_KILL_AT": kill_at}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.mark.slow
def test_a_log_that_went_back_ends_the_run_with_its_evidence(tmp_path: Path) -> None:
    place, older = tmp_path / "run", tmp_path / "older"
    assert run(place, "after:12").returncode < 0
    shutil.copytree(place, older, ignore=shutil.ignore_patterns("nodes", "incoming"))
    assert run(place, "after:20").returncode < 0
    shutil.move(place / "nodes", older / "nodes")
    done = run(older)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "N311"
    assert list(older.glob("nodes/*/evidence/report.json"))
