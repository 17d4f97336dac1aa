"""What the kernel keeps of files in memory: written early, and let go of when nobody will read it again.

Advice and nothing else: where the kernel knows it not, or refuses, the files are the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

STEP = 8 << 20  # bytes after which writing to the disk is begun
_WRITE = 2  # SYNC_FILE_RANGE_WRITE

_libc = ctypes.CDLL(None)


class EarlyWriteback:
    """Begins to write a growing file to the disk while it grows, so that its fsync has little left to do."""

    def __init__(self, fd: int, start: int = 0) -> None:
        self._fd, self._done = fd, start

    def grown(self, size: int) -> None:
        """The file is written up to `size` by now."""
        if size - self._done >= STEP and hasattr(_libc, "sync_file_range"):
            length = size - self._done
            offset, count = ctypes.c_int64(self._done), ctypes.c_int64(length)
            _libc.sync_file_range(self._fd, offset, count, ctypes.c_uint(_WRITE))
            self._done = size


def let_go(paths: Iterable[Path]) -> None:
    """Nobody will read these soon. What is not on the disk yet stays in memory."""
    for path in paths:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
