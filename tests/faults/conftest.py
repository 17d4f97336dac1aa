"""Lets the tests of this folder import `driver`, which they also start as a process, and the session's kit."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "session"))
sys.path.insert(0, str(Path(__file__).parent))
