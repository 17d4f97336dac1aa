"""What the app is handed: a fresh Message for each order, from what is on disk.

Arrays are read when the app asks for them. What an earlier process accepted is held against its digest
first, for nothing else would notice a blob that has changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flwr.app import Message

from barnraise.coordinator import batches
from barnraise.coordinator.batches import Batch, Draft
from barnraise.coordinator.evidence import StoredEvidence
from barnraise.coordinator.fleet import Order
from barnraise.protocols import flower
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import Failure

REFUSED = 0  # Flower's ErrorCode.UNKNOWN: a refusal is none of the failures that Flower knows
SILENT = 4  # Flower's ErrorCode.REPLY_MESSAGE_UNAVAILABLE
ABSENT = 5  # Flower's ErrorCode.NODE_UNAVAILABLE


class Answers:
    """Makes replies. Holds none."""

    def __init__(self, run_id: int, blobs: BlobStore, evidence: StoredEvidence) -> None:
        self._run_id, self._blobs, self._evidence = run_id, blobs, evidence

    def reply(self, batch: Batch, order: str) -> Message:
        """The member's reply, or `Message(error)` if it was refused or never came. D106 if damaged."""
        header = batch.orders[order].header(self._run_id)
        if order in batch.refused:
            code, reason = batch.refused[order]
            number = flower.RAISED if code == "M108" else REFUSED
            return flower.failed(header, Failure(number, f"{code}: {reason}"))
        if order not in batch.accepted:
            return flower.failed(header, Failure(SILENT, batches.SILENT))
        content = batch.accepted[order]
        if batch.recalled:
            self.check(content)
        records = flower.decode(self._evidence.envelope(content), self._blobs)
        return flower.reply_to_order(header, records)

    def check(self, content: str) -> None:
        """D106 unless the bytes on disk are still those that the journal names."""
        self._blobs.check(content)
        for blob in self._evidence.envelope(content).blobs():
            self._blobs.check(blob)

    def strangers(
        self, orders: Sequence[Order], drafts: Sequence[Draft], name_of: Callable[[int], str]
    ) -> list[Message]:
        """`Message(error)` for each destination that is not on the roster (M111)."""
        answers = []
        for o, draft in zip(orders, drafts, strict=True):
            if (node_id := draft.node_id) is None:
                continue
            header = flower.Header(self._run_id, o.id, node_id, o.type, o.group, o.ttl, o.created)
            reason = f"M111: node {name_of(node_id)} is not on the roster"
            answers.append(flower.failed(header, Failure(ABSENT, reason)))
        return answers
