"""Local work: the loop, the learning rate, the optimizer's state from round to round."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from barnraise.client.app import load_inner, save_inner
from barnraise.client.tasks import Split
from barnraise.client.training import Inner, draw, evaluate, learning_rate, train
from barnraise.protocols import progress
from barnraise.protocols.charter import TrainingSection


class Line:
    """y = 2x - 1, by least squares."""

    def model(self) -> nn.Module:
        torch.manual_seed(3)
        return nn.Linear(1, 1)

    def data(self, directory: Path) -> Split:
        x = torch.linspace(-1, 1, 41).unsqueeze(1)
        return Split(TensorDataset(x, 2 * x - 1), TensorDataset(x[::2], 2 * x[::2] - 1))

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    def metrics(self, model: nn.Module, batch: list[Tensor]) -> Mapping[str, float]:
        return {"error": (model(batch[0]) - batch[1]).abs().mean().item()}


TASK = Line()
DATA = TASK.data(Path())


def plan(**changes: object) -> TrainingSection:
    options = {"steps": 60, "lr": 0.1, "warmup": 5, "batch": 8, "weight_decay": 0.0}
    return TrainingSection.model_validate({**options, **changes})


def weights(model: nn.Module) -> list[float]:
    return [p for t in model.parameters() for p in t.flatten().tolist()]


def test_training_learns() -> None:
    model = TASK.model()
    before = evaluate(TASK, model, DATA.held_out)["loss"]
    torch.manual_seed(0)
    worked = train(TASK, model, DATA.train, plan(), Inner(), (0.0, 0.5))
    assert worked.steps == 60
    assert evaluate(TASK, model, DATA.held_out)["loss"] < before / 20


def test_on_one_thread_the_same_seed_gives_the_same_bytes() -> None:
    ends = []
    for _ in range(2):
        torch.manual_seed(5)
        model = TASK.model()
        train(TASK, model, DATA.train, plan(), Inner(), (0.0, 1.0))
        ends.append(weights(model))
    assert ends[0] == ends[1]


def test_the_inner_optimizer_goes_on_where_the_last_round_ended() -> None:
    """Two rounds with the state put away between them are one round of both their steps."""
    whole, halves = TASK.model(), TASK.model()
    torch.manual_seed(1)
    train(TASK, whole, DATA.train, plan(steps=40, decay=0.0), Inner(), (0.0, 1.0))
    torch.manual_seed(1)
    inner = Inner()
    for span in ((0.0, 0.5), (0.5, 1.0)):
        train(TASK, halves, DATA.train, plan(steps=20, decay=0.0), inner, span)
        inner = load_inner(save_inner(inner))
    assert inner.steps == 40
    assert weights(whole) == weights(halves)


def test_a_fresh_optimizer_each_round_is_not_the_same() -> None:
    whole, halves = TASK.model(), TASK.model()
    torch.manual_seed(1)
    train(TASK, whole, DATA.train, plan(steps=40, decay=0.0), Inner(), (0.0, 1.0))
    torch.manual_seed(1)
    for span in ((0.0, 0.5), (0.5, 1.0)):
        train(TASK, halves, DATA.train, plan(steps=20, decay=0.0), Inner(), span)
    assert weights(whole) != weights(halves)


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    section = plan(warmup=10, decay=0.25, lr=0.4)
    assert learning_rate(section, 0, 0.0) == pytest.approx(0.04)
    assert learning_rate(section, 9, 0.1) == pytest.approx(0.4)
    assert learning_rate(section, 500, 0.75) == pytest.approx(0.4)
    assert learning_rate(section, 500, 0.875) == pytest.approx(0.2)
    assert learning_rate(section, 500, 1.0) == 0.0
    assert learning_rate(plan(warmup=0, decay=0.0, lr=0.4), 0, 1.0) == 0.4


def test_work_counted_in_minutes_ends_by_the_clock_and_takes_a_step_at_least() -> None:
    seconds = count(0.0, 1.0)
    model = TASK.model()
    section = plan(steps=None, minutes=0.5)
    worked = train(TASK, model, DATA.train, section, Inner(), (0.0, 1.0), lambda: next(seconds))
    assert 10 <= worked.steps <= 30
    late = iter([0.0, 1e9, 1e9, 1e9])
    worked = train(TASK, model, DATA.train, section, Inner(), (0.0, 1.0), lambda: next(late))
    assert worked.steps == 1


def test_evaluation_is_the_mean_over_examples_whatever_the_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = TASK.model()
    whole = evaluate(TASK, model, DATA.held_out)
    monkeypatch.setattr("barnraise.client.training.EVALUATION_BATCH", 4)
    assert evaluate(TASK, model, DATA.held_out) == pytest.approx(whole, rel=1e-6)
    assert set(whole) == {"loss", "error"}


def test_batches_are_drawn_with_replacement_from_all_of_the_data() -> None:
    torch.manual_seed(0)
    x, y = draw(DATA.train, 4000)
    assert x.shape == (4000, 1)
    assert len(set(x.flatten().tolist())) == 41
    assert torch.equal(y, 2 * x - 1)


def test_training_tells_how_far_it_is() -> None:
    heard: list[tuple[str, int, int]] = []
    with progress.listening(lambda *said: heard.append(said)):
        train(TASK, TASK.model(), DATA.train, plan(steps=3), Inner(), (0.0, 1.0))
        evaluate(TASK, TASK.model(), DATA.held_out)
    assert heard[:3] == [("training step", i, 3) for i in (1, 2, 3)]
    assert heard[-1] == ("evaluating", 21, 21)
