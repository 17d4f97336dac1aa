"""Axes: from values to places on a plot, and where their ticks stand. Knows nothing of SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`; `ticks` are (value, label) within them, `unit` is what they count."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    unit: str = ""

    def part(self, value: float) -> float:
        """0 at `low`, 1 at `high`."""
        return (value - self.low) / (self.high - self.low)


def step_of(span: float, most: int) -> float:
    """The smallest nice step with which `span` has at most `most` intervals."""
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(nice * power for nice in _NICE if nice * power >= raw * (1 - 1e-9))


def of_values(low: float, high: float, unit: str, most: int = 6) -> Axis:
    """Around values that need no zero, with a little room on both sides."""
    apart = high - low > max(1e-9 * max(abs(low), abs(high)), 1e-12)
    wide = (high - low) * 0.05 if apart else max(abs(high) * 0.1, 1e-9)
    low, high = low - wide, high + wide
    step = step_of(high - low, most)
    first, last = math.ceil(low / step), math.floor(high / step)
    return Axis(low, high, _ticks(first, last, step), unit)


def trimmed(points: Sequence[tuple[int, float]]) -> tuple[float, float, bool]:
    """The least and the greatest value of points (round, value), and whether those of round 0 were left
    out: where they lie above all others by more than these differ among themselves."""
    later = [value for at, value in points if at > 0]
    first = [value for at, value in points if at <= 0]
    if not later or not first:
        low, high = min(later or first), max(later or first)
        return low, high, False
    low, high = min(later), max(later)
    if max(first) - high > high - low > 0:
        return low, high, True
    return min(low, *first), max(high, *first), False


def of_rounds(first: int, last: int, most: int = 10) -> Axis:
    """Rounds, ticked at whole numbers."""
    if last <= first:
        return Axis(first - 0.5, first + 0.5, ((float(first), str(first)),), "round")
    step = max(1, round(step_of(last - first, most)))
    while (last - first) / step > most:
        step += 1
    at = range(-(-first // step) * step, last + 1, step)
    return Axis(first, last, tuple((float(n), f"{n:,}") for n in at), "round")


def of_amounts(most_of_all: float, units: Sequence[tuple[float, str]], most: int = 5) -> Axis:
    """From zero, in the largest of the `units` (its size, its name; ascending) that keeps it readable."""
    top = most_of_all if most_of_all > 1e-6 * units[0][0] else units[0][0]
    size, name = next((u for u in reversed(units) if top >= u[0]), units[0])
    step = step_of(top / size, most)
    last = math.ceil(top / size / step - 1e-9)
    ticks = tuple((value * size, label) for value, label in _ticks(0, last, step))
    return Axis(0.0, last * step * size, ticks, name)


def _ticks(first: int, last: int, step: float) -> tuple[tuple[float, str], ...]:
    values = [n * step for n in range(first, last + 1)]
    if max(map(abs, values), default=0.0) >= 1e6 or step < 1e-5:
        return tuple((value, f"{value:.4g}") for value in values)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += abs(step * 10**digits - round(step * 10**digits)) > 1e-6
    return tuple((value, f"{value:,.{digits}f}") for value in values)


BYTES = ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
SECONDS = ((1.0, "seconds"), (120.0, "minutes"), (7200.0, "hours"))
