"""The charter: what the members of a federation agreed on, as a TOML file. Pure: text in, values out.

`Charter.parse` refuses what it does not know, naming the key and what is allowed there. A `[task]` has
keys of its own beside `name`; what they mean is for the task to say (`barnraise.client.tasks`), and the
options under `[strategy]` are for the strategy (`barnraise.strategies.registry`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import is_name
from barnraise.protocols.values import fault, is_licence, key_of

Steps = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
Part = Annotated[float, Field(ge=0, lt=1)]
_RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]{58}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
_ARRAYS = frozenset({"betas", "auditors", "languages"})
MAX_BATCH = 2**20  # examples; what is more cannot be meant, and no memory holds it


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TaskSection(_Section):
    """What is learned. Keys beside `name` go to the task."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = Field(
        description='"causal-lm", "classification", or "module:Class" in a file beside the charter'
    )

    @property
    def options(self) -> dict[str, Any]:
        """The task's own keys."""
        return dict(self.model_extra or {})

    @property
    def own(self) -> tuple[str, str] | None:
        """(module, class) of a task of one's own; None for a built-in one."""
        module, colon, name = self.name.partition(":")
        return (module, name) if colon else None


class ModelSection(_Section):
    """From which weights the run starts."""

    init: str | None = Field(
        None, description="a safetensors file beside the charter; without it the task makes them"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the weights that the task makes")


class TrainingSection(_Section):
    """The local work of one round, at every member."""

    steps: Steps | None = Field(None, description="optimizer steps a round; or give minutes")
    minutes: Seconds | None = Field(None, description="minutes a round; or give steps")
    batch: int = Field(16, gt=0, description="examples in a step")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description='the inner optimizer: "adamw", or "sgd", plain and without state'
    )
    lr: float = Field(3e-3, gt=0, description="the inner optimizer's learning rate at its height")
    betas: tuple[Part, Part] = Field((0.9, 0.95), description="AdamW's two betas, in [0, 1)")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's weight decay, on matrices only")
    proximal: float = Field(
        0.0, ge=0, description="FedProx's mu: the pull back to the round's model; 0 is none"
    )
    clip: float = Field(1.0, gt=0, description="the gradient's norm is clipped to this")
    warmup: int = Field(20, ge=0, description="steps in which a member's learning rate rises")
    decay: float = Field(
        0.3, ge=0, le=1, description="part of the whole run, at its end, in which lr falls to zero"
    )
    update_norm: float | None = Field(
        None, gt=0, description="an update of a larger norm is scaled to this one; default: none is"
    )
    codec: Literal["fp32", "bf16", "int8", "int4", "topk"] | None = Field(
        None, description="how members' updates are coded; default: members send whole models"
    )

    @model_validator(mode="after")
    def _one_measure(self) -> TrainingSection:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either steps or minutes")
        return self

    @field_validator("batch")
    @classmethod
    def _meant(cls, batch: int) -> int:
        if batch > MAX_BATCH:
            raise ValueError(f"more than {MAX_BATCH} examples in a step cannot be meant")
        return batch


class StrategySection(_Section):
    """How replies become the next model. Keys beside `name` are the strategy's options."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = Field("fedavg", description='of the rule, such as "fedavg" (docs/strategies.md)')

    @property
    def options(self) -> dict[str, Any]:
        """The strategy's own keys."""
        return dict(self.model_extra or {})


class RoundsSection(_Section):
    """How many rounds there are, and when one closes."""

    count: Steps = Field(description="rounds in the run")
    evaluate_every: Steps = Field(1, description="rounds between evaluations at the members")
    quorum: Steps | None = Field(
        None, description="accepted replies without which a round is void; default: none"
    )
    grace: Seconds | None = Field(None, description="seconds to wait after the quorum is reached")
    deadline: Seconds | None = Field(None, description="seconds after which a round closes")


