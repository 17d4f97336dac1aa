"""The Merkle tree against published vectors, and against RFC 6962's own recursive definition."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from barnraise.protocols.merkle import Frontier, frontier_positions, leaf_hash, node_hash

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors/ledger.json").read_text())
LEAVES = [bytes.fromhex(x) for x in VECTORS["leaves_hex"]]


def reference_root(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    n = len(entries)
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < n:
        k *= 2
    left, right = reference_root(entries[:k]), reference_root(entries[k:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def grown(entries: list[bytes]) -> tuple[Frontier, dict[tuple[int, int], bytes]]:
    frontier, nodes = Frontier(), {}
    for entry in entries:
        for level, index, value in frontier.append(leaf_hash(entry)):
            assert (level, index) not in nodes
            nodes[level, index] = value
    return frontier, nodes


def test_the_published_leaf_hashes() -> None:
    assert [leaf_hash(leaf).hex() for leaf in LEAVES] == VECTORS["leaf_hashes_hex"]


@pytest.mark.parametrize("size", range(len(LEAVES) + 1))
def test_the_published_roots(size: int) -> None:
    assert grown(LEAVES[:size])[0].root().hex() == VECTORS["roots_hex"][str(size)]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.binary(max_size=3), max_size=140))
@example([b""] * 64)
@example([b"x"] * 129)
def test_any_number_of_leaves_gives_the_root_of_rfc_6962(entries: list[bytes]) -> None:
    frontier, nodes = grown(entries)
    assert frontier.size == len(entries)
    assert frontier.root() == reference_root(entries)
    for (level, index), value in nodes.items():
        covered = entries[index << level : (index + 1) << level]
        assert value == reference_root(covered)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 90), st.integers(0, 90))
def test_a_frontier_taken_up_again_goes_on_as_if_never_laid_down(first: int, more: int) -> None:
    entries = [b"%d" % i for i in range(first + more)]
    _, nodes = grown(entries[:first])
    again = Frontier(first, [nodes[position] for position in frontier_positions(first)])
    for entry in entries[first:]:
        again.append(leaf_hash(entry))
    assert again.root() == reference_root(entries)
    assert again.hashes == grown(entries)[0].hashes


@given(st.integers(0, 2**40))
def test_the_complete_subtrees_cover_every_leaf_once(size: int) -> None:
    covered = 0
    for level, index in frontier_positions(size):
        assert index << level == covered
        covered += 1 << level
    assert covered == size


def test_leaves_and_nodes_never_collide() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)
    assert node_hash(left, right) != node_hash(right, left)
