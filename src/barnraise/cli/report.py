"""How a command ends: a result or an error, for a person on stderr or as one JSON object, and an exit code.

    0  done    1  an error    2  wrong usage (X102)    130  interrupted (X103)

It knows no verb and no command-line library.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from barnraise.cli import lines
from barnraise.protocols.errors import BarnraiseError

_EXIT = {"X102": 2, "X103": 130}


@dataclass(frozen=True)
class Report:
    """`stdout` takes the JSON object and nothing else."""

    json: bool
    verbose: bool
    stdout: TextIO

    @classmethod
    def of(cls, argv: Sequence[str], stdout: TextIO) -> Report:
        """By the bare flags in `argv`, which counts even where the rest of it is wrong."""
        return cls("--json" in argv, "-v" in argv or "--verbose" in argv, stdout)

    def succeed(self, result: Mapping[str, Any] | None) -> int:
        if self.json and result is not None and (refused := self._object(result)) is not None:
            _print_error(_unwritten(refused))
            return 1
        return 0 if result is None or result.get("ok", True) else 1

    def fail(self, error: BaseException) -> int:
        """Say what went wrong, with a traceback only if asked; returns the exit code."""
        told = explained(error)
        if self.verbose:
            traceback.print_exception(error, file=sys.stderr)
        if not self.json or self._object({"ok": False, **told.as_dict()}) is not None:
            _print_error(told)
        return _EXIT.get(told.code, 1)

    def _object(self, value: Mapping[str, Any]) -> OSError | None:
        """Write it; returns why that was not possible. A reader that has gone away has read enough."""
        try:
            self.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
            self.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stdout.fileno())
            return None if isinstance(error, BrokenPipeError) else error
        return None


def _unwritten(error: OSError) -> BarnraiseError:
    return BarnraiseError(
        "X104",
        "the result cannot be written to stdout",
        error.strerror or str(error),
        changed="the command was done; what it kept in a directory is kept",
        next="run the same command again, with a stdout that can be written",
    )


def explained(error: BaseException) -> BarnraiseError:
    """The error itself if it speaks for itself, else X103 or X101."""
    if isinstance(error, BarnraiseError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return BarnraiseError(
            "X103",
            "interrupted",
            changed="what is on record stays",
            next="run the same command again",
        )
    return BarnraiseError(
        "X101",
        "Barnraise itself failed; this is a fault of ours",
        f"{type(error).__name__}: {error}",
        changed="what is on record stays as it is",
        next="run the same command with -v, and report what it shows",
    )


def _print_error(error: BarnraiseError) -> None:
    if lines.wanted():
        lines.write("error", **error.as_dict())
        return
    head, *rest = str(error).splitlines()
    label, _, what = head.partition(" ")
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        label = f"\x1b[1;31m{label}\x1b[0m"
        rest = [_bold_label(line) for line in rest]
    print("\n".join([f"{label} {what}", *rest]), file=sys.stderr)  # noqa: T201


def _bold_label(line: str) -> str:
    return f"\x1b[1mnext:\x1b[0m{line[5:]}" if line.startswith("next:") else line