class ReleaseSection(_Section):
    """What a release holds, and what it says of itself."""

    contributions: Literal["sealed", "auditors", "open"] | None = Field(
        None,
        description="who may recompute the rounds: nobody, the auditors below, or anyone; default: "
        "open where every member's data are open, else sealed",
    )
    auditors: tuple[str, ...] = Field(
        (), description='age recipients ("age1…") to whom contributions are encrypted'
    )
    title: str | None = Field(None, description="of the model; default: the federation's name")
    description: str | None = Field(None, description="what the model is for, in plain words")
    languages: tuple[str, ...] = Field((), description='of the data, as BCP 47 tags: ["en", "de"]')
    contact: str | None = Field(None, description="whom to write to about the model")

    @field_validator("auditors")
    @classmethod
    def _recipients(cls, auditors: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [one for one in auditors if not _RECIPIENT.fullmatch(one)]:
            raise ValueError(f"{wrong[0]!r} is no age recipient, which begins with age1")
        return auditors

    @field_validator("languages")
    @classmethod
    def _tags(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [one for one in languages if not _LANGUAGE.fullmatch(one)]:
            raise ValueError(f"{wrong[0]!r} is no language tag")
        return languages

    @model_validator(mode="after")
    def _to_somebody(self) -> ReleaseSection:
        if (self.contributions == "auditors") != bool(self.auditors):
            raise ValueError('contributions = "auditors" and the auditors\' keys go together')
        return self


NO_TERMS = ReleaseSection()  # type: ignore[call-arg]
"""Where nothing was said of a release."""


class Charter(_Section):
    """`Charter.parse(text)` of any valid charter; unknown keys and wrong types are errors."""

    name: str = Field(description="the federation's short name: a-z, 0-9 and hyphens")
    licence: str | None = Field(
        None, description='of the model, as an SPDX expression such as "Apache-2.0"'
    )
    task: TaskSection = Field(description="what is learned")
    model: ModelSection = Field(ModelSection(), description="from which weights the run starts")  # type: ignore[call-arg]
    training: TrainingSection = Field(description="the local work of one round")
    strategy: StrategySection = Field(
        StrategySection(),  # type: ignore[call-arg]
        description="how replies become the next model",
    )
    rounds: RoundsSection = Field(description="how many rounds, and when one closes")
    release: ReleaseSection = Field(NO_TERMS, description="what a release holds")

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if not is_name(name):
            raise ValueError(
                "it must be of lower-case letters, digits and inner hyphens, 63 at most"
            )
        return name

    @field_validator("licence")
    @classmethod
    def _licensed(cls, licence: str | None) -> str | None:
        if licence is not None and not is_licence(licence):
            raise ValueError("it must be an SPDX expression, such as Apache-2.0 or MIT OR CC0-1.0")
        return licence

    @classmethod
    def parse(cls, text: str, where: str = "the charter") -> Charter:
        """The charter in this TOML text. Raises C102, C103 or C104, naming the key."""
        try:
            return cls.model_validate(_tuples(tomllib.loads(text)))
        except ValidationError as error:
            raise _explained(error, where) from None
        except tomllib.TOMLDecodeError as error:
            raise _error("C102", f"{where} is not valid TOML", str(error)) from None
        except ValueError:
            why = "a number in it has thousands of digits"
            raise _error("C102", f"{where} cannot be read", why) from None
        except RecursionError:
            raise _error("C102", f"{where} is nested too deeply", "it is no charter") from None

    @classmethod
    def read(cls, path: Path) -> Charter:
        """The charter in this file. Raises C101 too, if it cannot be read."""
        return cls.parse(read_text(path), str(path))


def terms(table: Mapping[str, Any]) -> ReleaseSection:
    """A `[release]` table by itself, as a Flower app's charter has it. Raises C103 or C104."""
    try:
        return ReleaseSection.model_validate(_tuples(table))
    except ValidationError as error:
        raise _explained(error, "the charter", ("release",)) from None


def read_text(path: Path) -> str:
    """The text of a charter file; C101 if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise _error("C101", f"the charter {path} cannot be read", str(why)) from None


def meanings(section: type[BaseModel] = Charter, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a charter as `section.key`, and what it means."""
    for key, field in section.model_fields.items():
        inner = _section_of(field)
        if inner is None:
            yield f"{prefix}{key}", field.description or ""
        else:
            yield from meanings(inner, f"{prefix}{key}.")


def _section_of(field: FieldInfo) -> type[_Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, _Section) else None


def _tuples(value: Any) -> Any:
    """TOML knows arrays only; what cannot change here comes as a list."""
    if isinstance(value, dict):
        return {
            k: tuple(v) if k in _ARRAYS and isinstance(v, list) else _tuples(v)
            for k, v in value.items()
        }
    return value


def _explained(error: ValidationError, where: str, below: tuple[str, ...] = ()) -> BarnraiseError:
    """The first thing that is wrong, with the key and what belongs there."""
    first = error.errors()[0]
    loc = (*below, *first["loc"])
    path = [part for part in loc if isinstance(part, str)]
    key = key_of(loc) or "the charter"
    if first["type"] == "extra_forbidden":
        return _error("C103", f"{where} has the unknown key {key}", _allowed(path[:-1]))
    if first["type"] == "missing" and len(path) == len(loc):
        return _error("C104", f"{where} lacks the key {key}", f"{key}: {meaning_of(path)}")
    said = "it has too few values" if first["type"] == "missing" else fault(first)
    return _error("C104", f"{where}: {key} is wrong", f"{said}\n{key}: {meaning_of(path)}")


def meaning_of(path: list[str]) -> str:
    """What the key at this path means."""
    known = dict(meanings())
    for length in range(len(path), 0, -1):
        if (said := known.get(".".join(path[:length]))) is not None:
            return said
    section = _at(path)
    return (section.__doc__ or "").strip() if section else ""


def _allowed(path: list[str]) -> str:
    section = _at(path) or Charter
    lines = [f"  {key}: {field.description}" for key, field in section.model_fields.items()]
    return "\n".join(["allowed there:", *lines])


def _at(path: list[str]) -> type[_Section] | None:
    section: type[_Section] | None = Charter
    for key in path:
        field = section.model_fields.get(key) if section else None
        section = _section_of(field) if field else None
    return section


def _error(code: str, what: str, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        code, what, evidence, next="correct the charter; docs/charter.md lists every key"
    )
