"""Which blobs of a run nobody will read soon: those of batches that the app is done with.

A run that keeps every blob would otherwise fill the page cache with them, and each new one would be
written into memory that was never touched before, which costs more than to hash it.
"""

from __future__ import annotations

from collections.abc import Iterable

from barnraise.coordinator.batches import Batch
from barnraise.coordinator.evidence import StoredEvidence
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import ContentError


class Cooling:
    """Owned by the Grid. Holds the contents of the batches that were done since the last one was sent."""

    def __init__(self, blobs: BlobStore, evidence: StoredEvidence) -> None:
        self._blobs, self._evidence = blobs, evidence
        self._contents: set[str] = set()

    def done(self, batch: Batch) -> None:
        """The app has this batch's replies and will have read them by the time it sends the next."""
        self._contents.update(batch.accepted.values())
        self._contents.update(order.content for order in batch.orders.values())

    def now_that(self, batches: Iterable[Batch]) -> None:
        """These batches are out: what neither they nor anyone else needs may leave memory."""
        needed = {o.content for batch in batches for o in batch.orders.values()}
        blobs = self._of(self._contents) - self._of(needed)
        self._contents.clear()
        self._blobs.let_go(blobs)

    def _of(self, contents: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for content in contents:
            try:
                found.update(self._evidence.envelope(content).blobs())
            except (ContentError, OSError):
                continue
        return found
