"""L6: the coordinator's memory does not grow with the members, at 100 MB, each a node of its own.

A small slice with scripted members stands in `integration/session/test_session_memory.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GROWTH = 1.1  # of 4 members' peak, with 16
APP = BENCHMARKS / "apps" / "flower_round"


def peak(place: Path, sites: int, mb: float, strategy: str = "ours") -> float:
    """The coordinator's peak resident memory in MB, members as nodes of their own, distinct replies."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from engines import ours
    finally:
        sys.path.remove(str(BENCHMARKS))
    config = {"nodes": sites, "rounds": 2, "mb": mb, "distinct": True, "strategy": strategy}
    told = ours.run(APP, place / f"{strategy}-{sites}", sites, config)
    return float(told["peak MB"]["coordinator"])


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "most"), [("ours", 260.0), ("flower", 480.0)])
def test_l6_flat_memory_at_100_mb_with_4_8_and_16_members(
    tmp_path: Path, strategy: str, most: float
) -> None:
    peaks = {sites: peak(tmp_path, sites, 100.0, strategy) for sites in (4, 8, 16)}
    assert peaks[4] <= most, peaks
    assert peaks[16] <= GROWTH * peaks[4], peaks
