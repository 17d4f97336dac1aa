"""Together against alone, as the operator gave it: read with care, since nothing vouches for its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from barnraise.coordinator.release.documents.report.story import number
from barnraise.coordinator.release.documents.report.thin import Point


@dataclass(frozen=True)
class Alone:
    """A member alone: its best loss over all held-out data, its own data's loss then, and the way there."""

    member: str
    loss: float
    own: float | None
    history: tuple[Point, ...]


@dataclass(frozen=True)
class Comparison:
    """`loss` and `own` (by member) of the shared model; `alone` in canonical order, never empty."""

    loss: float
    own: Mapping[str, float]
    alone: tuple[Alone, ...]

    @property
    def best(self) -> Alone:
        return min(self.alone, key=lambda one: one.loss)

    def owns(self) -> list[tuple[str, float, float]]:
        """Member, loss on its own data alone, and with the shared model; where both are known."""
        return [
            (one.member, one.own, self.own[one.member])
            for one in self.alone
            if one.own is not None and one.member in self.own
        ]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Comparison | None:
        """None where it does not have the shape that it should."""
        shared, alone = _mapping(given.get("together")), _mapping(given.get("alone"))
        loss = number(shared.get("loss"))
        found = [_alone(name, _mapping(alone[name])) for name in sorted(alone)]
        whole = tuple(one for one in found if one is not None)
        if loss is None or not whole or len(whole) != len(found):
            return None
        own = {name: number(value) for name, value in _mapping(shared.get("own")).items()}
        return cls(loss, {name: value for name, value in own.items() if value is not None}, whole)


def _alone(name: str, given: Mapping[str, Any]) -> Alone | None:
    if (loss := number(given.get("loss"))) is None:
        return None
    history = given.get("history")
    points = [_point(one) for one in history] if isinstance(history, list | tuple) else []
    return Alone(name, loss, number(given.get("own")), tuple(p for p in points if p is not None))


def _point(one: Any) -> Point | None:
    if not isinstance(one, list | tuple) or len(one) != 2 or type(one[0]) is not int:
        return None
    value = number(one[1])
    return None if value is None or abs(one[0]) > 10**9 else (one[0], value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) and all(isinstance(k, str) for k in value) else {}
