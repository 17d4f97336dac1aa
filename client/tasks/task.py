"""`Task`: what is learned. Model, data, loss, metrics; everything else is the built-in app's.

A task is a class whose keyword arguments are the keys of the charter's `[task]`, checked against their
annotations before it is made. A charter names one of one's own as `module:Class`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, get_type_hints, runtime_checkable

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model
from torch import Tensor, nn
from torch.utils.data import Dataset

from barnraise.protocols.charter import TaskSection
from barnraise.protocols.errors import BarnraiseError

Batch = Any
"""What `torch.utils.data.default_collate` makes of a dataset's items."""

BUILT_IN = {
    "causal-lm": ("barnraise.client.tasks.causal_lm", "CausalLM"),
    "classification": ("barnraise.client.tasks.classification", "Classification"),
}


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
class Sampler(Protocol):
    """A task whose model can be asked to write something."""

    def sample(self, model: nn.Module, prompt: str, length: int) -> str:
        """`length` characters or so that the model puts behind `prompt`."""
        ...


def load_task(section: TaskSection, home: Path | None = None) -> Task:
    """The charter's task. `home` is the directory that holds its code, if it is one's own.

    Raises C104 for a key that the task does not know or a value of the wrong kind, C105 for a class
    that cannot be imported or is no task.
    """
    cls = _class_of(section, home)
    made = cls(**_options(cls, section))
    lacking = [n for n in ("model", "data", "loss", "metrics") if not callable(getattr(made, n, 0))]
    if lacking:
        raise _unusable(section.name, f"it has no {', '.join(lacking)}")
    return cast(Task, made)


def _class_of(section: TaskSection, home: Path | None) -> type:
    module, name = section.own or BUILT_IN.get(section.name, ("", ""))
    if not module:
        known = ", ".join(BUILT_IN)
        raise _unusable(section.name, f'there are {known}, and "module:Class" for one of your own')
    path = [str(home)] if section.own and home is not None else []
    if path:
        _forget(module.partition(".")[0], path[0])
    sys.path[:0] = path
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise _unusable(section.name, f"{type(error).__name__}: {error}") from error
    finally:
        del sys.path[: len(path)]
    if not isinstance(found, type):
        raise _unusable(section.name, f"{name} is a {type(found).__name__}, not a class")
    return found


def _forget(package: str, home: str) -> None:
    """Let go of a module of this name that was imported from elsewhere: the code is what `home` holds."""
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is not None and not Path(file).is_relative_to(home):
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]
    importlib.invalidate_caches()


def _unusable(name: str, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "C105",
        f"the task {name!r} cannot be used",
        evidence,
        next="name a built-in task, or put module.py (or a package) with the class beside the "
        "charter; other files beside it are not part of the app",
    )


def _options(cls: type, section: TaskSection) -> dict[str, Any]:
    """The charter's keys, checked against the annotations of the class's arguments."""
    signature = inspect.signature(cls)
    hints = get_type_hints(getattr(cls, "__init__"), include_extras=True)  # noqa: B009
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default)
        for p in signature.parameters.values()
    }
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    try:
        checked = create_model("Options", __config__=config, **fields)(**section.options)
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(section.name, ".".join(map(str, first["loc"])), first, fields) from None
    return {key: getattr(checked, key) for key in section.options}


def _wrong(
    task: str, key: str, error: Mapping[str, Any], fields: Mapping[str, Any]
) -> BarnraiseError:
    got = "" if error["type"] in ("missing", "extra_forbidden") else f"; it is {error['input']!r}"
    what = "is unknown" if error["type"] == "extra_forbidden" else "is wrong"
    lines = [f"  {name}: {_said(hint)}" for name, (hint, _) in fields.items()]
    return BarnraiseError(
        "C104",
        f"the charter: task.{key} {what}",
        "\n".join([f"{error['msg']}{got}", f"keys of {task}:", *lines]),
        next="correct [task] in the charter",
    )


def _said(hint: Any) -> str:
    """What an annotation tells a person: its description, or its type."""
    for part in getattr(hint, "__metadata__", ()):
        if (text := getattr(part, "description", None)) is not None:
            return str(text)
    return str(TypeAdapter(hint).json_schema().get("type", hint))


def option(meaning: str, **bounds: Any) -> Any:
    """For `Annotated[int, option("what it means", gt=0)]`: a key of `[task]`."""
    return Field(description=meaning, **bounds)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor in it on `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
