"""What a check found: facts for a person, and faults, each with its code and its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Read = Callable[[str], bytes | None]
"""A file of the release by its path; None where it is not there or cannot be read."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. `code` is of `errors.CODES`, `where` a path or an entry, `why` the reason."""

    code: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass
class Check:
    """One numbered check: its name, what it saw, what is wrong. Nothing wrong is an empty list."""

    name: str
    code: str
    facts: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def wrong(self, where: str, why: str) -> None:
        self.faults.append(Fault(self.code, where, why))

    def saw(self, fact: str) -> None:
        self.facts.append(fact)
