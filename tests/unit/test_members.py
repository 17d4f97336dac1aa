"""The member's half of the methods: FedProx's pull, SCAFFOLD's variates, the bound on an update's norm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from barnraise.client.app import load_inner, save_inner
from barnraise.client.partners import Pull, Variates
from barnraise.client.tasks import Split
from barnraise.client.training import Inner, train
from barnraise.client.updates import bounded, update
from barnraise.protocols.charter import TrainingSection


class Line:
    """y = 2x - 1, by least squares."""

    def model(self) -> nn.Module:
        torch.manual_seed(3)
        return nn.Linear(1, 1)

    def data(self, directory: Path) -> Split:
        x = torch.linspace(-1, 1, 41).unsqueeze(1)
        return Split(TensorDataset(x, 2 * x - 1), TensorDataset(x, 2 * x - 1))

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    def metrics(self, model: nn.Module, batch: list[Tensor]) -> Mapping[str, float]:
        return {}


TASK = Line()
DATA = TASK.data(Path()).train


def plan(**changes: object) -> TrainingSection:
    options: dict[str, object] = {
        "steps": 7,
        "lr": 0.05,
        "optimizer": "sgd",
        "warmup": 0,
        "decay": 0.0,
        "clip": 1e9,
    }
    return TrainingSection.model_validate({**options, **changes})


def trained(section: TrainingSection, *partners: Any) -> nn.Module:
    model = TASK.model()
    torch.manual_seed(1)
    train(TASK, model, DATA, section, Inner(), (0.0, 1.0), partners=partners)
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum(float((a - b).detach().norm()) for a, b in pairs)


# --- FedProx ------------------------------------------------------------------------------------------


def test_the_pull_is_the_gradient_of_the_proximal_term() -> None:
    model = TASK.model()
    pull = Pull(model, mu=0.7)
    anchors = weights(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5
    loss = TASK.loss(model, [torch.ones(3, 1), torch.zeros(3, 1)])
    loss.backward()  # type: ignore[no-untyped-call]
    pull.adjust(model)
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    term = sum(((p - anchors[n]) ** 2).sum() for n, p in model.named_parameters())
    loss = TASK.loss(model, [torch.ones(3, 1), torch.zeros(3, 1)]) + 0.35 * term
    loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(got[name], parameter.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_stronger_the_pull_the_nearer_a_member_stays(optimizer: str) -> None:
    start = TASK.model()
    went = [
        distance(start, trained(plan(optimizer=optimizer, steps=40, proximal=mu)))
        for mu in (0.0, 1.0, 8.0)
    ]
    assert went[0] > 1.1 * went[1] > 1.1 * went[2] > 0


# --- SCAFFOLD -----------------------------------------------------------------------------------------


def test_the_variate_is_the_papers_second_option_under_sgd() -> None:
    """c_i+ = c_i - c + (x - y) / (K * lr), equation (4) of 1910.06378."""
    start = weights(TASK.model())
    c = {name: torch.full_like(p, 0.3) for name, p in start.items()}
    own = {name: torch.full_like(p, -0.2) for name, p in start.items()}
    variates = Variates(c, own)
    end = weights(trained(plan(), variates))
    for name, after in variates.own().items():
        expected = own[name] - c[name] + (start[name] - end[name]) / (7 * 0.05)
        assert torch.allclose(after, expected, atol=1e-5)


def test_equal_variates_change_nothing_and_a_shift_adds_up() -> None:
    c = {name: torch.full_like(p, 0.3) for name, p in weights(TASK.model()).items()}
    plain = trained(plan())
    assert distance(plain, trained(plan(), Variates(c, c))) < 1e-5
    one_step = plan(steps=1)
    shifted = trained(one_step, Variates(c, {}))
    moved = {
        n: p - q
        for (n, p), q in zip(weights(trained(one_step)).items(), shifted.parameters(), strict=True)
    }
    assert all(torch.allclose(m, torch.full_like(m, 0.05 * 0.3), atol=1e-6) for m in moved.values())


def test_frozen_parameters_have_no_variate() -> None:
    model = TASK.model()
    model.get_parameter("bias").requires_grad_(False)
    variates = Variates({n: torch.ones_like(p) for n, p in weights(model).items()}, {})
    train(TASK, model, DATA, plan(), Inner(), (0.0, 1.0), partners=[variates])
    assert set(variates.own()) == {"weight"}


# --- the inner optimizer --------------------------------------------------------------------------------


def test_sgd_keeps_its_count_of_steps_and_nothing_else() -> None:
    inner = Inner()
    train(TASK, TASK.model(), DATA, plan(), inner, (0.0, 1.0))
    again = load_inner(save_inner(inner))
    assert (again.steps, again.moments) == (7, {})


# --- what is sent ---------------------------------------------------------------------------------------

values = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(values, min_size=1, max_size=20),
    st.lists(values, min_size=1, max_size=20),
    st.floats(1e-3, 1e7),
)
def test_an_update_is_never_longer_than_the_bound_and_keeps_its_direction(
    one: list[float], other: list[float], norm: float
) -> None:
    n = min(len(one), len(other))
    base = {"w": np.array(one[:n]), "seen": np.array(3)}
    model = {"w": np.array(other[:n]), "seen": np.array(4)}
    sent = bounded(model, base, norm)
    delta, whole = sent["w"] - base["w"], model["w"] - base["w"]
    slack = 1e-9 * (np.abs(base["w"]).max() + 1)
    length = np.linalg.norm(whole)
    assert np.linalg.norm(delta) <= norm + slack * n
    if length <= norm:
        assert np.array_equal(sent["w"], model["w"])
    else:
        assert np.allclose(delta, whole * (norm / length), atol=slack)
    assert sent["seen"] == 4


def test_the_norm_is_that_of_all_arrays_together() -> None:
    base = {"a": np.zeros(2, np.float32), "b": np.zeros((1, 1), np.float16)}
    model = {"a": np.array([2, 1], np.float32), "b": np.full((1, 1), 2, np.float16)}
    sent = bounded(model, base, 1.5)
    assert sent["a"].tolist() == [1.0, 0.5]
    assert sent["b"].dtype == np.float16
    assert sent["b"].tolist() == [[1.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_is_not_finite_stays_so(bad: float) -> None:
    base = {"w": np.zeros(3, np.float32)}
    model = {"w": np.array([1, bad, 2], np.float32)}
    assert not np.isfinite(bounded(model, base, 0.5)["w"]).all()


def test_the_bound_comes_before_the_coding() -> None:
    base = {"w": np.zeros(300, np.float32)}
    model = {"w": np.linspace(0, 9, 300, dtype=np.float32)}
    sent, residual = update(plan(update_norm=2.0, codec="fp32"), model, base, {})
    assert np.linalg.norm(sent["v/w"]) == pytest.approx(2.0, rel=1e-6)
    assert residual == {}
    sent, residual = update(plan(), model, base, {})
    assert sent is model
