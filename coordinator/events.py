"""What happens in a run, as it happens, for whoever shows it to a person. Nothing here decides anything.

A `Watcher` is called in the thread that drives the run and must return at once. During a replay the
same events come again with `replayed=True`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunOpened:
    run: str
    app: str
    members: tuple[str, ...]
    resumed: bool


@dataclass(frozen=True)
class BatchSent:
    """Orders went out. `type` is Flower's message type ("train", "evaluate", "query.alone")."""

    batch: int
    type: str
    members: tuple[str, ...]
    bytes: int
    replayed: bool = False


@dataclass(frozen=True)
class Progress:
    """A member's handler is at `done` of `total` of `what`, such as "training step"."""

    member: str
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Answered:
    """One verdict is on disk. `verdict` is accepted, refused or late; `reason` says why if not accepted."""

    batch: int
    member: str
    verdict: str
    reason: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class BatchClosed:
    """`refused` and `absent` map a member to its reason. `void`: below quorum, the model stays."""

    batch: int
    type: str
    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    absent: Mapping[str, str]
    void: bool
    reason: str
    bytes: int
    seconds: float
    replayed: bool = False


@dataclass(frozen=True)
class Sealed:
    """A round is over. `report` is what the app sealed with it (losses, tokens, the rule's decision)."""

    round: int
    model: str
    report: Mapping[str, Any] = field(default_factory=dict)
    replayed: bool = False


@dataclass(frozen=True)
class Waiting:
    """`text`: for whom, since when, and what happens if nothing changes."""

    text: str


@dataclass(frozen=True)
class RunClosed:
    """The run is on record as finished. `path` holds the final model, if the app named one."""

    model: str
    path: Path | None
    report: Mapping[str, Any] = field(default_factory=dict)


Event = RunOpened | BatchSent | Progress | Answered | BatchClosed | Sealed | Waiting | RunClosed


class Watcher(Protocol):
    def __call__(self, event: Event) -> None: ...


def nobody(event: Event) -> None:
    """The watcher of a run that nobody watches."""
