"""Lets the tests of this folder import their shared module, `session_kit`, by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[object]:
    """A coordinator for three members, serving; ended with the test."""
    from session_kit import House

    house = House(tmp_path)
    yield house
    house.close()
