"""Local work: a torch training loop in steps or in minutes, and evaluation on held-out data.

AdamW, whose state the caller keeps from round to round, or plain SGD. Batches are drawn with
replacement by torch's global generator, which is seeded for each order; so on one thread the same order
gives the same bytes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from barnraise.client.partners import Partner, Pull
from barnraise.client.ranks import Ranks
from barnraise.client.tasks.task import Batch, Task, to_device
from barnraise.protocols import progress
from barnraise.protocols.charter import TrainingSection

EVALUATION_BATCH = 64
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Inner:
    """AdamW's state between rounds: steps taken so far, and its two moments by parameter name."""

    steps: int = 0
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Worked:
    """What one round's local work came to: optimizer steps, and the mean loss over their last tenth."""

    steps: int
    loss: float


def train(
    task: Task,
    model: nn.Module,
    data: Dataset[Any],
    plan: TrainingSection,
    inner: Inner,
    span: tuple[float, float],
    clock: Callable[[], float] = time.monotonic,
    partners: Sequence[Partner] = (),
    ranks: Ranks | None = None,
) -> Worked:
    """Train `model` in place on `data` as `plan` says, from `inner`'s state, which moves on.

    `span` is the part of the whole run that this round is, such as (0.2, 0.3); the learning rate
    follows it. Each of `partners` adjusts every step's gradient; where `plan` has a proximal term, so
    does that. With `ranks` each of several processes takes `plan.batch` examples in a step, and what is
    clipped and adjusted is the mean of their gradients.
    """
    if plan.proximal:
        partners = [*partners, Pull(model, plan.proximal)]
    model.train()
    device = next(model.parameters()).device
    optimizer = _optimizer(model, plan, inner)
    losses: list[float] = []
    for done, part in _ticks(plan, clock if ranks is None else ranks.clock):
        rate = learning_rate(plan, inner.steps, span[0] + part * (span[1] - span[0]))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = task.loss(model, to_device(draw(data, plan.batch, ranks), device))
        loss.backward()  # type: ignore[no-untyped-call]
        mean = loss.item() if ranks is None else ranks.average(model, loss)
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        for partner in partners:
            partner.adjust(model)
        optimizer.step()
        inner.steps += 1
        losses.append(mean)
        _report(plan, done, part)
    inner.moments = _moments(model, optimizer)
    last = losses[-max(1, len(losses) // 10) :]
    return Worked(len(losses), sum(last) / len(last))


def learning_rate(plan: TrainingSection, steps: int, part: float) -> float:
    """At a member's `steps`-th step, `part` of the whole run done: rises, stays, falls to zero."""
    rising = min(1.0, (steps + 1) / plan.warmup) if plan.warmup else 1.0
    falling = min(1.0, (1.0 - part) / plan.decay) if plan.decay else 1.0
    return plan.lr * rising * falling


def _ticks(plan: TrainingSection, clock: Callable[[], float]) -> Iterator[tuple[int, float]]:
    """Step by step: how many are done, and which part of the round; at least one step."""
    if plan.steps is not None:
        for step in range(plan.steps):
            yield step, step / plan.steps
        return
    assert plan.minutes is not None
    started, done = clock(), 0
    while done == 0 or clock() - started < 60 * plan.minutes:
        yield done, min(1.0, (clock() - started) / (60 * plan.minutes))
        done += 1


def _report(plan: TrainingSection, done: int, part: float) -> None:
    if plan.steps is not None:
        progress.report("training step", done + 1, plan.steps)
    else:
        assert plan.minutes is not None
        seconds = round(60 * plan.minutes)
        progress.report("training second", round(part * seconds), seconds)


def draw(data: Dataset[Any], count: int, ranks: Ranks | None = None) -> Batch:
    """A batch of `count` examples, drawn with replacement by torch's global generator.

    With `ranks` this process's part of a batch of `count` for each of them: all draw the same.
    """
    size = len(cast(Any, data))
    rank, of = (0, 1) if ranks is None else (ranks.rank, ranks.size)
    indices: list[int] = torch.randint(size, (count * of,)).tolist()
    indices = indices[rank * count : (rank + 1) * count]
    return default_collate([data[i] for i in indices])


def _optimizer(model: nn.Module, plan: TrainingSection, inner: Inner) -> torch.optim.Optimizer:
    """AdamW with `inner`'s moments, weight decay on matrices only; or SGD, which has neither."""
    if plan.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=plan.lr)
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters.values() if p.dim() >= 2]},
        {"params": [p for p in parameters.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=plan.lr,
        betas=plan.betas,
        weight_decay=plan.weight_decay,
        fused=True,
    )
    for name, parameter in parameters.items():
        if (held := inner.moments.get(name)) is not None:
            moments = {key: held[key].to(parameter.device) for key in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(inner.steps)), **moments}
    return optimizer


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    return {
        name: {key: optimizer.state[parameter][key].cpu() for key in MOMENTS}
        for name, parameter in model.named_parameters()
        if MOMENTS[0] in optimizer.state.get(parameter, ())
    }


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, data: Dataset[Any]) -> Mapping[str, float]:
    """The mean loss and metrics over all of `data`, example by example."""
    model.eval()
    device = next(model.parameters()).device
    size = len(cast(Any, data))
    sums: dict[str, float] = defaultdict(float)
    for start in range(0, size, EVALUATION_BATCH):
        stop = min(start + EVALUATION_BATCH, size)
        batch = to_device(default_collate([data[i] for i in range(start, stop)]), device)
        means = {"loss": task.loss(model, batch).item(), **task.metrics(model, batch)}
        for name, mean in means.items():
            sums[name] += mean * (stop - start)
        progress.report("evaluating", stop, size)
    return {name: total / size for name, total in sums.items()}
