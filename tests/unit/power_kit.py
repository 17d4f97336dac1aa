"""What a power cut would leave: a file whose bytes were synced, under a name that its folder was synced with.

Whatever was written and not synced is gone, and so is a name made after its folder's last sync. Databases are
SQLite's own business.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_NOT_OURS = (".db", "-wal", "-shm", ".mark", "lock")


class Power:
    """By inode: the mtime that a file had when it was synced last, and the names that a folder had."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        self._folders: dict[int, dict[str, int]] = {}

    def note(self, fd: int) -> None:
        held = os.fstat(fd)
        if stat.S_ISDIR(held.st_mode):
            inodes = {
                n: os.stat(n, dir_fd=fd, follow_symlinks=False).st_ino for n in os.listdir(fd)
            }
            self._folders[held.st_ino] = inodes
        else:
            self._files[held.st_ino] = held.st_mtime_ns

    def lost(self, root: Path) -> list[str]:
        """What lies under `root`, and `root` itself, and would not be there as it is after a cut."""
        paths = [root, *sorted(root.rglob("*"))]
        kept = (p for p in paths if not p.name.endswith(_NOT_OURS) and not p.is_socket())
        return [str(p.relative_to(root)) for p in kept if not (self._whole(p) and self._named(p))]

    def synced(self, path: Path) -> bool:
        """Whether a file's bytes were, as they are."""
        held = path.stat()
        return self._files.get(held.st_ino) == held.st_mtime_ns

    def _whole(self, path: Path) -> bool:
        return path.is_dir() or self.synced(path)

    def _named(self, path: Path) -> bool:
        folder = self._folders.get(path.parent.stat().st_ino, {})
        return folder.get(path.name) == path.stat().st_ino


@contextmanager
def watched(patch: pytest.MonkeyPatch) -> Iterator[Power]:
    power = Power()
    for name in ("fsync", "fdatasync"):
        patch.setattr(os, name, _noting(getattr(os, name), power))
    yield power


def _noting(sync: Callable[[int], None], power: Power) -> Callable[[int], None]:
    def noted(fd: int) -> None:
        sync(fd)
        power.note(fd)

    return noted
