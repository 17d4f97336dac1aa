"""`benchmarks/learning.py` on a small scale, and the page that is made of its results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from barnraise.protocols.codecs import CODECS

ROOT = Path(__file__).parents[2]
LEARNING, DOCS = ROOT / "benchmarks" / "learning.py", ROOT / "docs"


@pytest.fixture(scope="module")
def results() -> Any:
    done = subprocess.run(
        [sys.executable, LEARNING, "--quick"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
    )
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


@pytest.mark.slow
def test_scaffold_needs_the_fewest_rounds(results: Any) -> None:
    (cells,) = results["scaffold"]["similarity"].values()
    rounds = {m: min(c["rounds"][0] for c in by_epochs.values()) for m, by_epochs in cells.items()}
    assert rounds["scaffold"] < rounds["fedavg"] < rounds["sgd"]


@pytest.mark.slow
def test_codecs_save_what_they_promise_and_int8_costs_nothing(results: Any) -> None:
    rows = results["codecs"]["rows"]
    assert list(rows) == ["whole model", *CODECS]
    sizes = [row["bytes"] for row in rows.values()]
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    losses = {name: row["loss"][0] for name, row in rows.items()}
    assert losses["int8"] == pytest.approx(losses["whole model"], abs=0.05)


@pytest.mark.slow
def test_one_attack_ends_the_mean_and_not_the_robust_rule(results: Any) -> None:
    found = results["robust"]["accuracy"]
    assert found["mean"]["IPM 10"][0] < 0.3
    assert found["NNM + trimmed mean"]["IPM 10"][0] > 0.6


@pytest.mark.slow
def test_diloco_sends_a_tenth_at_ten_steps(results: Any) -> None:
    whole, *others = results["diloco"]["rows"].values()
    assert others
    for row in others:
        assert 9.5 < whole["up"] / row["up"] < 10.5
        assert row["seconds"]["1"] < 0.2 * whole["seconds"]["1"]


def test_the_pages_tables_are_made_of_the_results_beside_it(tmp_path: Path) -> None:
    for name in ("learning.md", "learning.json"):
        (tmp_path / name).write_text((DOCS / name).read_text())
    sys.path.insert(0, str(LEARNING.parent))
    from trials import pages

    results = json.loads((DOCS / "learning.json").read_text())
    assert set(results) == {"scaffold", "robust", "diloco", "codecs"}
    page = (DOCS / "learning.md").read_text()
    assert pages.with_tables(page, results) == page
    for name in results:
        assert f"learning-{name}.svg" in page
        assert (DOCS / f"learning-{name}.svg").is_file()
