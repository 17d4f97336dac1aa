"""Lets the tests of this folder import `driver`, which they also start as a process."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
