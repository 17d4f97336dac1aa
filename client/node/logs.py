"""The site's own logs. What stands in them never leaves the site, and they never fill its disk."""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

NODE_LOG = 4 << 20
WORKER_LOG = 8 << 20
"""Bytes in a log's file; one older file is kept beside it."""


def node_log(
    directory: Path, *, loud: bool = False, form: logging.Formatter | None = None
) -> logging.Logger:
    """The daemon's log: `logs/node.log`, and warnings, or with `loud` all of it, to standard error, in
    this `form`."""
    directory.mkdir(exist_ok=True)
    log = logging.getLogger("barnraise.node")
    log.handlers.clear()
    log.setLevel(logging.INFO)
    log.propagate = False
    file = RotatingFileHandler(directory / "node.log", maxBytes=NODE_LOG, backupCount=1)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    told = logging.StreamHandler(sys.stderr)
    told.setLevel(logging.INFO if loud else logging.WARNING)
    told.setFormatter(form)
    log.addHandler(file)
    log.addHandler(told)
    return log


class Capped:
    """Bytes appended to a file that is set aside, in place of the one before it, when it is full."""

    def __init__(self, path: Path, most: int = WORKER_LOG) -> None:
        self._path, self._most = path, most
        path.parent.mkdir(exist_ok=True)
        self._open()

    def _open(self) -> None:
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append; what a full disk does not take is lost."""
        if self._size and self._size + len(data) > self._most:
            self.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._open()
        try:
            self._size += os.write(self._fd, data)
        except OSError:
            return

    def close(self) -> None:
        os.close(self._fd)
