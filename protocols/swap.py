"""A small file that is replaced all the time, by one exchange of names where the kernel has it.

What was replaced stays beside it as `.NAME.spare` and is written over by what comes next, so that no file is
made or removed: that can cost a disk more than to write and sync the bytes. Never for what must be gone
once it is replaced, as a key. A reader opens the file anew each time: one that is held open across two
exchanges is written over.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from barnraise.protocols.files import fsync, sync_data

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EPERM)
_libc = ctypes.CDLL(None, use_errno=True)
_synced: set[Path] = set()  # whose last exchange is durable, as this process knows


def swap(path: Path, data: bytes) -> None:
    """Write a file (0600) in place of the one that may be there; durable on return. A kill leaves either.

    What an exchange left as spare may still be the file on the disk, until the folder is synced: so that
    is done before it is written over, where this process cannot know.
    """
    if path not in _synced:
        fsync(path.parent)
    _synced.discard(path)
    spare = path.with_name(f".{path.name}.spare")
    fd = os.open(spare, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.ftruncate(fd, len(data))
        sync_data(fd)
    finally:
        os.close(fd)
    if not _exchanged(spare, path):
        spare.rename(path)
    fsync(path.parent)
    _synced.add(path)


def _exchanged(one: Path, other: Path) -> bool:
    """Each has the other's name now; False where there is no other yet, or where this is not to be had."""
    if not hasattr(_libc, "renameat2"):
        return False
    if not _libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOENT, *_CANNOT):
        return False
    raise OSError(number, os.strerror(number), str(other))
