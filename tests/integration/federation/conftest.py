"""Lets the tests of this folder import their shared module, `floor_kit`, by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from floor_kit import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A founded federation with two members, served between runs; ended with the test."""
    with House(tmp_path) as house:
        yield house
