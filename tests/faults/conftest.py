"""Lets the tests of this folder import each other, what they start as a process, and the session kit."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "session"))
sys.path.insert(0, str(Path(__file__).parent))
