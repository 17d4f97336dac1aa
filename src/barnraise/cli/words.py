"""Numbers and names as a person reads them. Every number fits six columns, so that rows align."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FEW = 8  # more names than this are counted


def plain(text: str) -> str:
    """The text on one line, with nothing in it that a terminal would obey: what others wrote, shown."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def size(count: int) -> str:
    """`480 B`, `6.0 MB`, `12 MB`, `1.5 GB`: decimal units."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5:
            return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.0f} PB"


def duration(seconds: float) -> str:
    """`0.04 s`, `12.3 s`, `128 s`, `31 min`, `4.2 h`."""
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if seconds < 999.5:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    if hours < 1.65:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 99.95 else f"{hours:.0f} h"


def listed(names: Sequence[str], most: int = FEW) -> str:
    """The names, or the first and last of many: `site-00 … site-31`."""
    return " ".join(names) if len(names) <= most else f"{names[0]} … {names[-1]}"


def count(number: int, word: str) -> str:
    """`1 batch`, `2 batches`, `4 members`."""
    plural = word + ("es" if word.endswith(("ch", "sh", "s")) else "s")
    if word.endswith("ry"):
        plural = f"{word[:-1]}ies"
    return f"{number} {word if number == 1 else plural}"


def change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """How the round's measure moved: `loss 2.410 → 2.203`. The loss if there is one, else the first."""
    numbers = [k for k, v in after.items() if isinstance(v, int | float)]
    if not numbers:
        return ""
    key = "loss" if "loss" in numbers else numbers[0]
    now = f"{after[key]:.3f}"
    was = before.get(key)
    return f"{key} {was:.3f} → {now}" if isinstance(was, int | float) else f"{key} {now}"
