"""`Task`: what is learned. Model, data, loss, metrics; everything else is the built-in app's.

A task is a class whose keyword arguments are the keys of the charter's `[task]`, checked against their
annotations before it is made. A charter names one of one's own as `module:Class`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.values import cut

Batch = Any
"""What `torch.utils.data.default_collate` makes of a dataset's items."""

MAX_PARAMETERS = 20 * 10**9
"""Of a model that a charter can mean."""


@dataclass(frozen=True)
class Split:
    """A member's data: what it trains on, and what it never does. Map-style datasets, not empty."""

    train: Dataset[Any]
    held_out: Dataset[Any]

    def sizes(self) -> tuple[int, int]:
        """How many examples each holds."""
        return len(cast(Sized, self.train)), len(cast(Sized, self.held_out))


class Task(Protocol):
    """What is learned. Nothing in it knows members, rounds or the network.

    `model` may use torch's global generator: it is seeded before. `data` reads one member's directory
    and raises D201 (nothing there) or D202 (not readable). `loss` is the mean over a batch, a scalar
    tensor; `metrics` names further means over a batch, as numbers. Both get `model` and `batch` on the
    same device, the batch as `default_collate` builds it.
    """

    def model(self) -> nn.Module: ...

    def data(self, directory: Path) -> Split: ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor: ...

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, float]: ...


@runtime_checkable
class Columned(Protocol):
    """A task whose data have columns with names. They must be the same at every member."""

    def columns(self, directory: Path) -> tuple[str, ...] | None:
        """The names in a member's data, in the order in which the model gets them; None if it has none.

        Raises D202 if two files differ in them.
        """
        ...


@runtime_checkable
class Recorded(Protocol):
    """A task whose data are records, which a data statement counts and commits to one by one.

    `record_kind` is what one is called ("document"), `record_form` says of which bytes it consists.
    """

    record_kind: str
    record_form: str

    def records(self, directory: Path) -> Iterator[bytes]:
        """Every record, always in the same sequence. Raises D201, D202."""
        ...

    def files(self, directory: Path) -> Iterator[Path]:
        """The files that hold them, by path. Raises D201."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """A task whose model can be asked to write something."""

    def sample(self, model: nn.Module, prompt: str, length: int) -> str:
        """`length` characters or so that the model puts behind `prompt`."""
        ...


def option(meaning: str, **bounds: Any) -> Any:
    """For `Annotated[int, option("what it means", gt=0)]`: a key of `[task]`."""
    return Field(description=meaning, **bounds)


def within_reason(parameters: int, **sizes: int) -> None:
    """Raise C104 for a model of more parameters than can be meant, naming the largest of `sizes`."""
    if parameters > MAX_PARAMETERS:
        key = max(sizes, key=sizes.__getitem__)
        raise too_large(f"task.{key}", f"task.{key} is {cut(str(sizes[key]))}")


def too_large(key: str, evidence: str) -> BarnraiseError:
    """What a model of more than `MAX_PARAMETERS` is told as; `key` is what makes it so large."""
    return BarnraiseError(
        "C104",
        f"the charter: {key} gives a model too large to be meant",
        f"{evidence}; it would have more than {MAX_PARAMETERS // 10**9} billion parameters",
        next=f"correct {key} in the charter",
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor in it on `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
