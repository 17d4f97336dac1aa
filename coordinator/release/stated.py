"""The members' data statements as a release holds them: facts for the documents, and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from barnraise.coordinator.release.facts import DataFacts
from barnraise.coordinator.release.source import Source
from barnraise.coordinator.release.write import Held


@dataclass(frozen=True)
class Stated:
    """By member, and by path in the release."""

    facts: Mapping[str, DataFacts] = field(default_factory=dict)
    files: Mapping[str, Held] = field(default_factory=dict)


def statements(source: Source) -> Stated:
    """The last statement of each of the run's members before the run was closed."""
    return Stated()
