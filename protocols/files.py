"""Small files that must not be lost or half there: keys, certificates, settings. And what disks say.

`keep` never overwrites: whoever comes second gets what is there, so a key is made once whatever happens.
`replace` is one rename. Both are durable when they return.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from barnraise.protocols.errors import BarnraiseError

FULL = (errno.ENOSPC, errno.EDQUOT)
_SQLITE_IOERR, _SQLITE_FULL = 10, 13  # <sqlite3.h>


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full, as the system or as we put it (D104)."""
    if isinstance(error, BarnraiseError):
        return error.code == "D104"
    return isinstance(error, OSError) and error.errno in FULL


def is_full_database(error: Exception, path: Path) -> bool:
    """Whether an error of SQLite's says of the database at `path` that the disk is full.

    It calls it an I/O error when there is no room for its shared memory file (32 KiB).
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code != _SQLITE_IOERR:
        return bool(code == _SQLITE_FULL)
    room = os.statvfs(path.parent)
    return room.f_bavail * room.f_frsize < 1 << 16


def keep(path: Path, data: bytes) -> bytes:
    """Write a file (0600) unless there is one; returns what it then holds."""
    if not path.exists():
        temp = _written(path, data)
        try:
            with suppress(FileExistsError):
                path.hardlink_to(temp)
        finally:
            temp.unlink()
        fsync(path.parent)
    return path.read_bytes()


def replace(path: Path, data: bytes) -> None:
    """Write a file (0600), in place of the one that may be there."""
    temp = _written(path, data)
    try:
        temp.rename(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def _written(path: Path, data: bytes) -> Path:
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    return temp


def fsync(path: Path) -> None:
    """Make what a file or a folder holds durable."""
    _with(path, os.fsync)


def sync_tree(root: Path) -> None:
    """Make a folder durable, with all that is in it and its own name."""
    for folder, _, names in os.walk(root):
        for name in names:
            fsync(Path(folder, name))
        fsync(Path(folder))
    fsync(root.parent)


def sync(path: Path) -> None:
    """Make a file's bytes durable."""
    _with(path, sync_data)


def _with(path: Path, act: Callable[[int], None]) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        act(fd)
    finally:
        os.close(fd)


def sync_data(fd: int) -> None:
    """Make an open file's bytes durable, and of the rest what they need to be read: not its times."""
    getattr(os, "fdatasync", os.fsync)(fd)


def disk_full(path: Path) -> BarnraiseError:
    return BarnraiseError(
        "D104",
        "the disk is full",
        f"while writing {path}",
        changed="everything acknowledged so far is kept",
        next="make room, then run the same command again: it continues",
    )


def file_of(error: OSError, otherwise: Path) -> Path:
    """The file over which it happened: of a copy, the one that was written."""
    return Path(os.fsdecode(error.filename2 or error.filename or otherwise))


def damaged(what: str, evidence: str) -> BarnraiseError:
    """D106: what is stored is not what was stored."""
    return BarnraiseError(
        "D106",
        what,
        evidence,
        next="restore the directory from a backup, or start again in a new one",
    )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what the file system says into D104 or D105; a file that is gone is damage (D106)."""
    try:
        yield
    except FileNotFoundError as error:
        gone = file_of(error, path)
        raise damaged(f"{gone} is gone", "the record names it, and it is not there") from error
    except IsADirectoryError as error:
        folder = file_of(error, path)
        raise damaged(f"{folder} is a directory", "the record has a file there") from error
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(file_of(error, path)) from error
        raise BarnraiseError(
            "D105",
            f"{file_of(error, path)} cannot be used",
            error.strerror or str(error),
            next="give a directory that you may read and write",
        ) from error
