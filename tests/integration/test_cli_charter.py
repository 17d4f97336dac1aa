"""A charter through the real command: one member per sub-directory of one's own data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

CHARTER = """
name = "letters"
licence = "Apache-2.0"

[task]
name = "causal-lm"
context = 16
width = 16
layers = 1
heads = 1

[training]
steps = 3
batch = 4
lr = 0.01

[strategy]
name = "fedavg"

[rounds]
count = 2
"""


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    (tmp_path / "charter.toml").write_text(CHARTER)
    for member in ("basel", "geneva"):
        for i in range(12):
            path = tmp_path / "data" / member / f"letter-{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"Dear neighbour, this is letter {i} from {member}. " * 8)
    return tmp_path


def test_a_charter_runs_shows_its_rounds_and_replays(barnraise: Command, letters: Path) -> None:
    ran = barnraise("sim", "run", "charter.toml", "--data", "data", "--dir", "d")
    assert ran.code == 0, ran.err
    assert ran.out == ""
    rows = [line for line in ran.err.splitlines() if line.startswith("round")]
    assert [row.split(" · ")[0] for row in rows] == ["round 0/2", "round 1/2", "round 2/2"]
    assert all(" · basel geneva" in row and " → " in row for row in rows[1:])
    assert "batch" not in rows[-1]
    model = hashlib.sha256((letters / "d" / "model.safetensors").read_bytes()).hexdigest()
    assert f"digest  sha256:{model}" in ran.err
    replayed = barnraise("sim", "replay", "d", "--json")
    assert replayed.code == 0, replayed.err
    assert replayed.object["model"] == f"sha256:{model}"


def test_a_charter_that_cannot_be_run(barnraise: Command, letters: Path) -> None:
    cases = {
        "C101": ("missing.toml", "--data", "data"),
        "D201": ("charter.toml", "--data", "nowhere"),
    }
    for code, arguments in cases.items():
        ran = barnraise("sim", "run", *arguments)
        assert f"error[{code}]" in ran.err, ran.err
        assert "\nnext: " in ran.err
        assert "Traceback" not in ran.err
        assert ran.code == 1
