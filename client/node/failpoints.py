"""Where tests kill a node's processes: named points, reached in the order in which they stand here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "BARNRAISE_NODE_KILL_AT"
IN_WORKER = ("worker:asked", "worker:handled", "worker:encoded")
IN_DAEMON = (
    "daemon:fetched",
    "daemon:answered",
    "daemon:blobs-durable",
    "daemon:written",
    "daemon:committed",
    "daemon:delivered",
    "daemon:receipted",
    "daemon:forgotten",
)


_ASKED = tuple(filter(None, os.environ.get(VARIABLE, "").split(";")))


def reach(point: str) -> None:
    """`BARNRAISE_NODE_KILL_AT=POINT:FILE;…` kills this process at each POINT, once: it makes FILE."""
    for spec in _ASKED:
        wanted, _, marker = spec.rpartition(":")
        if wanted == point:
            _die_once(Path(marker))


def _die_once(marker: Path) -> None:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
