"""What a run's journal tells of its rounds, for reports. Reads only; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barnraise.coordinator.directory import opened
from barnraise.coordinator.evidence import StoredEvidence
from barnraise.coordinator.runlog import RunLog
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.telling import Telling


@dataclass(frozen=True)
class Round:
    """One sealed round. `accepted` trained in it; `bytes` counts what crossed the Grid in both
    directions; `seconds` are between the seal before and this one, by the coordinator's wall clock,
    a pause included. Round 0 is the initial model."""

    number: int
    model: str
    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    absent: tuple[str, ...]
    void: bool
    bytes: int
    seconds: float
    report: Mapping[str, Any]


def history(directory: Path) -> list[Round]:
    """The sealed rounds of the run in `directory`. Raises what `directory.opened` raises."""
    with opened(directory) as place:
        for _, entry in place.journal.entries():
            if entry.type == "run.opened":
                log = RunLog(entry.body["run"], place.journal, place.blobs, lambda: "")
                return list(_rounds(log, place.blobs))
    return []


def _rounds(log: RunLog, blobs: BlobStore) -> Iterator[Round]:
    sizes, telling = _Sizes(blobs), Telling(log.run)
    for _, entry in log.read():
        telling.see(entry)
    for one in telling.rounds:
        sent = sum(sizes.of(content) * members for content, members in one.contents)
        yield Round(
            one.number,
            one.model,
            one.accepted,
            one.refused,
            one.absent,
            one.void,
            one.received + sent,
            sum(one.phases.values()),
            one.report,
        )


class _Sizes:
    """How many bytes a content is: its envelope and its blobs."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs, self._evidence = blobs, StoredEvidence(blobs)
        self._known: dict[str, int] = {}

    def of(self, content: str) -> int:
        if content not in self._known:
            parts = [content, *self._evidence.envelope(content).blobs()]
            self._known[content] = sum(self._blobs.size(part) for part in parts)
        return self._known[content]
