"""The Merkle tree of RFC 6962 §2.1: hashes, roots, and the complete subtrees that appending needs.

A node at (level, index) covers the 2^level leaves from index·2^level on. Only complete subtrees are
kept; they never change, so a log stores each once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def frontier_positions(size: int) -> list[tuple[int, int]]:
    """The (level, index) of the complete subtrees of a tree of `size` leaves, from left to right."""
    positions = []
    covered = 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            positions.append((level, covered >> level))
            covered += 1 << level
    return positions


class Frontier:
    """The right edge of a growing tree: what is needed to append a leaf and to tell the root.

    `append` returns every subtree that the new leaf completes, as (level, index, hash), leaf first.
    """

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        assert len(hashes) == size.bit_count()
        self.size = size
        self._hashes = list(hashes)

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        level, index, current = 0, self.size, leaf
        completed = [(level, index, current)]
        while index & 1:
            current = node_hash(self._hashes.pop(), current)
            level, index = level + 1, index >> 1
            completed.append((level, index, current))
        self._hashes.append(current)
        self.size += 1
        return completed

    @property
    def hashes(self) -> tuple[bytes, ...]:
        return tuple(self._hashes)

    def root(self) -> bytes:
        if not self._hashes:
            return EMPTY_ROOT
        root = self._hashes[-1]
        for left in reversed(self._hashes[:-1]):
            root = node_hash(left, root)
        return root
