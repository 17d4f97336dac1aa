"""Charter runs whose members send updates: coded, bounded, with SCAFFOLD's variates. Whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from barnraise.builtin import charter_plan
from barnraise.coordinator import events
from barnraise.coordinator.directory import opened
from barnraise.coordinator.history import history
from barnraise.coordinator.simulate import Outcome, execute, replay

CHARTER = """
name = "flowers"
[task]
name = "classification"
features = 4
classes = 3
hidden = [512]
[training]
steps = 10
batch = 8
lr = 0.02
warmup = 2
{training}
[strategy]
{strategy}
[rounds]
count = {rounds}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three members, each with 40 rows around three centres of its own choosing."""
    for i, name in enumerate(("basel", "geneva", "zurich")):
        rng = np.random.default_rng(i)
        y = rng.integers(0, 3, 40)
        x = np.eye(4)[y] * 3 + rng.standard_normal((40, 4)) + 0.2 * i
        (tmp_path / "data" / name).mkdir(parents=True)
        np.savez(tmp_path / "data" / name / "rows.npz", x=x, y=y)
    return tmp_path / "data"


def run(
    data: Path,
    directory: Path,
    training: str = "",
    strategy: str = 'name = "fedavg"',
    rounds: int = 3,
    **options: object,
) -> Outcome:
    charter = data.parent / "charter.toml"
    charter.write_text(CHARTER.format(training=training, strategy=strategy, rounds=rounds))
    return execute(charter_plan(charter, data, {}), directory, **options)  # type: ignore[arg-type]


def losses(directory: Path) -> list[float]:
    return [r.report["after"]["loss"] for r in history(directory)]


def sent(directory: Path, **options: object) -> tuple[Outcome, int]:
    """The run's outcome, and how many bytes members sent in its last training round."""
    seen: list[events.Event] = []
    outcome = run(watcher=seen.append, directory=directory, **options)  # type: ignore[arg-type]
    answered = [e for e in seen if isinstance(e, events.Answered)]
    return outcome, max(e.bytes for e in answered[-6:])


def test_every_codec_learns_and_costs_what_it_promises(data: Path, tmp_path: Path) -> None:
    whole, size = sent(tmp_path / "whole", data=data)
    for codec, part in (
        ("fp32", 1.1),
        ("bf16", 0.6),
        ("int8", 0.4),
        ("int4", 0.25),
        ("topk", 0.15),
    ):
        directory = tmp_path / codec
        outcome, bytes_ = sent(directory, data=data, training=f'codec = "{codec}"')
        found = losses(directory)
        assert found[-1] < 0.7 * found[0], codec
        assert found[-1] < losses(tmp_path / "whole")[-1] + (0.25 if codec == "topk" else 0.03)
        assert bytes_ < part * size, codec
        assert not outcome.problems
        assert outcome.model != whole.model
        assert replay(directory).model == outcome.model


class Killed(BaseException):
    """What a failpoint raises: nothing may catch it, as nothing catches SIGKILL."""


def at(index: int) -> Callable[[str, int], None]:
    def failpoint(moment: str, entry: int) -> None:
        if (moment, entry) == ("after", index):
            raise Killed

    return failpoint


@pytest.mark.parametrize(
    ("training", "strategy"),
    [
        ('codec = "int4"', 'name = "diloco"'),
        ('codec = "bf16"\noptimizer = "sgd"', 'name = "scaffold"\nlr = 0.9'),
    ],
)
def test_l2_unkillable_residuals_and_variates_survive(
    data: Path, tmp_path: Path, training: str, strategy: str
) -> None:
    options = {"training": training, "strategy": strategy}
    whole = run(data, tmp_path / "whole", **options)  # type: ignore[arg-type]
    with opened(tmp_path / "whole") as place:
        entries = len(place.journal)
    for index in range(4, entries, 9):
        directory = tmp_path / f"killed-{index}"
        with pytest.raises(Killed):
            run(data, directory, failpoint=at(index), **options)  # type: ignore[arg-type]
        assert run(data, directory, **options).model == whole.model  # type: ignore[arg-type]


def test_scaffold_learns_from_members_that_differ(data: Path, tmp_path: Path) -> None:
    strategy = 'name = "scaffold"'
    run(data, tmp_path / "run", 'optimizer = "sgd"', strategy, rounds=6)
    found = losses(tmp_path / "run")
    assert found[-1] < 0.8 * found[0]
    assert replay(tmp_path / "run")


def test_a_bound_holds_what_members_send(data: Path, tmp_path: Path) -> None:
    """A bound of next to nothing leaves the model next to where it was."""
    run(data, tmp_path / "bound", "update_norm = 1e-6")
    found = losses(tmp_path / "bound")
    assert found[-1] == pytest.approx(found[0], abs=1e-4)


def test_a_strong_pull_holds_members_back(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "free", 'optimizer = "sgd"')
    run(data, tmp_path / "pulled", 'optimizer = "sgd"\nproximal = 40.0')
    assert losses(tmp_path / "pulled")[-1] > losses(tmp_path / "free")[-1] + 0.01
