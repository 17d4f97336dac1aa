"""Lets the tests of this folder import their shared module, `enrolment_kit`, by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from enrolment_kit import Coordinator, founded


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = founded(tmp_path / "authority")
    yield made
    made.server.stop(None).wait(10)
