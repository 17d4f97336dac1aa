"""From the name in a charter's `[task]` to a task: what is imported, from where, with which options."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from barnraise.client.tasks.checked import Checked, raised
from barnraise.client.tasks.task import Task
from barnraise.protocols.charter import TaskSection
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.values import cut, fault, key_of, shortened

BUILT_IN = {
    "causal-lm": ("barnraise.client.tasks.causal_lm", "CausalLM"),
    "classification": ("barnraise.client.tasks.classification", "Classification"),
}


def load_task(section: TaskSection, home: Path | None = None) -> Task:
    """The charter's task. `home` is the directory that holds its code, if it is one's own.

    Raises C104 for a key that the task does not know or a value of the wrong kind, C105 for a class
    that cannot be imported or is no task. What a task of one's own returns is checked at each call.
    """
    cls = _class_of(section, home)
    made = _made(cls, section, home)
    lacking = [n for n in ("model", "data", "loss", "metrics") if not callable(getattr(made, n, 0))]
    if lacking:
        raise _unusable(section.name, f"it has no {', '.join(lacking)}")
    task = cast(Task, made)
    return Checked(task, section.name, home) if section.own else task


def _made(cls: type, section: TaskSection, home: Path | None) -> object:
    try:
        return cls(**_options(cls, section))
    except BarnraiseError:
        raise
    except (Exception, SystemExit) as error:
        if section.own is None:
            raise
        raise _unusable(section.name, f"it cannot be made: {raised(error, home)}") from error


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
        raise _unusable(section.name, raised(error, home)) from error
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
        f"the task {shortened(name)} cannot be used",
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
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    try:
        checked = create_model("Options", __config__=config, **fields)(**section.options)
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(section.name, key_of(first["loc"]), first, fields) from None
    return {key: getattr(checked, key) for key in section.options}


def _wrong(
    task: str, key: str, error: Mapping[str, Any], fields: Mapping[str, Any]
) -> BarnraiseError:
    what, said = "is wrong", fault(error)
    if error["type"] == "extra_forbidden":
        what, said = "is unknown", "it is not among them"
    elif error["type"] == "missing":
        what, said = "is missing", "the task needs it"
    lines = [f"  {name}: {_said(hint)}" for name, (hint, _) in fields.items()]
    return BarnraiseError(
        "C104",
        f"the charter: task.{key} {what}",
        "\n".join([said, f"keys of {cut(task)}:", *lines]),
        next="correct [task] in the charter",
    )


def _said(hint: Any) -> str:
    """What an annotation tells a person: its description, or its type."""
    for part in getattr(hint, "__metadata__", ()):
        if (text := getattr(part, "description", None)) is not None:
            return str(text)
    return str(TypeAdapter(hint).json_schema().get("type", hint))
