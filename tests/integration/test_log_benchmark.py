"""`benchmarks/log.py`: on a small scale, and at the length that the design asks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "log.py"


def measured(entries: int, rounds: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, BENCHMARK, str(entries), str(rounds)],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert done.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["entries"] == entries + 2100
    assert (result["checked"]["rounds"], result["checked"]["members"]) == (rounds, 10)
    return result


def test_it_prints_one_json_object() -> None:
    result = measured(3000, 20)
    assert all(value > 0 for value in result.values() if not isinstance(value, dict))
    assert result["checked"]["check_s"] < 5


@pytest.mark.slow
def test_a_million_entries_are_appended_opened_and_proven_in_time() -> None:
    """DESIGN: an inclusion proof under 1 ms, an append under 0.2 ms; with margin for a busy machine."""
    result = measured(1_000_000, 1000)
    assert result["inclusion_ms"] < 1.0
    assert result["append_us"] < 200
    assert result["open_ms"] < 50
    assert result["checked"]["check_s"] < 20
