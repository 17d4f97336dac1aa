"""What an app of ours tells the engine beyond Flower's Grid: seals, and where to go on.

    seal = recorder(grid).resume()        # the last seal, or None
    recorder(grid).rule(strategy)         # what its replies must carry
    recorder(grid).seal(round=…, …)       # the end of a round
    recorder(grid).finish(arrays)         # the final model

On Flower's own grids the recorder does nothing, so the same app runs there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy


@dataclass(frozen=True)
class Seal:
    """The end of a round: the model after it, the strategy's state, what the app reported.

    `report` is JSON: strings, integers, finite floats, lists, objects and null.
    """

    round: int
    model: ArrayRecord
    state: RecordDict
    report: Mapping[str, Any]


class Recorder(Protocol):
    def resume(self) -> Seal | None:
        """The last seal; the replay then continues behind it. Call it before any Grid operation."""
        ...

    def rule(self, strategy: Strategy) -> None:
        """The strategy whose demands on train replies hold from here on (`intake_weight`, `intake_codec`)."""
        ...

    def seed(self, label: str) -> int:
        """A seed in [0, 2^63) that follows from the run seed and `label`, the same after a restart."""
        ...

    def seal(
        self, round: int, model: ArrayRecord, state: RecordDict, report: Mapping[str, Any]
    ) -> None:
        """Put the end of round `round` on record; randomness starts anew from (run seed, round)."""
        ...

    def finish(self, model: ArrayRecord, report: Mapping[str, Any]) -> None:
        """Name the final model and what the whole run amounted to."""
        ...


class NoRecorder:
    """For Flower's own grids: remembers nothing."""

    def resume(self) -> Seal | None:
        return None

    def rule(self, strategy: Strategy) -> None:
        """Nothing."""

    def seed(self, label: str) -> int:
        return random.getrandbits(63)

    def seal(
        self, round: int, model: ArrayRecord, state: RecordDict, report: Mapping[str, Any]
    ) -> None:
        """Nothing."""

    def finish(self, model: ArrayRecord, report: Mapping[str, Any]) -> None:
        """Nothing."""


def recorder(grid: Grid) -> Recorder:
    """The grid's recorder, or one that does nothing on a grid that is not ours."""
    return cast(Recorder, getattr(grid, "recorder", None) or NoRecorder())
