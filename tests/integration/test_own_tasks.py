"""Tasks of one's own beside a charter: part of the app, and held to their promises before the start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from barnraise.builtin import charter_plan
from barnraise.coordinator.history import history
from barnraise.coordinator.simulate import Outcome, execute, replay
from barnraise.protocols.errors import BarnraiseError

OWN = """
[task]
name = "halves:Halves"
noise = 0.5
[training]
steps = 5
[rounds]
count = 2
"""
HALVES = '''
"""Which half of the line a number is in."""
from itertools import pairwise
from pathlib import Path
import torch
from torch import nn
from barnraise.client.tasks import Split
from torch.utils.data import TensorDataset

class Halves:
    def __init__(self, noise: float = 0.1):
        self.noise = noise
    def model(self):
        return nn.Linear(1, 1)
    def data(self, directory: Path):
        x = torch.tensor([float(v) for v in (directory / "numbers.txt").read_text().split()])[:, None]
        return Split(TensorDataset(x[5:], (x[5:] > 0).float()), TensorDataset(x[:5], (x[:5] > 0).float()))
    def loss(self, model, batch):
        return nn.functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])
    def metrics(self, model, batch):
        return {"right": ((model(batch[0]) > 0) == (batch[1] > 0)).float().mean().item()}
'''


def run(charter: Path, data: Path, directory: Path | None = None) -> Outcome:
    return execute(charter_plan(charter, data, {}), directory)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "halves.py").write_text(HALVES)
    (tmp_path / "charter.toml").write_text('name = "halves"\n' + OWN)
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "numbers.txt").write_text(" ".join(map(str, range(-20, 20))))
    return tmp_path / "charter.toml"


def test_a_task_of_ones_own_is_part_of_the_apps_digest(own: Path, tmp_path: Path) -> None:
    first = run(own, tmp_path / "data", tmp_path / "run")
    assert history(tmp_path / "run")[-1].report["after"].keys() == {"loss", "right"}
    assert replay(tmp_path / "run").model == first.model
    (tmp_path / "halves.py").write_text(HALVES + "# another\n")
    with pytest.raises(BarnraiseError) as caught:
        run(own, tmp_path / "data", tmp_path / "run")
    assert caught.value.code == "D101"
    assert first.app in str(caught.value)


def test_a_task_may_use_nothing_beside_its_own_file(own: Path, tmp_path: Path) -> None:
    """What is not in the app's digest would run unseen."""
    (tmp_path / "beside.py").write_text("value = 3\n")
    (tmp_path / "halves.py").write_text("import beside\n" + HALVES)
    with pytest.raises(BarnraiseError) as caught:
        run(own, tmp_path / "data", tmp_path / "run")
    assert caught.value.code == "C105"
    assert "beside" in str(caught.value)


BREAKS = {
    "data() for one raised ValueError: bad luck\n  at halves.py:": (
        "x = torch",
        "raise ValueError('bad luck')\n        x = torch",
    ),
    "data() returns None, not a": ("return Split", "Split"),
    "data() returns a held_out without examples": ("x[:5], (x[:5]", "x[:0], (x[:0]"),
    "model() returns a int, not a torch.nn.Module": ("return nn.Linear(1, 1)", "return 3"),
    "model() returns a module without parameters": ("return nn.Linear(1, 1)", "return nn.ReLU()"),
    "model() raised RuntimeError: no\n  at halves.py:": (
        "return nn.Linear(1, 1)",
        "raise RuntimeError('no')",
    ),
    "loss() on data of one raised KeyError: 'k'\n  at halves.py:": (
        "return nn.functional",
        "{}['k']\n        return nn.functional",
    ),
    "loss() returns a float, not a scalar tensor": (
        "batch[1])\n    def m",
        "batch[1]).item()\n    def m",
    ),
    "loss() returns a tensor of float32, shape (8, 1), not": (
        "batch[1])\n    def m",
        "batch[1], reduction='none')\n    def m",
    ),
    "loss() returns a tensor without a gradient": (
        "batch[1])\n    def m",
        "batch[1]).detach()\n    def m",
    ),
    "loss() returns inf on data of one": ("batch[1])\n    def m", "batch[1]) / 0\n    def m"),
    "metrics() returns a Tensor as 'right', not a number; its .item()": (
        ".mean().item()",
        ".mean()",
    ),
    "metrics() returns a str as 'right', not a number": (
        ".mean().item()}",
        ".mean().dtype.__str__()}",
    ),
    "metrics() returns None, not a dict": ("return {", "{"),
    "metrics() returns the key 'loss', which is no free name": ('"right"', '"loss"'),
    "metrics() returns the key 'num-examples', which is no free": ('"right"', '"num-examples"'),
    "it cannot be made: ValueError: never\n  at halves.py:": (
        "self.noise = noise",
        "raise ValueError('never')",
    ),
}


@pytest.mark.parametrize("said", BREAKS)
def test_a_task_of_ones_own_that_keeps_no_promise_is_told_so_before_the_start(
    own: Path, tmp_path: Path, said: str
) -> None:
    old, new = BREAKS[said]
    assert old in HALVES
    (tmp_path / "halves.py").write_text(HALVES.replace(old, new))
    (tmp_path / "charter.toml").write_text(
        own.read_text().replace("steps = 5", "steps = 5\nbatch = 8")
    )
    with pytest.raises(BarnraiseError) as caught:
        run(own, tmp_path / "data", tmp_path / "run")
    assert caught.value.code == "C105"
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_task_of_ones_own_of_an_absurd_size_is_not_allocated(own: Path, tmp_path: Path) -> None:
    (tmp_path / "halves.py").write_text(HALVES.replace("Linear(1, 1)", "Linear(10**8, 10**8)"))
    with pytest.raises(BarnraiseError) as caught:
        run(own, tmp_path / "data")
    assert caught.value.code == "C104"
    assert "[task]" in caught.value.what


def test_what_a_task_of_ones_own_returns_is_checked_in_every_round(
    own: Path, tmp_path: Path
) -> None:
    (tmp_path / "halves.py").write_text(
        HALVES.replace("def model(self):", "calls = 0\n    def model(self):").replace(
            "        return {",
            "        Halves.calls += 1\n        return 3 if Halves.calls > 4 else {",
        )
    )
    outcome = run(own, tmp_path / "data", tmp_path / "run")
    assert any("C105" in problem for problem in outcome.problems)


def test_a_trial_changes_nothing_in_the_run(own: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    charter_plan(own, tmp_path / "data", {})
    after = torch.rand(1)
    torch.manual_seed(3)
    assert after == torch.rand(1)


def test_a_task_that_raises_only_in_training_is_to_be_mended(own: Path, tmp_path: Path) -> None:
    """Only batches of a trial are as small as the data."""
    (tmp_path / "halves.py").write_text(
        HALVES.replace(
            "        return nn.f", "        len(batch[0]) > 40 and {}['k']\n        return nn.f"
        )
    )
    own.write_text(own.read_text().replace("steps = 5", "steps = 5\nbatch = 60"))
    with pytest.raises(BarnraiseError) as caught:
        run(own, tmp_path / "data", tmp_path / "run")
    assert caught.value.code == "A204"
    assert "the charter or its task" in caught.value.next
    assert "ClientApp" not in str(caught.value)
