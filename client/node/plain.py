"""The reason of an error, in words that cannot quote data: of a few fixed forms, and with known names only.

The process that runs a site's code writes the reason; this is what of it may leave (L7). A name is known
if it stands in the approved code, is Python's, or is one of ours: so it cannot be made from data.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from pathlib import Path

from barnraise.protocols.errors import CODES

UNSAID = "an error; its words stay at the site"
_NAME = r"(?P<name>[A-Za-z_]\w{0,63})"
_PLACE = r"(?P<file>[\w.-]{1,80}):(?P<line>\d{1,6})"
_FORMS = (
    re.compile(rf"{_NAME} at {_PLACE}"),
    re.compile(rf"{_NAME} at an unknown place"),
    re.compile(rf"the handler returned {_NAME}, not a Message"),
    re.compile(rf"the order cannot be read: {_NAME}"),
    re.compile("the handler returned a Message without content"),
    re.compile("the worker died twice over this order"),
    re.compile("its reply cannot be (read|delivered: .{0,40})"),
)
_LIBRARY = ("OutOfMemoryError", "LinAlgError", "AcceleratorError", "ContentError", "BlobError")


class Words:
    """Which names an error may say: those in `code` (bytes by path, or the file that holds them)."""

    def __init__(self, code: Mapping[str, bytes | Path]) -> None:
        self._names = {*dir(builtins), *CODES, *_LIBRARY}
        ours = Path(__file__).parents[1].rglob("*.py")
        self._lines: dict[str, int] = {p.name: p.read_bytes().count(b"\n") + 1 for p in ours}
        for path, data in code.items():
            if isinstance(data, bytes) and path.endswith(".py"):
                self._names |= set(re.findall(r"\w+", data.decode(errors="ignore")))
                name = path.rpartition("/")[2]
                self._lines[name] = max(self._lines.get(name, 0), data.count(b"\n") + 1)

    def plain(self, reason: str) -> str:
        """The reason itself if it is of a known form and names nothing unknown; else `UNSAID`."""
        for form in _FORMS:
            if (found := form.fullmatch(reason)) is not None:
                return reason if self._knows(found.groupdict()) else UNSAID
        return UNSAID

    def _knows(self, said: Mapping[str, str | None]) -> bool:
        name, file, line = said.get("name"), said.get("file"), said.get("line")
        if name is not None and name not in self._names:
            return False
        return file is None or int(line or 0) <= self._lines.get(file, 0)
