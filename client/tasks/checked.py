"""A task of one's own, held to what `Task` promises. What it returns is checked, and told as C105.

`Checked` stands before such a task wherever it is used; what the task raises passes as it is. `tried`
runs it once before a run starts, where what it raises is told too.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from barnraise.client.tasks.task import MAX_PARAMETERS, Batch, Split, Task, too_large
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.values import cut, shortened

RESERVED = ("loss", "num-examples")  # what a member reports besides the task's metrics
TRIED = 64  # examples at most in the batches of a trial


class Checked:
    """`task`, whose every answer is what `Task` says. Raises C105 where it is not."""

    def __init__(self, task: Task, name: str, home: Path | None) -> None:
        self._task, self._name, self._home = task, name, home

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def model(self) -> nn.Module:
        model: object = self._task.model()
        if not isinstance(model, nn.Module):
            raise self.broken("model()", f"{_kind(model)}, not a torch.nn.Module")
        if next(model.parameters(), None) is None:
            raise self.broken("model()", "a module without parameters, which cannot learn")
        return model

    def data(self, directory: Path) -> Split:
        split: object = self._task.data(directory)
        if not isinstance(split, Split):
            raise self.broken("data()", f"{_kind(split)}, not a barnraise.client.tasks.Split")
        for side, held in (("train", split.train), ("held_out", split.held_out)):
            if not hasattr(held, "__len__") or not hasattr(held, "__getitem__"):
                raise self.broken("data()", f"a {side} that is {_kind(held)}, not a dataset")
            if len(cast(Any, held)) == 0:
                raise self.broken("data()", f"a {side} without examples, from {directory}")
        return split

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss: object = self._task.loss(model, batch)
        if not isinstance(loss, Tensor):
            raise self.broken("loss()", f"{_kind(loss)}, not a scalar tensor")
        if loss.dim() != 0 or not loss.is_floating_point():
            kind = str(loss.dtype).removeprefix("torch.")
            raise self.broken(
                "loss()", f"a tensor of {kind}, shape {tuple(loss.shape)}, not a scalar of floats"
            )
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise self.broken("loss()", "a tensor without a gradient")
        return loss

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, float]:
        metrics: object = self._task.metrics(model, batch)
        if not isinstance(metrics, Mapping):
            raise self.broken(
                "metrics()", f"{_kind(metrics)}, not a dict of numbers ({{}} for none)"
            )
        for key, value in metrics.items():
            if not isinstance(key, str) or key in RESERVED:
                raise self.broken("metrics()", f"the key {shortened(key)}, which is no free name")
            if not isinstance(value, Real):
                hint = "; its .item() is one" if isinstance(value, Tensor) else ""
                raise self.broken("metrics()", f"{_kind(value)} as {key!r}, not a number{hint}")
        return {key: float(value) for key, value in metrics.items()}

    @contextmanager
    def telling(self, call: str) -> Iterator[None]:
        """What the task raises in `call` becomes C105, with its own words and its place in its file."""
        try:
            yield
        except BarnraiseError:
            raise
        except (Exception, SystemExit) as error:
            why = f"its {call} raised {raised(error, self._home)}"
            raise _told(self._name, why) from error

    def small_enough(self) -> None:
        """Raise C104 for a model that no machine holds; nothing is allocated if the task allows it."""
        try:
            with torch.device("meta"):
                model = self._task.model()
            size = sum(p.numel() for p in model.parameters())
        except Exception:
            return  # such a model is made at its full size or not at all
        if size > MAX_PARAMETERS:
            raise too_large("[task]", "its keys say how large the model is")

    def broken(self, call: str, returned: str) -> BarnraiseError:
        """What the task is told as if `call` returns what it should not."""
        return _told(self._name, f"its {call} returns {returned}")


def tried(task: Checked, batch: int, directories: Mapping[str, Path]) -> None:
    """Run the task once over each member's data, and over a batch of it, before a run starts.

    Raises C105 for what it raises and for what it returns instead of what it should, C104 for a model
    of an absurd size, D201 and D202 as the task does.
    """
    with torch.random.fork_rng(devices=[]):
        task.small_enough()
        with task.telling("model()"):
            model = task.model()
        for member, directory in directories.items():
            with task.telling(f"data() for {member}"):
                split = task.data(directory)
            with task.telling(f"loss() on data of {member}"):
                loss = task.loss(model.train(), _batch(split.train, batch))
            if not bool(torch.isfinite(loss)):
                raise task.broken("loss()", f"{loss.item()} on data of {member}")
            with task.telling(f"metrics() on data of {member}"), torch.no_grad():
                task.metrics(model.eval(), _batch(split.held_out, TRIED))


def _batch(data: Dataset[Any], size: int) -> Batch:
    held = cast(Any, data)
    return default_collate([held[i] for i in range(min(size, TRIED, len(held)))])


def raised(error: BaseException, home: Path | None) -> str:
    """What an exception says, no page of it, and where below `home` it came from."""
    said = f"{type(error).__name__}: {error}".splitlines()[:6]
    text = "\n".join(line[:200] for line in said)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if home is not None and Path(frame.filename).is_relative_to(home):
            return f"{text}\nat {Path(frame.filename).relative_to(home)}:{frame.lineno}"
    return text


def _kind(value: object) -> str:
    return "None" if value is None else cut(f"a {type(value).__name__}")


def _told(name: str, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "C105",
        f"the task {shortened(name)} cannot be used",
        evidence,
        next=f"mend {name.partition(':')[0]}; docs/charter.md says what a task returns",
    )
