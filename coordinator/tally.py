"""What a run's closed batches came to: how many replies counted, who failed last, one digest.

A seal carries it, so a run that goes on behind the seal ends with the tally of a run nobody interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barnraise.coordinator.batches import Batch
from barnraise.protocols.canonical import digest_of

KINDS = ("accepted", "refused", "train accepted", "train refused")


class Tally:
    """Owned by the Grid. `refusals` maps a member to why it was refused last; memory: the members'."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(KINDS, 0)
        self.refusals: dict[str, str] = {}
        self._digest = digest_of([])

    def add(self, batch: Batch) -> None:
        """Count a closed batch; each once, in the order in which the app was done with them."""
        kinds = ("", "train ") if batch.category == "train" else ("",)
        for kind in kinds:
            self.counts[f"{kind}accepted"] += len(batch.accepted)
            self.counts[f"{kind}refused"] += len(batch.refused)
        for order, (code, why) in batch.refused.items():
            self.refusals[batch.orders[order].member.name] = f"{code}: {why}"
        self._digest = digest_of([self._digest, batch.digest()])

    def digest(self) -> str:
        """The final digest of an app that names no model: its closed batches in order."""
        return self._digest

    def body(self) -> dict[str, Any]:
        """For a seal; `restore` takes it back."""
        return {"counts": dict(self.counts), "digest": self._digest}

    def restore(self, body: Mapping[str, Any]) -> None:
        self.counts = dict(body["counts"])
        self._digest = body["digest"]
        self.refusals = {}
