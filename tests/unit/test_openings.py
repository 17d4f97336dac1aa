"""Leaves of private data, opened: each verifies, and nothing that is changed does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.protocols import canonical, merkle
from barnraise.protocols.openings import Opening, OpeningError, Tree, leaf_of, salt_of

KEY, DOCUMENT = b"salt", canonical.digest(b"statement")
RECORDS = [b"the first", b"", b"the same", b"the same", b"the last"]


def tree_of(records: list[bytes], chosen: tuple[int, ...] = (), key: bytes = KEY) -> Tree:
    tree = Tree(key, chosen, len(records) if chosen else 0)
    for record in records:
        tree.append(record)
    return tree


def opening(*chosen: int) -> Opening:
    return Opening(DOCUMENT, tuple(tree_of(RECORDS, chosen).opened()))


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40), st.data())
@settings(deadline=None, max_examples=50)
def test_any_record_that_is_opened_verifies(records: list[bytes], data: st.DataObject) -> None:
    chosen = tuple(data.draw(st.sets(st.integers(0, len(records) - 1), min_size=1, max_size=4)))
    root = tree_of(records).root()
    made = Opening(DOCUMENT, tuple(tree_of(records, chosen).opened()))
    read = Opening.decode(made.encode())
    assert read == made
    read.check(DOCUMENT, len(records), root)
    assert [one.record for one in read.records] == [records[i] for i in sorted(chosen)]


def test_the_root_is_that_of_rfc_6962() -> None:
    leaves = [leaf_of(salt_of(KEY, i, r), r) for i, r in enumerate(RECORDS)]
    frontier = merkle.Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    assert tree_of(RECORDS).root() == frontier.root()


def test_without_the_key_a_leaf_tells_nothing() -> None:
    assert tree_of(RECORDS).root() != tree_of(RECORDS, key=b"other").root()
    same = [salt_of(KEY, i, RECORDS[i]) for i in (2, 3)]
    assert same[0] != same[1]
    assert salt_of(KEY, 2, b"changed") != same[0]


def test_a_changed_record_does_not_verify() -> None:
    root, good = tree_of(RECORDS).root(), opening(0, 4)
    good.check(DOCUMENT, 5, root)
    one = good.records[1]
    for other in (
        replace(one, record=b"the lost"),
        replace(one, salt=bytes(32)),
        replace(one, index=3),
        replace(one, path=one.path[:-1]),
        replace(one, path=(*one.path, bytes(32))),
        replace(one, path=(b"short",)),
    ):
        with pytest.raises(OpeningError):
            Opening(DOCUMENT, (good.records[0], other)).check(DOCUMENT, 5, root)


def test_an_opening_is_of_one_statement() -> None:
    root, good = tree_of(RECORDS).root(), opening(1)
    for document, size, of in (
        (canonical.digest(b"other"), 5, root),
        (DOCUMENT, 5, bytes(32)),
    ):
        with pytest.raises(OpeningError):
            good.check(document, size, of)
    with pytest.raises(OpeningError, match="nothing"):
        Opening(DOCUMENT, ()).check(DOCUMENT, 5, root)


def test_an_opening_is_read_strictly() -> None:
    data = opening(0).encode()
    for other in (
        data + b"\n",
        b"{}",
        b"[]",
        data.replace(b'"index":0', b'"index":"0"'),
        data.replace(b'"salt":"', b'"salt":"zz'),
        data.replace(b"opening/v1", b"opening/v2"),
        data.replace(b'"format"', b'"also":1,"format"'),
    ):
        with pytest.raises(OpeningError):
            Opening.decode(other)
