"""Robust rules and outer optimizers from a charter, through the whole engine: learns, seals, resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from barnraise.builtin import charter_plan
from barnraise.coordinator.directory import opened
from barnraise.coordinator.history import history
from barnraise.coordinator.simulate import execute, replay
from barnraise.protocols.errors import BarnraiseError

CHARTER = """
name = "flowers"
[task]
name = "classification"
features = 4
classes = 3
hidden = [8]
[training]
steps = 10
batch = 8
lr = 0.02
warmup = 2
[rounds]
count = 3
[strategy]
"""
MEMBERS = ("basel", "bern", "geneva", "lugano", "zurich")
RULES = {
    "krum": 'name = "krum"',
    "everything": 'name = "multi-krum"\nnorm_bound_median = 2.0\nnnm = 1\nouter = "adam"\nlr = 0.05',
    "mixed median": 'name = "median"\nnnm = 2\nouter = "momentum"\nmomentum = 0.3',
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for i, name in enumerate(MEMBERS):
        rng = np.random.default_rng(i)
        y = rng.integers(0, 3, 40)
        x = np.eye(4)[y] * 3 + rng.standard_normal((40, 4))
        (tmp_path / "data" / name).mkdir(parents=True)
        np.savez(tmp_path / "data" / name / "rows.npz", x=x, y=y)
    return tmp_path / "data"


def charter(tmp_path: Path, strategy: str) -> Path:
    path = tmp_path / "charter.toml"
    path.write_text(CHARTER + strategy)
    return path


class Killed(BaseException):
    """What a failpoint raises: nothing may catch it, as nothing catches SIGKILL."""


def at(index: int) -> Callable[[str, int], None]:
    def failpoint(moment: str, entry: int) -> None:
        if (moment, entry) == ("after", index):
            raise Killed

    return failpoint


@pytest.mark.parametrize("rule", RULES)
def test_it_learns_and_what_was_decided_stands_in_each_seal(
    rule: str, data: Path, tmp_path: Path
) -> None:
    plan = charter_plan(charter(tmp_path, RULES[rule]), data, {})
    outcome = execute(plan, tmp_path / "run")
    start, *rounds = history(tmp_path / "run")
    assert rounds[-1].report["after"]["loss"] < 0.9 * start.report["after"]["loss"]
    for each in rounds:
        decision = each.report["decision"]
        if rule == "krum":
            assert len(decision["selected"]) == 1
            assert decision["selected"][0] in MEMBERS
        elif rule == "everything":
            total = sum(float.fromhex(w) for w in decision["weights"].values())
            assert 0.5 < total <= 1.0 + 1e-12
        else:
            assert decision["members"] == list(MEMBERS)
            assert set(decision["rows"]) == set(MEMBERS)
    assert replay(tmp_path / "run").model == outcome.model


def test_l2_unkillable_the_state_of_an_adaptive_step_is_in_the_seal(
    data: Path, tmp_path: Path
) -> None:
    path = charter(tmp_path, RULES["everything"])
    whole = execute(charter_plan(path, data, {}), tmp_path / "whole")
    with opened(tmp_path / "whole") as place:
        entries = len(place.journal)
    for index in (entries // 2, entries - 4):
        directory = tmp_path / f"killed-{index}"
        with pytest.raises(Killed):
            execute(charter_plan(path, data, {}), directory, failpoint=at(index))
        again = execute(charter_plan(path, data, {}), directory)
        assert again.resumed
        assert again.model == whole.model


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ('name = "krum"\nf = 2', "krum needs 7 members and the federation has 5"),
        ('name = "krum"\nf = 0', "f is 0; it must be an integer, 1 or more"),
        ('name = "krumm"', "there is no strategy 'krumm'"),
        ('name = "median"\nouter = "adamw"', "there is no outer optimizer 'adamw'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    strategy: str, said: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(BarnraiseError) as caught:
        charter_plan(charter(tmp_path, strategy), data, {})
    assert caught.value.code == "C104"
    assert said in caught.value.what


def test_a_quorum_below_what_the_rule_needs_is_refused(data: Path, tmp_path: Path) -> None:
    path = charter(tmp_path, 'name = "krum"')
    path.write_text(path.read_text().replace("count = 3", "count = 3\nquorum = 4"))
    with pytest.raises(BarnraiseError, match=r"rounds\.quorum is 4"):
        charter_plan(path, data, {})
