"""`benchmarks/rounds.py` on a small scale."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROUNDS = Path(__file__).parents[2] / "benchmarks" / "rounds.py"


def test_it_prints_one_json_object() -> None:
    done = subprocess.run(
        [sys.executable, ROUNDS, "--sites", "2", "--mb", "0.1", "--rounds", "3", "--skip-flower"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    own = result["barnraise"]
    assert own["rounds"] == 1
    assert min(own["median seconds a round"], own["median seconds until a batch is closed"]) > 0
    assert own["peak MB"].keys() == {"coordinator", "node", "worker"}
    assert own["bytes kept a round"] > 0.1 * 2**20
    floor = result["floor, seconds a round"]
    assert {"fetch over TLS", "deliver over TLS"} < floor.keys()
    assert all(seconds > 0 for seconds in floor.values())
    assert "flower" not in result
