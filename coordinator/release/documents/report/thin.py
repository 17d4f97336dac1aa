"""Fewer points than were measured, where there are many: what is drawn stays close to every one of them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise

Point = tuple[int, float]
ENOUGH = 0.001
"""Part of the values' range: a line this close to all points needs no more of them."""


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Of more than `most` points (ascending in x) at most so many, the first and the last among them.

    Where the straight lines between those kept are furthest from a point, that point is kept next
    (Ramer, Douglas, Peucker; heights, not distances).
    """
    if len(points) <= most:
        return list(points)
    values = [value for _, value in points]
    enough = ENOUGH * (max(values) - min(values))
    kept = {0, len(points) - 1}
    open_spans = [_furthest(points, 0, len(points) - 1)]
    while len(kept) < most and open_spans[0][0] < -enough:
        _, first, at, last = heapq.heappop(open_spans)
        kept.add(at)
        for span in ((first, at), (at, last)):
            heapq.heappush(open_spans, _furthest(points, *span))
    return [points[at] for at in sorted(kept)]


def off(points: Sequence[Point], drawn: Sequence[Point]) -> float:
    """How far, at most, a point is above or below the straight lines through `drawn`, which are of them."""
    places = [at for at, _ in points]
    ends = [places.index(at) for at, _ in drawn]
    return max((-_furthest(points, a, b)[0] for a, b in pairwise(ends)), default=0.0)


def spans(count: int, most: int) -> list[range]:
    """`range(count)` cut into at most `most` ranges of one length, the last perhaps shorter."""
    length = max(1, -(-count // most))
    return [range(at, min(at + length, count)) for at in range(0, count, length)]


def _furthest(points: Sequence[Point], first: int, last: int) -> tuple[float, int, int, int]:
    """(minus the greatest height off the line between the two, first, where, last); the heap's order."""
    (x, y), (end, top) = points[first], points[last]
    slope = (top - y) / (end - x) if end > x else 0.0
    off, at = 0.0, first
    for index in range(first + 1, last):
        place, value = points[index]
        height = abs(value - y - slope * (place - x))
        if height > off:
            off, at = height, index
    return -off, first, at, last
