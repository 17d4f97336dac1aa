"""Large files that are not needed any more, kept to be written over.

To make a file anew costs the disk's bookkeeping and memory that was never touched; to write over an old one
costs neither. What is in a spare file is nobody's: whoever takes it says how much of it counts.

What a worker may write, and may hold open, goes back to the worker alone: what is fetched into would be
open to it. So daemon and worker each have a folder, and a worker finds in its own whatever it puts there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

LEAST = 1 << 18  # bytes of a file that is worth keeping
MOST = 3  # files that are kept
MARK_EVERY = 8 << 20  # bytes after which a growing file notes how far it is
_PIECE = 1 << 20


def emptied(folder: Path) -> None:
    """Remove whatever lies there, as far as that can be had: a worker's code may have put it there."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class Spares:
    """`keep` belongs to the daemon's main thread; `take` may be called from anywhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def clear(self) -> None:
        """Make the folder, and empty it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        emptied(self.folder)

    def keep(self, path: Path) -> None:
        """Take this file from where it is. It is removed if it is small, or has another name as well: what
        lies among the spares may be written over at once."""
        try:
            held = path.stat()
        except FileNotFoundError:
            return
        if held.st_nlink > 1 or held.st_size < LEAST or len(list(self.folder.iterdir())) >= MOST:
            path.unlink()
            return
        self._count += 1
        try:
            path.rename(self.folder / str(self._count))
        except OSError:  # a folder of that name, or a full disk
            path.unlink()

    def take(self, target: Path, size: int) -> bool:
        """Move a spare file to `target`, if there is one, and `size` bytes are worth it."""
        for spare in () if size < LEAST else self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                spare.rename(target)
                return True
        return False


class Growing:
    """A file that is being fetched, of which the first `at` bytes count.

    A spare is written over under the name `NAME.over`: of what it holds counts as much as `NAME.at` says,
    nothing without that. The number never runs ahead of the bytes, so a daemon that was killed goes on there.
    """

    def __init__(self, path: Path, spares: Spares, size: int) -> None:
        """`size`: what it may come to, in bytes."""
        self._path = path
        self._over, self._mark = (path.with_name(path.name + end) for end in (".over", ".at"))
        self._spare = not path.exists() and (self._over.exists() or spares.take(self._over, size))
        how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self._fd = os.open(self._over if self._spare else path, how, 0o600)
        there = os.fstat(self._fd).st_size
        self.at = self._noted = min(there, self._marked()) if self._spare else there

    def _marked(self) -> int:
        try:
            return max(0, int(self._mark.read_bytes()))
        except (FileNotFoundError, ValueError):
            return 0

    def hasher(self) -> hashlib._Hash:
        """Of what counts."""
        hasher = hashlib.sha256()
        for start in range(0, self.at, _PIECE):
            hasher.update(os.pread(self._fd, min(_PIECE, self.at - start), start))
        return hasher

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, self.at)
            view, self.at = view[count:], self.at + count
        if self._spare and self.at - self._noted >= MARK_EVERY:
            self._mark.write_bytes(str(self.at).encode())
            self._noted = self.at

    def close(self) -> None:
        """What does not count is cut off."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            os.ftruncate(fd, self.at)
            if self._noted:
                self._mark.unlink(missing_ok=True)
            if self._spare:
                self._over.rename(self._path)
        finally:
            os.close(fd)

    def drop(self) -> None:
        """The file is worth nothing."""
        self.close()
        self._path.unlink(missing_ok=True)
