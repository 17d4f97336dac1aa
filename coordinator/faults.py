"""What a simulated member may do wrong, and when: for tests of apps and of the engine itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flwr.app import RecordDict


@dataclass(frozen=True)
class Drop:
    """The reply never comes."""


@dataclass(frozen=True)
class Delay:
    """The reply comes `seconds` after it was asked for, on the simulation's clock."""

    seconds: float


@dataclass(frozen=True)
class Poison:
    """The reply's records are what `change` makes of them (in place, or by returning others)."""

    change: Callable[[RecordDict], RecordDict | None]


@dataclass(frozen=True)
class Kill:
    """The worker dies `times` times while it works on the order; a second death answers with an error."""

    times: int = 1


Fault = Drop | Delay | Poison | Kill


class Faults(Protocol):
    def of(self, member: str, round: int, type: str) -> Fault | None:
        """What this member does wrong with an order of `type` in the run's `round`-th train batch."""
        ...


class NoFaults:
    def of(self, member: str, round: int, type: str) -> Fault | None:
        return None
