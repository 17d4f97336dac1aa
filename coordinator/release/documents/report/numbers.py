"""Numbers, times and lists as a reader of English sees them. Pure text; the same on every machine.

A number and its unit are held together by a no-break space.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

NONE = "–"
"""Where a number is not known."""
_GAP = "\N{NO-BREAK SPACE}"
_WORDS = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def count(number: int) -> str:
    """`1,234,567`."""
    return f"{number:,}"


def word(number: int) -> str:
    """`four`, `13`."""
    return _WORDS[number] if 0 <= number < len(_WORDS) else count(number)


def plural(number: int, one: str, many: str = "") -> str:
    """`1 round`, `12 rounds`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def large(number: int) -> str:
    """`1.2 million`, `83,456`."""
    for unit, name in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if number >= unit:
            return f"{number / unit:.3g} {name}" if number < 1000 * unit else f"{number:.3g}"
    return count(number)


def measure(value: float) -> str:
    """A loss or another metric: `1.931`, `0.00123`, `1.2e+06`."""
    if value == 0 or 0.01 <= abs(value) < 10000:
        return f"{value:.3f}"
    return f"{value:.3g}"


def moved(value: float) -> str:
    """A difference with its sign: `−0.024`, `+0.110`."""
    return f"{'−' if value < 0 else '+'}{measure(abs(value))}"


def percent(part: float) -> str:
    """`8.3%` of a part of one."""
    return f"{100 * part:.1f}%"


def size(number: float) -> str:
    """Decimal units: `480 B`, `17.8 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5:
            return f"{number:.0f}{_GAP}B" if unit == "B" else f"{number:.3g}{_GAP}{unit}"
        number /= 1000
    return f"{number:,.0f}{_GAP}PB"


def duration(seconds: float) -> str:
    """`0.4 s`, `37 s`, `12 min`, `4.2 h`, `3.1 days`."""
    if seconds < 9.95:
        return f"{seconds:.1f}{_GAP}s"
    if seconds < 99.5:
        return f"{seconds:.0f}{_GAP}s"
    if seconds < 5970:
        return f"{seconds / 60:.0f}{_GAP}min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f}{_GAP}h"
    return f"{seconds / 86400:.1f}{_GAP}days"


def hours(seconds: float) -> str:
    """Hours to two digits or more, so that small shares do not all read 0.0."""
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 1 else f"{value:.2g}"


def energy(kilowatt_hours: float) -> str:
    """`3.2 Wh`, `1.41 kWh`, `2.3 MWh`."""
    if kilowatt_hours < 0.9995:
        return f"{1000 * kilowatt_hours:.3g}{_GAP}Wh"
    if kilowatt_hours < 999.5:
        return f"{kilowatt_hours:.3g}{_GAP}kWh"
    return f"{kilowatt_hours / 1000:,.3g}{_GAP}MWh"


def joined(names: Sequence[str]) -> str:
    """`basel, geneva and zurich`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def ranges(numbers: Iterable[int], most: int = 12) -> str:
    """`3, 5–7, 9`; of many ranges the first `most`, and how many more there are."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    said = [f"{a}" if a == b else f"{a}{'–' if b > a + 1 else ', '}{b}" for a, b in spans[:most]]
    left = sum(b - a + 1 for a, b in spans[most:])
    return ", ".join(said) + (f" and {count(left)} more" if left else "")


def day(moment: str) -> str:
    """`24 November 2026` of an RFC 3339 time; what is none is given back as it is."""
    at = _parsed(moment)
    return f"{at.day}{_GAP}{_MONTHS[at.month - 1]} {at.year}" if at else moment


def clock(moment: str) -> str:
    """`24 November 2026, 20:54 UTC`."""
    at = _parsed(moment)
    return f"{day(moment)}, {at:%H:%M} UTC" if at else moment


def span(first: str, last: str) -> str:
    """`on 24 November 2026`, `from 3 March 2026 to 9 April 2026`."""
    if day(first) == day(last):
        return f"on {day(first)}"
    return f"from {day(first)} to {day(last)}"


def seconds_between(first: str, last: str) -> float | None:
    """None where one of them is no time."""
    a, b = _parsed(first), _parsed(last)
    return (b - a).total_seconds() if a and b else None


def _parsed(moment: str) -> datetime.datetime | None:
    try:
        at = datetime.datetime.fromisoformat(moment)
    except ValueError:
        return None
    return at.astimezone(datetime.UTC) if at.tzinfo else None
