"""What members wrote, made fit for Markdown and YAML. Pure.

`plain` leaves one line of printable text; `markdown` escapes whatever Markdown, HTML or a table's cell would
take for its own. YAML is written by PyYAML, which quotes what needs it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

LONGEST = 2_000  # characters of a text that somebody wrote
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$@])")
_LEADING = re.compile(r"^(?:[-+=]|\d+(?=[.)](?: |$)))")


def plain(text: object, longest: int = LONGEST) -> str:
    """One line of what can be seen: without control, formatting and direction characters."""
    seen = "".join(" " if _is_hidden(character) else character for character in str(text))
    line = " ".join(seen.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN


def markdown(text: object, longest: int = LONGEST) -> str:
    """The text as itself within a paragraph, a list or a table's cell."""
    escaped = _SPECIAL.sub(r"\\\1", plain(text, longest))
    return _LEADING.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", escaped)


def code(text: object) -> str:
    """The text as Markdown code, in a cell too."""
    line = plain(text).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def as_yaml(value: Mapping[str, Any]) -> str:
    """The mapping as YAML, in the order in which it stands."""
    text: str = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=1_000_000)
    return text


def number(value: object) -> str:
    """A number for people, four digits of it; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return plain(value, 60)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}"


def is_finite(value: object) -> bool:
    """Whether this is a number that can be drawn and compared."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def count(amount: int, what: str) -> str:
    """`1 member`, `2 members`."""
    return f"{amount:,} {what}" if amount == 1 else f"{amount:,} {what}s"
