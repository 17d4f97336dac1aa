"""The thin app of `deploy/flower` on Flower's own engines, as processes of this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest
from flower_engine import APP, PROGRAMS, Engine, engine, until
from flower_kit import charter, data

from barnraise.builtin import charter_plan
from barnraise.coordinator.log import Log
from barnraise.coordinator.log_check import check_log
from barnraise.coordinator.simulate import execute
from barnraise.protocols.errors import BarnraiseError

SEED = 7


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A copy of the thin app, with a charter whose members keep nothing between rounds."""
    copy = tmp_path / "app"
    shutil.copytree(APP, copy, ignore=shutil.ignore_patterns("__pycache__"))
    charter(copy, rounds=1)
    return copy


def types(place: Path) -> list[str]:
    """The types of the journal's entries so far."""
    try:
        with closing(Log(place / "journal.db")) as log:
            return [json.loads(entry)["type"] for _, entry in log.entries()]
    except BarnraiseError:
        return []


def simulated(app: Path, rows: Path) -> str:
    return execute(charter_plan(app / "charter.toml", rows, {}, SEED), None).model


def check(place: Path, app: Path, rows: Path, link: Engine) -> None:
    """The record is whole, and the model that of `sim run`: two members, whose draws do not matter."""
    until(lambda: (place / "model.safetensors").exists(), 150.0, link.said)
    found = check_log(place)
    assert found.problems == []
    assert any("replies are unsigned" in fact for fact in found.facts)
    with closing(Log(place / "journal.db")) as log:
        last = [json.loads(entry) for _, entry in log.entries()][-1]
    assert last["type"] == "run.closed" and last["body"]["model"] == simulated(app, rows)


@pytest.mark.slow
@pytest.mark.skipif(
    not (PROGRAMS / "flower-superlink").is_file(), reason="flower-superlink is not beside Python"
)
def test_on_superlink_a_killed_serverapp_goes_on(tmp_path: Path, app: Path) -> None:
    rows, place = data(tmp_path / "data", 2, same=True), tmp_path / "run"
    with engine(tmp_path / "engine") as link:
        for folder in sorted(rows.iterdir()):
            link.node(f'data="{folder}"')
        settings = {"journal": str(place), "nodes": 2, "seed": SEED}
        link.run(app, settings)
        until(lambda: types(place).count("batch.closed") >= 2, 150.0, link.said)
        os.kill(int((place / "lock").read_text()), signal.SIGKILL)
        assert "run.closed" not in types(place)
        link.run(app, settings)
        check(place, app, rows, link)
    assert types(place).count("batch.closed") == 4


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (the extra `sim`)"
)
def test_in_flowers_simulation(tmp_path: Path, app: Path) -> None:
    rows, place = data(tmp_path / "data", 2, same=True), tmp_path / "run"
    with engine(tmp_path / "engine", simulated=2) as link:
        settings = {"journal": str(place), "nodes": 2, "seed": SEED, "data": str(rows)}
        link.run(app, settings)
        check(place, app, rows, link)
