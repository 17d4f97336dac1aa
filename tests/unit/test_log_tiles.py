"""Tiles: the published paths, and that a tree can be had back from its tiles alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.protocols import merkle, tiles
from barnraise.protocols.tiles import Bundle, Tile, TileError

VECTORS = json.loads((Path(__file__).parent / "vectors/ledger.json").read_text())


def test_the_published_paths() -> None:
    assert tiles.number_path(1234067) == VECTORS["tile_paths"]["tile number 1234067"]
    full, *rest = VECTORS["tile_paths"]["70000"]
    paths = [tile.path for tile in tiles.tiles_of(70_000)]
    first, last = full.removesuffix(" full").split(" .. ")
    assert (paths[0], paths[272]) == (first, last)
    assert paths[273:] == rest


def test_a_tree_of_256_has_a_partial_tile_above() -> None:
    assert [t.path for t in tiles.tiles_of(256)] == ["tile/0/000", "tile/1/000.p/1"]
    assert [b.path for b in tiles.bundles_of(257)] == ["tile/entries/000", "tile/entries/001.p/1"]
    assert list(tiles.tiles_of(0)) == list(tiles.bundles_of(0)) == []
    assert Bundle(3, 7).first == 768


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 1100))
def test_any_root_follows_from_the_tiles(size: int) -> None:
    frontier, nodes = merkle.Frontier(), {}
    for i in range(size):
        nodes |= {(level, at): h for level, at, h in frontier.append(merkle.leaf_hash(b"%d" % i))}
    held: dict[tuple[int, int], bytes] = {}
    for tile in tiles.tiles_of(size):
        data = tile.hashes(lambda level, index: nodes[level, index])
        for i, value in enumerate(tiles.unpack_hashes(data, tile.width)):
            held[8 * tile.level, tile.number * tiles.WIDTH + i] = value

    def node(level: int, index: int) -> bytes:
        if level % 8 == 0:
            return held[level, index]
        return merkle.node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))

    assert merkle.root_of(node, size) == frontier.root()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=300), max_size=40))
def test_entries_are_unpacked_as_they_were_packed(entries: list[bytes]) -> None:
    data = tiles.pack_entries(entries)
    assert tiles.unpack_entries(data, len(entries)) == entries
    with pytest.raises(TileError):
        tiles.unpack_entries(data + b"\0", len(entries))
    with pytest.raises(TileError, match="not"):
        tiles.unpack_entries(data, len(entries) + 1)


def test_no_entry_is_too_long_for_its_length() -> None:
    assert tiles.unpack_entries(tiles.pack_entries([b"x" * 65_535]), 1) == [b"x" * 65_535]
    with pytest.raises(ValueError, match="65536 bytes"):
        tiles.pack_entries([b"x" * 65_536])


@pytest.mark.parametrize("width", [0, 257])
def test_a_tile_holds_up_to_256(width: int) -> None:
    with pytest.raises(ValueError, match="1 to 256"):
        Tile(0, 0, width).path  # noqa: B018


def test_a_tile_of_another_length_is_none() -> None:
    with pytest.raises(TileError, match="not 64"):
        tiles.unpack_hashes(b"\0" * 63, 2)
    with pytest.raises(ValueError, match="not negative"):
        tiles.number_path(-1)
