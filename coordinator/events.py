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
class MemberState:
    """What a member's node is doing, as far as it says: idle, fetching, training, delivering, absent.

    `detail` is more about it ("step 31/200", "40 %") or empty; `since` is on the fleet's clock. Told when
    the state changes, and of details a few times a second.
    """

    member: str
    state: str
    detail: str
    since: float


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
    """`what` ("batch 3 (train)", "the run") waits: for whom, since when, what happens if nothing changes.

    `names` may be the first of many: `more` counts the others. `waited` seconds have passed when this is
    told; `left` is until it closes, None if nothing limits the wait; `then` is what happens.
    """

    what: str
    names: tuple[str, ...]
    more: int
    waited: float
    left: float | None
    then: str

    @property
    def text(self) -> str:
        return self.said(0.0)

    @property
    def whom(self) -> str:
        return ", ".join(self.names) + (f" and {self.more} more" if self.more else "")

    def said(self, later: float) -> str:
        """The same in one sentence, `later` seconds after it was told."""
        since = f"{self.what} waits since {span(self.waited + later)} for {self.whom}"
        if self.left is None:
            return f"{since}; {self.then}"
        return f"{since}; closes in {span(self.left - later)} {self.then}"


@dataclass(frozen=True)
class DiskFull:
    """The disk under `folder` has `free` bytes where `needed` are wanted; there is room again if that is 0.

    Meanwhile replies are not taken in, and members keep theirs; nothing is lost and nothing ends.
    """

    folder: Path
    free: int
    needed: int

    @property
    def text(self) -> str:
        has = f"the disk of {self.folder} has {self.free / 1e6:.1f} MB free"
        if not self.needed:
            return f"{has}: it goes on"
        return (
            f"{has} and needs {self.needed / 1e6:.1f} MB: replies wait with their members, nothing is lost; "
            "it goes on by itself when there is room"
        )


def span(seconds: float) -> str:
    """`12 s`, `12 min`, `12.0 h`."""
    whole = max(0, round(seconds))
    if whole < 600:
        return f"{whole} s"
    return f"{whole / 60:.0f} min" if whole < 6000 else f"{whole / 3600:.1f} h"


@dataclass(frozen=True)
class RunClosed:
    """The run is on record as finished. `path` holds the final model, if the app named one."""

    model: str
    path: Path | None
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Witnessed:
    """Members have cosigned the log as it stood with `size` entries; `missing` have not."""

    size: int
    members: tuple[str, ...]
    missing: tuple[str, ...]


Event = (
    RunOpened
    | BatchSent
    | Progress
    | MemberState
    | Answered
    | BatchClosed
    | Sealed
    | Waiting
    | DiskFull
    | RunClosed
    | Witnessed
)


class Watcher(Protocol):
    def __call__(self, event: Event) -> None: ...


def nobody(event: Event) -> None:
    """The watcher of a run that nobody watches."""
