"""`tlog-tiles` of C2SP: a log as static files, 256 hashes or entries each.

    tile/<L>/<N>[.p/<W>]          W hashes of complete subtrees of 256^L leaves (256 without the suffix)
    tile/entries/<N>[.p/<W>]      W entries, each after its length as a big-endian uint16

N is written in groups of three digits (1234067 is `x001/x234/067`). Hashes are given as `node(level, index)`
of the binary tree (`merkle.Node`). It knows no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from barnraise.protocols.merkle import Node

WIDTH = 256
_MAX_ENTRY = 0xFFFF


class TileError(ValueError):
    """Bytes that are no tile of this width."""


@dataclass(frozen=True)
class Tile:
    """A tile of hashes by its place. `width` is 256 for a full one, else 1 to 255."""

    level: int
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        return f"tile/{self.level}/{number_path(self.number)}{_suffix(self.width)}"

    def hashes(self, node: Node) -> bytes:
        """Its bytes: `width` hashes of 32."""
        first = self.number * WIDTH
        return b"".join(node(8 * self.level, first + i) for i in range(self.width))


@dataclass(frozen=True)
class Bundle:
    """A tile of entries by its place."""

    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        return f"tile/entries/{number_path(self.number)}{_suffix(self.width)}"

    @property
    def first(self) -> int:
        """The index of its first entry."""
        return self.number * WIDTH


def number_path(number: int) -> str:
    """`273` is `273`, `1234067` is `x001/x234/067`."""
    if number < 0:
        raise ValueError("the number of a tile is not negative")
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03d}")
    return "/".join(reversed(groups))


def tiles_of(size: int) -> Iterator[Tile]:
    """Every tile of hashes of a tree of `size` leaves, the partial ones included."""
    level = 0
    while count := size >> 8 * level:
        for number, width in _split(count):
            yield Tile(level, number, width)
        level += 1


def bundles_of(size: int) -> Iterator[Bundle]:
    """Every tile of entries of a log of `size` entries."""
    for number, width in _split(size):
        yield Bundle(number, width)


def pack_entries(entries: Iterable[bytes]) -> bytes:
    """The bytes of a tile of entries. `ValueError` for an entry over 65,535 bytes."""
    packed = []
    for entry in entries:
        if len(entry) > _MAX_ENTRY:
            raise ValueError(f"an entry of {len(entry)} bytes; the limit is {_MAX_ENTRY}")
        packed += [len(entry).to_bytes(2, "big"), entry]
    return b"".join(packed)


def unpack_entries(data: bytes, width: int) -> list[bytes]:
    """`unpack_entries(pack_entries(e), len(e)) == e`; anything else is a `TileError`."""
    entries, at = [], 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise TileError("a tile of entries is cut short")
        entries.append(data[at + 2 : end])
        at = end
    if len(entries) != width:
        raise TileError(f"a tile of {len(entries)} entries, not {width}")
    return entries


def unpack_hashes(data: bytes, width: int) -> list[bytes]:
    """The hashes in a tile's bytes, or `TileError`."""
    if len(data) != 32 * width:
        raise TileError(f"a tile of {len(data)} bytes, not {32 * width}")
    return [data[i : i + 32] for i in range(0, len(data), 32)]


def _split(count: int) -> Iterator[tuple[int, int]]:
    """(number, width) of the tiles that hold `count` things."""
    for number in range(count // WIDTH):
        yield number, WIDTH
    if rest := count % WIDTH:
        yield count // WIDTH, rest


def _suffix(width: int) -> str:
    if not 1 <= width <= WIDTH:
        raise ValueError("a tile holds 1 to 256 things")
    return "" if width == WIDTH else f".p/{width}"
