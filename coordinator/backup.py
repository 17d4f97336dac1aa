"""A copy of a federation's directory while it is served, from which another machine can serve it.

The order makes it consistent: cosignatures, of which none may be of entries that the copy lacks; the journal;
then all that entries name, since blobs, proposals and runs are durable before the entries that name them, and
nobody removes them. Databases are copied by SQLite's own online backup, which holds up no writer. Under its
name the copy is whole: until then it lies beside, hidden. It holds the federation's keys.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from barnraise.coordinator.beside import written_beside
from barnraise.coordinator.federation import Description
from barnraise.coordinator.journal import Journal, connect_beside, sqlite_errors
from barnraise.coordinator.log import COSIGNATURES
from barnraise.coordinator.mark import Mark, MarkFile
from barnraise.protocols import files
from barnraise.protocols.errors import BarnraiseError

JOURNAL = "journal.db"
_BLOBS = Path("blobs/sha256")
_OF_A_PROCESS = {"lock", "serve.sock", "journal.mark"}  # and what is on its way: see `_leaves_out`


@dataclass(frozen=True)
class BackUp:
    """What was copied: `entries` of the log, with this Merkle root (hex). `linked` blobs share the bytes of
    the originals, on the same file system; `copied` bytes do not."""

    federation: str
    entries: int
    root: str
    copied: int
    linked: int


def back_up(root: Path, out: Path) -> BackUp:
    """Copy the federation in `root` to the new directory `out`.

    Raises D102, D104 to D106, F101, F106, K101.
    """
    root, out = root.resolve(), out.resolve()
    name = Description.read(root).name
    _check_free(root, out)
    with files.disk_errors(out), written_beside(out, private=True) as part:
        entries, merkle_root, copied, linked = _copied(root, part)
    return BackUp(name, entries, merkle_root, copied, linked)


def _copied(root: Path, part: Path) -> tuple[int, str, int, int]:
    """Entries and Merkle root; bytes that were copied, blobs that were linked. All of it is durable."""
    if (root / COSIGNATURES).exists():
        _copy_database(root / COSIGNATURES, part / COSIGNATURES)
    entries, merkle_root = _copy_journal(root, part)
    copied, linked = _copy_rest(root, part)
    os.sync()
    return entries, merkle_root, copied, linked


def _check_free(root: Path, out: Path) -> None:
    within = out == root or root in out.parents
    if within or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise BarnraiseError(
            "K101",
            f"{out} cannot take a backup",
            "it lies in the federation's own directory" if within else "it is there already",
            next="give a directory that does not exist, outside the federation's",
        )


def _copy_journal(root: Path, part: Path) -> tuple[int, str]:
    """Its size and Merkle root; every entry has been held against its leaf."""
    copy = part / JOURNAL
    _copy_database(root / JOURNAL, copy)
    with closing(Journal(copy, read_only=True)) as journal:
        journal.check()
        size, merkle_root = len(journal), journal.root()
    with closing(MarkFile(part / "journal.mark")) as mark:
        mark.write(Mark(size, merkle_root))
    return size, merkle_root.hex()


def _copy_database(source: Path, target: Path) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with (
        sqlite_errors(source),
        closing(connect_beside(source)) as db,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        db.backup(copy)


def _copy_rest(root: Path, part: Path) -> tuple[int, int]:
    """Bytes that were copied, blobs that were linked."""
    copied = linked = 0
    for path in _rest(root):
        within = path.relative_to(root)
        target = part / within
        if path.is_dir():
            target.mkdir(mode=0o700)
        elif path.suffix == ".db":
            _copy_database(path, target)
        elif _BLOBS in within.parents and _link(path, target):
            linked += 1
        else:
            copied += _copy(path, target)
    return copied, linked


def _rest(folder: Path, within: Path = Path()) -> Iterator[Path]:
    """Directories and files, each after the directory that it is in."""
    for path in sorted(folder.iterdir()):
        name = within / path.name
        if _leaves_out(name):
            continue
        if path.is_dir() and not path.is_symlink():
            yield path
            yield from _rest(path, name)
        elif path.is_file():
            yield path


def _leaves_out(name: Path) -> bool:
    """What is of a process or on its way, and what was copied before the rest."""
    if name in (Path("incoming"), Path("blobs/incoming"), Path(JOURNAL), Path(COSIGNATURES)):
        return True
    ours = len(name.parts) == 1 and name.name in _OF_A_PROCESS
    return ours or name.name.startswith(".") or name.name.endswith((".new", "-wal", "-shm"))


def _link(path: Path, target: Path) -> bool:
    """Blobs are never written over, so both names may share the bytes; False on another file system."""
    try:
        target.hardlink_to(path)
    except OSError:
        return False
    return True


def _copy(path: Path, target: Path) -> int:
    """Bytes copied, with mode and times; a file that is gone meanwhile is none that an entry names."""
    try:
        shutil.copy2(path, target)
    except FileNotFoundError:
        return 0
    target.chmod(stat.S_IMODE(target.stat().st_mode) & 0o700)
    return target.stat().st_size
