"""The Merkle tree of RFC 6962 §2.1: hashes, roots and proofs, from complete subtrees alone.

A node at (level, index) covers the 2^level leaves from index·2^level on. Only complete subtrees are
kept; they never change, so a log stores each once. Whoever makes a root or a proof is given them as
`node(level, index)`. Checking needs none of them: RFC 9162 §2.1.3.2 and §2.1.4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()

Node = Callable[[int, int], bytes]


class ProofError(ValueError):
    """A proof that does not show what it should. The message says why."""


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


# --- making roots and proofs ---------------------------------------------------------------------


def root_of(node: Node, size: int) -> bytes:
    """The root of the tree of the first `size` leaves."""
    return _hash_of(node, 0, size) if size else EMPTY_ROOT


def inclusion_path(node: Node, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 §2.1.1, from the leaf's sibling up. `ValueError` if not in it."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    path = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(_hash_of(node, middle, end))
            end = middle
        else:
            path.append(_hash_of(node, begin, middle))
            begin = middle
    return path[::-1]


def consistency_path(node: Node, old: int, new: int) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 §2.1.2; empty from the empty tree and between equal sizes."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves is not a later one of {old}")
    if old in (0, new):
        return []
    path = []
    begin, end = 0, new
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(_hash_of(node, middle, end))
            end = middle
        else:
            path.append(_hash_of(node, begin, middle))
            begin = middle
    if begin:
        path.append(_hash_of(node, begin, end))
    return path[::-1]


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _hash_of(node: Node, begin: int, end: int) -> bytes:
    """MTH(D[begin:end]) for a span that a proof can name: complete, or at the tree's right edge."""
    hashes = [
        node(level, (begin >> level) + index) for level, index in frontier_positions(end - begin)
    ]
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


# --- checking proofs -----------------------------------------------------------------------------


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """`ProofError` unless `leaf` is the hash of leaf `index` in the tree of this size and root.

    Root and size must come from one signed checkpoint: a path to the left of a tree's edge looks the
    same in trees of several sizes, and only the root tells them apart. Steps as in RFC 9162 §2.1.3.2.
    """
    # Step 1
    if not 0 <= index < size:
        raise ProofError(f"no leaf {index} in a tree of {size}")
    _check_hashes([leaf, root, *path])
    # Steps 2 and 3
    fn, sn, r = index, size - 1, leaf
    # Step 4
    for p in path:
        if sn == 0:
            raise ProofError("the inclusion path is too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    # Step 5
    if sn:
        raise ProofError("the inclusion path is too short")
    if r != root:
        raise ProofError("the inclusion path leads to another root")


def check_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]
) -> None:
    """`ProofError` unless the tree (new, new_root) begins with the tree (old, old_root).

    Steps as in RFC 9162 §2.1.4.2, to which we add the trivial cases: the empty tree, and equal sizes.
    """
    if not 0 <= old <= new:
        raise ProofError(f"a tree of {new} leaves is not a later one of {old}")
    _check_hashes([old_root, new_root, *path])
    if old in (0, new):
        _check_trivial(old, new, old_root, new_root, path)
        return
    # Step 1
    if not path:
        raise ProofError("the consistency path is too short")
    # Step 2
    hashes = list(path) if old & (old - 1) else [old_root, *path]
    # Steps 3 and 4
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    # Step 5
    fr = sr = hashes[0]
    # Step 6
    for c in hashes[1:]:
        if sn == 0:
            raise ProofError("the consistency path is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    # Step 7
    if sn:
        raise ProofError("the consistency path is too short")
    if fr != old_root:
        raise ProofError("the consistency path does not lead to the earlier root")
    if sr != new_root:
        raise ProofError("the consistency path does not lead to the later root")


def _check_trivial(
    old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]
) -> None:
    if path:
        raise ProofError("the consistency path is too long")
    if old == 0 and old_root != EMPTY_ROOT:
        raise ProofError("the earlier root is not that of an empty tree")
    if new == 0 and new_root != EMPTY_ROOT:
        raise ProofError("the later root is not that of an empty tree")
    if old == new and old_root != new_root:
        raise ProofError(f"two trees of {new} leaves have different roots")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(value) != 32 for value in hashes):
        raise ProofError("a hash is not 32 bytes long")
