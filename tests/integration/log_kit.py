"""A small Merkle log for scripted coordinators: what an honest one shows, and what one may make of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import merkle, notes
from barnraise.protocols.entries import Entry
from barnraise.protocols.notes import Checkpoint


class KitLog:
    """Entries in memory, and the tree over them. Whoever has threads guards it."""

    def __init__(self, origin: str, key: Ed25519PrivateKey) -> None:
        self.origin, self.key = origin, key
        self.entries: list[bytes] = []
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._frontier = merkle.Frontier()

    def append(self, type_: str, body: Mapping[str, Any]) -> int:
        data = Entry(type_, "2026-01-01T00:00:00Z", dict(body)).encode()
        for level, index, value in self._frontier.append(merkle.leaf_hash(data)):
            self._nodes[level, index] = value
        self.entries.append(data)
        return len(self.entries) - 1

    def branch(self, size: int) -> KitLog:
        """Another log by the same key that begins with the first `size` entries of this one."""
        other = KitLog(self.origin, self.key)
        for data in self.entries[:size]:
            entry = Entry.decode(data)
            other.append(entry.type, entry.body)
        return other

    @property
    def size(self) -> int:
        return len(self.entries)

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(self.origin, size, merkle.root_of(self._node, size))

    def note(self, size: int) -> bytes:
        return notes.sign_checkpoint(self.key, self.checkpoint(size))

    def consistency(self, one: int, other: int) -> list[bytes]:
        low, high = sorted((one, other))
        if not low or high > self.size:
            return []
        return merkle.consistency_path(self._node, low, high)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        return merkle.inclusion_path(self._node, index, size)

    def entry_of(self, index: int) -> pb.Evidence:
        """What names an entry, without checkpoint or proofs."""
        return pb.Evidence(index=index, entry=self.entries[index])

    def prove(self, evidence: pb.Evidence, seen: int, size: int | None = None) -> None:
        """Add the checkpoint of a size (now's), and the proofs towards it."""
        size = self.size if size is None else size
        evidence.checkpoint = self.note(size)
        evidence.old_size = seen
        evidence.consistency.extend(self.consistency(seen, size))
        if evidence.entry:
            evidence.inclusion.extend(self.inclusion(evidence.index, size))

    def _node(self, level: int, index: int) -> bytes:
        return self._nodes[level, index]
