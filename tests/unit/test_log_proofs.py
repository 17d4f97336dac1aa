"""Inclusion and consistency proofs: published vectors, any tree, any damage, and another implementation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree, verify_consistency, verify_inclusion

from barnraise.protocols.merkle import (
    EMPTY_ROOT,
    Frontier,
    ProofError,
    check_consistency,
    check_inclusion,
    consistency_path,
    inclusion_path,
    leaf_hash,
    root_of,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors/ledger.json").read_text())
LEAVES = [bytes.fromhex(x) for x in VECTORS["leaves_hex"]]
SIZES = st.integers(1, 300)


class Tree:
    """Any log: its entries are all different."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.leaves = [leaf_hash(e) for e in entries]
        self.nodes: dict[tuple[int, int], bytes] = {}
        frontier = Frontier()
        for leaf in self.leaves:
            self.nodes |= {(level, i): value for level, i, value in frontier.append(leaf)}

    def node(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]

    def root(self, size: int) -> bytes:
        return root_of(self.node, size)


@cache
def grown() -> Tree:
    return Tree([b"entry %d" % i for i in range(300)])


def flipped(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(len(value), "big")


@st.composite
def positions(draw: st.DrawFn) -> tuple[int, int]:
    size = draw(SIZES)
    return draw(st.integers(0, size - 1)), size


@st.composite
def growths(draw: st.DrawFn) -> tuple[int, int]:
    new = draw(SIZES)
    return draw(st.integers(0, new)), new


# --- the published vectors -------------------------------------------------------------------------


def test_every_published_root() -> None:
    tree = Tree(LEAVES)
    assert {str(n): tree.root(n).hex() for n in range(9)} == VECTORS["roots_hex"]


@pytest.mark.parametrize("case", VECTORS["inclusion"], ids=lambda c: f"{c['index']}of{c['size']}")
def test_every_published_inclusion_path(case: dict[str, Any]) -> None:
    tree = Tree(LEAVES)
    index, size = case["index"], case["size"]
    path = inclusion_path(tree.node, index, size)
    assert [value.hex() for value in path] == case["path_hex"]
    check_inclusion(tree.leaves[index], index, size, path, tree.root(size))


@pytest.mark.parametrize("case", VECTORS["consistency"], ids=lambda c: f"{c['old']}to{c['new']}")
def test_every_published_consistency_path(case: dict[str, Any]) -> None:
    tree = Tree(LEAVES)
    old, new = case["old"], case["new"]
    path = consistency_path(tree.node, old, new)
    assert [value.hex() for value in path] == case["path_hex"]
    check_consistency(old, new, tree.root(old), tree.root(new), path)


# --- any tree --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(positions())
@example((0, 1))
@example((255, 256))
@example((256, 257))
def test_any_leaf_of_any_tree_is_proven(position: tuple[int, int]) -> None:
    index, size = position
    tree = grown()
    path = inclusion_path(tree.node, index, size)
    assert len(path) <= size.bit_length()
    check_inclusion(tree.leaves[index], index, size, path, tree.root(size))


@settings(deadline=None, max_examples=150)
@given(growths())
@example((0, 1))
@example((0, 256))
@example((128, 256))
@example((300, 300))
def test_any_pair_of_sizes_is_consistent(growth: tuple[int, int]) -> None:
    old, new = growth
    tree = grown()
    path = consistency_path(tree.node, old, new)
    check_consistency(old, new, tree.root(old), tree.root(new), path)


def test_the_empty_tree_is_where_every_log_begins() -> None:
    check_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    assert consistency_path(grown().node, 0, 7) == []


# --- any damage ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(positions(), st.data())
def test_any_bit_of_an_inclusion_proof_matters(
    position: tuple[int, int], data: st.DataObject
) -> None:
    index, size = position
    tree = grown()
    leaf, root = tree.leaves[index], tree.root(size)
    path = inclusion_path(tree.node, index, size)
    bit = data.draw(st.integers(0, 255))
    with pytest.raises(ProofError):
        check_inclusion(flipped(leaf, bit), index, size, path, root)
    with pytest.raises(ProofError):
        check_inclusion(leaf, index, size, path, flipped(root, bit))
    with pytest.raises(ProofError):
        check_inclusion(leaf, index ^ 1 << bit % 12, size, path, root)
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        bad = [*path[:at], flipped(path[at], bit), *path[at + 1 :]]
        with pytest.raises(ProofError):
            check_inclusion(leaf, index, size, bad, root)
        with pytest.raises(ProofError, match=r"short|another root"):
            check_inclusion(leaf, index, size, path[:-1], root)
    with pytest.raises(ProofError, match=r"long|another root"):
        check_inclusion(leaf, index, size, [*path, root], root)


@settings(deadline=None, max_examples=150)
@given(positions(), st.integers(0, 9))
def test_another_size_has_another_root(position: tuple[int, int], bit: int) -> None:
    """A size is bound by the root that is signed with it: each size's own root refuses the path."""
    index, size = position
    tree = grown()
    path = inclusion_path(tree.node, index, size)
    other = size ^ 1 << bit
    if other <= index or other > 300:
        with pytest.raises(ProofError):
            check_inclusion(tree.leaves[index], index, other, path, leaf_hash(b"none such"))
        return
    with pytest.raises(ProofError):
        check_inclusion(tree.leaves[index], index, other, path, tree.root(other))


@settings(deadline=None, max_examples=150)
@given(growths(), st.data())
def test_any_bit_of_a_consistency_proof_matters(
    growth: tuple[int, int], data: st.DataObject
) -> None:
    old, new = growth
    tree = grown()
    roots = tree.root(old), tree.root(new)
    path = consistency_path(tree.node, old, new)
    bit = data.draw(st.integers(0, 255))
    with pytest.raises(ProofError):
        check_consistency(old, new, flipped(roots[0], bit), roots[1], path)
    if old:
        with pytest.raises(ProofError):
            check_consistency(old, new, roots[0], flipped(roots[1], bit), path)
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        bad = [*path[:at], flipped(path[at], bit), *path[at + 1 :]]
        with pytest.raises(ProofError):
            check_consistency(old, new, *roots, bad)
        with pytest.raises(ProofError):
            check_consistency(old, new, *roots, path[:-1])
    with pytest.raises(ProofError):
        check_consistency(old, new, *roots, [*path, roots[0]])


@settings(deadline=None, max_examples=100)
@given(growths(), st.integers(0, 9), st.booleans())
def test_a_consistency_proof_is_for_its_two_sizes(
    growth: tuple[int, int], bit: int, which: bool
) -> None:
    old, new = growth
    if old == 0:
        return
    tree = grown()
    path = consistency_path(tree.node, old, new)
    wrong_old, wrong_new = (old ^ 1 << bit, new) if which else (old, new ^ 1 << bit)
    if not (0 < wrong_old <= 300 and 0 < wrong_new <= 300):
        return
    with pytest.raises(ProofError):
        check_consistency(wrong_old, wrong_new, tree.root(wrong_old), tree.root(wrong_new), path)


@settings(deadline=None, max_examples=60)
@given(growths(), st.integers(0, 299))
def test_a_rewritten_entry_breaks_every_consistency_proof(
    growth: tuple[int, int], rewritten: int
) -> None:
    old, new = growth
    if rewritten >= old:
        return
    other = Tree([b"entry %d" % i if i != rewritten else b"another" for i in range(300)])
    path = consistency_path(other.node, old, new)
    with pytest.raises(ProofError):
        check_consistency(old, new, grown().root(old), other.root(new), path)


@pytest.mark.parametrize("index", [-1, 5, 6])
def test_no_proof_of_what_is_not_there(index: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_path(grown().node, index, 5)
    with pytest.raises(ProofError, match="no leaf"):
        check_inclusion(b"\0" * 32, index, 5, [], b"\0" * 32)


def test_a_smaller_tree_is_no_later_one() -> None:
    with pytest.raises(ValueError, match="not a later one"):
        consistency_path(grown().node, 6, 5)
    with pytest.raises(ProofError, match="not a later one"):
        check_consistency(6, 5, EMPTY_ROOT, EMPTY_ROOT, [])


def test_a_hash_has_32_bytes() -> None:
    tree = grown()
    path = inclusion_path(tree.node, 0, 2)
    with pytest.raises(ProofError, match="32 bytes"):
        check_inclusion(tree.leaves[0], 0, 2, [path[0] + b"\0"], tree.root(2))
    with pytest.raises(ProofError, match="32 bytes"):
        check_consistency(1, 2, tree.root(1), tree.root(2), [b""])


# --- another implementation -------------------------------------------------------------------------


def test_pymerkle_computes_the_same_roots_and_paths() -> None:
    """Every tree up to 70 leaves; pymerkle counts leaves from 1 and gives the leaf as a path's first."""
    theirs = InmemoryTree(algorithm="sha256")
    ours = grown()
    for size in range(1, 71):
        theirs.append_entry(b"entry %d" % (size - 1))
        assert theirs.get_root(size) == ours.root(size)
    for size in (1, 2, 3, 7, 8, 31, 64, 70):
        for index in range(size):
            proof = theirs.prove_inclusion(index + 1, size)
            assert proof.path[1:] == inclusion_path(ours.node, index, size)
            verify_inclusion(ours.leaves[index], ours.root(size), proof)


def test_pymerkle_and_we_agree_on_what_is_consistent() -> None:
    """Its paths have another form than RFC 6962's; both are checked against the other's roots."""
    theirs = InmemoryTree(algorithm="sha256")
    ours = grown()
    for i in range(40):
        theirs.append_entry(b"entry %d" % i)
    for new in range(2, 41):
        for old in range(1, new):
            proof = theirs.prove_consistency(old, new)
            verify_consistency(ours.root(old), ours.root(new), proof)
            path = consistency_path(ours.node, old, new)
            check_consistency(old, new, theirs.get_root(old), theirs.get_root(new), path)
