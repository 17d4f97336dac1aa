"""The tiles that a log's entries give, one after the other. Pure: leaf hashes in, bytes of tiles out.

Only the tile that is being filled is held at each level, so the size of a log costs no memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from barnraise.protocols import merkle
from barnraise.protocols.tiles import WIDTH, Tile


class Regrown:
    """Every tile of hashes in `tiles.tiles_of(size)` comes exactly once, from `append` or from `rest`."""

    def __init__(self) -> None:
        self._frontier = merkle.Frontier()
        self._filling: list[list[bytes]] = []
        self._done: list[int] = []

    @property
    def size(self) -> int:
        return self._frontier.size

    def root(self) -> bytes:
        return self._frontier.root()

    def append(self, leaf: bytes) -> Iterator[tuple[Tile, bytes]]:
        """Take the next leaf's hash; the tiles that it completes."""
        for level, _, value in self._frontier.append(leaf):
            if level % 8 == 0:
                yield from self._add(level // 8, value)

    def _add(self, level: int, value: bytes) -> Iterator[tuple[Tile, bytes]]:
        if level == len(self._filling):
            self._filling.append([])
            self._done.append(0)
        held = self._filling[level]
        held.append(value)
        if len(held) == WIDTH:
            yield Tile(level, self._done[level]), b"".join(held)
            self._done[level] += 1
            held.clear()

    def rest(self) -> Iterator[tuple[Tile, bytes]]:
        """The partial tiles of a log that ends here."""
        for level, held in enumerate(self._filling):
            if held:
                yield Tile(level, self._done[level], len(held)), b"".join(held)
