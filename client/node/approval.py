"""What this site approved: one run of one app, by digest, with the config that the site gives it.

`approved.json` in the node's directory. Starting `sim` or `demo` writes it; that is the approval.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from barnraise.protocols.apps import BUILT_IN, Code, app_digest, code_files, code_kept
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.errors import BarnraiseError

FILE = "approved.json"
_MOST_MEMORY = 2**62
Config = Mapping[str, bool | int | float | str]


@dataclass(frozen=True)
class Approval:
    """`app` is the digest of the code in directory `code`; `client` is `module:object`, or "builtin".

    `memory` is how many bytes of data the worker may have; None for as many as there are. `members` are
    the agreement's, each with its identity key (hex); None where the site pinned none.
    """

    federation: str
    run: str
    run_id: int
    app: str
    code: Path
    client: str
    node_config: Config
    run_config: Config
    memory: int | None = None
    members: Mapping[str, str] | None = None

    @classmethod
    def read(cls, directory: Path) -> Approval:
        """N302 if there is none, or if it is malformed."""
        path = directory / FILE
        try:
            return cls.of(json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise _unusable(f"{directory} has no {FILE}", "this site has approved no run") from None
        except (OSError, ValueError, RecursionError) as error:
            raise _unusable(f"{path} cannot be used", str(error)) from None

    @classmethod
    def of(cls, document: Any) -> Approval:
        """`ValueError` unless the document has every field, each of its type, and no other."""
        names = {field.name for field in fields(cls)}
        optional = {"memory", "members"}
        if not isinstance(document, dict) or not names - optional <= document.keys() <= names:
            raise ValueError(f"it must have exactly the fields {', '.join(sorted(names))}")
        values = {"memory": None, "members": None, **document}
        for name in ("federation", "run", "app", "code", "client"):
            if not isinstance(values[name], str):
                raise ValueError(f"{name} is not text")
        for name in ("node_config", "run_config"):
            _check_config(name, values[name])
        _check_number("run_id", values["run_id"], 2**64)
        if values["memory"] is not None:
            _check_number("memory", values["memory"], _MOST_MEMORY)
        if values["members"] is not None:
            _check_members(values["members"])
        if not is_digest(values["app"]):
            raise ValueError("app is no digest")
        return cls(**{**values, "code": Path(values["code"])})

    def check_code(self) -> None:
        """N303 unless the code at hand is the code that was approved."""
        found = app_digest(self._files())
        if found != self.app:
            raise BarnraiseError(
                "N303",
                "the code is not what this site approved",
                f"{self.code} has {found}\napproved is {self.app}",
                "nothing of it was run",
                next="restore the approved code, or approve the run again",
            )

    def _files(self) -> Code:
        return code_kept(self.code) if self.client == BUILT_IN else code_files(self.code)


def _check_config(name: str, value: Any) -> None:
    fits = isinstance(value, dict) and all(
        isinstance(v, bool | int | float | str) for v in value.values()
    )
    if not fits:
        raise ValueError(f"{name} is not an object of texts, numbers and truth values")


def _check_members(value: Any) -> None:
    fits = isinstance(value, dict) and all(
        isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key) for key in value.values()
    )
    if not fits:
        raise ValueError("members is not an object of identity keys (64 hex digits)")


def _check_number(name: str, value: Any, beyond: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < beyond:
        raise ValueError(f"{name} is not a positive integer below {beyond}")


def _unusable(what: str, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "N302",
        what,
        evidence,
        "the node was not started",
        next="approve the run again: whoever starts it writes this file",
    )
