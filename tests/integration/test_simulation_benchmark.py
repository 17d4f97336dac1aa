"""`benchmarks/simulation.py` on a small scale, and the reference app that it times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from barnraise.testing import Federation

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ("--sites", "3", "--mb", "0.05", "--rounds", "2", "--repeats", "1")


def simulation(*options: str) -> Any:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "simulation.py", *SMALL, *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


@pytest.mark.parametrize("distinct", [False, True])
def test_it_prints_one_json_object(distinct: bool) -> None:
    result = simulation(*["--distinct"] * distinct)
    assert result["distinct replies"] is distinct
    assert (result["sites"], result["rounds"], result["repeats"]) == (3, 2, 1)
    for times in ("seconds a round", "times the floor"):
        assert result[times].keys() == {"with a directory", "without"}
        assert all(value > 0 for value in result[times].values())
    assert result["floor seconds a round"].keys() == {"hash", "write", "write and fsync"}
    assert "flower" not in result


def test_it_says_that_ray_is_not_there(tmp_path: Path) -> None:
    """A module of that name that cannot be found by its spec stands for a machine without Ray."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ray'] = None\n")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "simulation.py", *SMALL, "--flower"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "not installed" in json.loads(done.stdout)["flower"]["missing"]


def test_the_reference_app_adds_a_hundredth_a_round(tmp_path: Path) -> None:
    app = BENCHMARKS / "apps" / "flower_round"
    config = {"nodes": 3, "rounds": 2, "mb": 0.05}
    run = Federation(3).run_directory(app, config, directory=tmp_path)
    elements = int(0.05 * 2**18 / 16)
    assert len(run.model) == 16
    for number in range(16):
        start = np.random.default_rng(number).standard_normal(elements, dtype=np.float32)
        np.testing.assert_allclose(run.model[str(number)], start + np.float32(0.02), atol=1e-6)
    assert [len(b.accepted) for b in run.rounds] == [3, 3]
