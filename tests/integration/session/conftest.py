"""Lets the tests of this folder import their shared module, `session_kit`, by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from session_kit import House, Node

from barnraise.coordinator.fleet import Order


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A coordinator for three members, serving; ended with the test."""
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
def order(house: House) -> Order:
    """An order that ada has not answered."""
    order = house.order("ada")
    house.fleet.dispatch([order])
    return order


@pytest.fixture
def ada(house: House) -> Node:
    return house.node("ada")
