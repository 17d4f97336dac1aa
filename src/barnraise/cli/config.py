"""What `-c` says, the overrides of an app's configuration; and what `--dir` says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from barnraise.protocols.errors import BarnraiseError

if TYPE_CHECKING:
    from flwr.app import UserConfig

_PAIR = re.compile(r"(\S+?)=('[^']*'|\"[^\"]*\"|\S+)")  # as flwr's own command has it
_LETTER = r"[A-Za-z_./~]|[^\x00-\x7f\ud800-\udfff]"
_WORD = re.compile(rf"(?!(?:true|false|inf|nan)$)(?:{_LETTER})(?:[0-9:+-]|{_LETTER})*")


def directory(text: str | Path) -> Path:
    """What `--dir` says (a `Path`: its default). An empty text, as of a variable that is not set, is no
    directory: X102."""
    if not str(text).strip():
        raise BarnraiseError(
            "X102",
            "--dir is empty",
            "an empty name would be the working directory itself",
            next="give --dir a name, or . for the working directory",
        )
    return Path(text)


def overrides(texts: Sequence[str]) -> UserConfig:
    """The overrides in these `-c` texts; later ones win. Raises X102 for a malformed one.

    Each is `key=value`, Flower's own `"a=1 b=2"`, or a TOML file; a value that is a bare word is a
    string.
    """
    from barnraise.protocols import flower

    found: UserConfig = {}
    for text in texts:
        try:
            found |= flower.run_config(words_quoted(text))
        except (ValueError, OSError) as error:
            raise BarnraiseError(
                "X102",
                f"-c {text!r} is no configuration",
                str(error),
                next="write it as -c key=value, with an integer, float, true, false or string",
            ) from None
    return found


def words_quoted(text: str) -> str:
    """The text with bare words as TOML strings; `ValueError` for what is not `key=value`."""
    if text.endswith(".toml") and "=" not in text:
        return text
    pairs = _PAIR.findall(text)
    if not text.strip():
        raise ValueError("it is empty")
    if left := _PAIR.sub("", text).strip():
        raise ValueError(f"{left} is not of the form key=value")
    return " ".join(f'{k}="{v}"' if _WORD.fullmatch(v) else f"{k}={v}" for k, v in pairs)
