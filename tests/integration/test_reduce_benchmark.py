"""`benchmarks/reduce.py` on a small scale."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "reduce.py"


def test_it_prints_one_json_object_with_every_rule_asked_for() -> None:
    options = ["--members", "9", "--elements", "40000", "--theirs", "20000", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, BENCHMARK, *options, "--rules", "median,krum"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert (result["members"], result["elements"], result["theirs elements"]) == (9, 40000, 20000)
    assert result["floors"].keys() == {"read", "matmul", "gram"}
    assert list(result["rules"]) == ["median", "krum"]
    for found in result["rules"].values():
        assert found["times the gram pass"] > 0
        for whose in ("barnraise", "flower", "numpy"):
            assert found[whose]["seconds"] > 0
            assert found[whose]["peak MB"] > 0
        assert found["flower"]["scaled by"] == 2
        ratio = found["flower"]["seconds"] / found["barnraise"]["seconds"]
        assert abs(found["times faster than flower"] - ratio) < 0.01 * ratio + 0.01
