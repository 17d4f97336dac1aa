"""A charter's run and its directory: whose data, which keys, what is damaged, what is not finite."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from barnraise.builtin import charter_plan, data_digest
from barnraise.coordinator import events
from barnraise.coordinator.history import history
from barnraise.coordinator.simulate import Outcome, execute, replay
from barnraise.protocols.errors import BarnraiseError

CHARTER = """
name = "flowers"
[task]
name = "classification"
features = 4
classes = 3
hidden = [4]
[training]
steps = 2
batch = 8
lr = 0.02
[strategy]
name = "diloco"
[rounds]
count = 2
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for i, name in enumerate(("basel", "geneva")):
        rng = np.random.default_rng(i)
        (tmp_path / "data" / name).mkdir(parents=True)
        np.savez(
            tmp_path / "data" / name / "rows.npz",
            x=rng.standard_normal((20, 4)),
            y=rng.integers(0, 3, 20),
        )
    return tmp_path / "data"


@pytest.fixture
def charter(tmp_path: Path) -> Path:
    (tmp_path / "charter.toml").write_text(CHARTER)
    return tmp_path / "charter.toml"


def run(charter: Path, data: Path, directory: Path | None, **options: object) -> Outcome:
    return execute(charter_plan(charter, data, {}), directory, **options)  # type: ignore[arg-type]


def told(code: str, act: Callable[[], object]) -> BarnraiseError:
    with pytest.raises(BarnraiseError) as caught:
        act()
    assert caught.value.code == code, str(caught.value)
    return caught.value


class Killed(BaseException):
    """Stands for SIGKILL."""


def killed_after(index: int) -> Callable[[str, int], None]:
    def failpoint(moment: str, entry: int) -> None:
        if (moment, entry) == ("after", index):
            raise Killed

    return failpoint


def test_a_run_goes_on_with_the_data_with_which_it_began(
    charter: Path, data: Path, tmp_path: Path
) -> None:
    """Another place of the same data is the same; a byte of one member's is another run."""
    with pytest.raises(Killed):
        run(charter, data, tmp_path / "d", failpoint=killed_after(9))
    moved = data.rename(tmp_path / "elsewhere")
    (moved / "basel" / ".hidden").write_text("of no account")
    rows = moved / "geneva" / "rows.npz"
    good = rows.read_bytes()
    np.savez(rows, x=np.ones((20, 4)), y=np.zeros(20, np.int64))
    error = told("D101", lambda: run(charter, moved, tmp_path / "d"))
    assert error.evidence == "data of geneva: not those with which the run began"
    rows.write_bytes(good)
    outcome = run(charter, moved, tmp_path / "d")
    assert outcome.resumed and outcome.model == run(charter, moved, None).model
    shutil.rmtree(moved)
    assert replay(tmp_path / "d").model == outcome.model


def test_a_members_data_are_named_by_path_and_contents(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "a.txt"
    file.write_text("one")
    seen = {data_digest(tmp_path)}
    for change in (
        lambda: file.write_text("two"),
        lambda: file.rename(tmp_path / "a.txt"),
        lambda: (tmp_path / "b.txt").write_text(""),
    ):
        change()
        assert data_digest(tmp_path) not in seen
        seen.add(data_digest(tmp_path))
    whole, by_time = data_digest(tmp_path), data_digest(tmp_path, whole=2)
    (tmp_path / "b.txt").touch()
    assert data_digest(tmp_path) == whole != by_time
    assert data_digest(tmp_path, whole=2) != by_time


def test_what_differs_is_told_by_key(charter: Path, data: Path, tmp_path: Path) -> None:
    run(charter, data, tmp_path / "d")
    charter.write_text(CHARTER.replace("steps = 2", "steps = 3") + "quorum = 1\n")
    assert told("D101", lambda: run(charter, data, tmp_path / "d")).evidence.splitlines() == [
        "charter: rounds.quorum: the directory has none, this command 1",
        "charter: training.steps: the directory has 2, this command 3",
    ]
    charter.write_text(CHARTER + "# a remark\n")
    assert "comments" in told("D101", lambda: run(charter, data, tmp_path / "d")).evidence
    charter.write_text(CHARTER)
    plan = charter_plan(charter, data, {}, 7)
    error = told("D101", lambda: execute(plan, tmp_path / "d"))
    assert error.evidence == "seed: the directory has 0, this command 7"


@pytest.mark.parametrize("garbage", ["", "not TOML [", CHARTER.replace("flowers", "weeds")])
def test_a_damaged_copy_of_the_app_is_told_at_replay_and_written_again(
    charter: Path, data: Path, tmp_path: Path, garbage: str
) -> None:
    first = run(charter, data, tmp_path / "d")
    copy = tmp_path / "d" / "app" / "charter.toml"
    copy.write_text(garbage)
    assert str(copy.parent) in told("D106", lambda: replay(tmp_path / "d")).what
    again = run(charter, data, tmp_path / "d")
    assert again.finished_before and "copy of the app" in again.problems[0]
    assert copy.read_text() == CHARTER and replay(tmp_path / "d").model == first.model


def test_a_description_with_another_seed_is_damage_at_replay(
    charter: Path, data: Path, tmp_path: Path
) -> None:
    run(charter, data, tmp_path / "d")
    source = tmp_path / "d" / "source.json"
    source.write_text(source.read_text().replace('"seed": 0', '"seed": 1'))
    assert "seed" in told("D106", lambda: replay(tmp_path / "d")).evidence


def test_a_step_to_infinity_is_not_taken_and_said(
    charter: Path, data: Path, tmp_path: Path
) -> None:
    charter.write_text(CHARTER.replace('"diloco"', '"diloco"\nlr = 1e300'))
    seen: list[events.Event] = []
    outcome = run(charter, data, tmp_path / "d", watcher=seen.append)
    rounds = history(tmp_path / "d")
    assert {r.model for r in rounds} == {outcome.model}
    assert [r.report["void"] for r in rounds[1:]] == [True, True]
    why = rounds[1].report["why"]
    assert why == "every reply is finite and the next model is not: the model stays"
    assert outcome.problems == (f"round 1: {why}", f"round 2: {why}")
    assert outcome.fault is None
    model = load_file(tmp_path / "d" / "model.safetensors")
    assert all(np.isfinite(array).all() for array in model.values())
    assert replay(tmp_path / "d").model == outcome.model
