"""How long to wait before trying again: doubling from 0.1 s to 10 s, jittered so that nodes spread out."""

from __future__ import annotations

FIRST, MOST = 0.1, 10.0


def delay(failures: int, draw: float) -> float:
    """Seconds to wait after `failures` failures in a row (1 or more); `draw` is uniform in [0, 1).

    Between half of and the whole of `min(10, 0.1 · 2^(failures - 1))`.
    """
    whole = min(MOST, FIRST * 2.0 ** min(failures - 1, 16))
    return whole * (0.5 + draw / 2)
