"""A directory that is whole as soon as it has its name: until then it is written beside it, hidden."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from barnraise.protocols import files
from barnraise.protocols.errors import BarnraiseError


@contextmanager
def written_beside(out: Path, *, private: bool = False) -> Iterator[Path]:
    """An empty directory `.NAME.part` that no other process writes to, and that is `out` afterwards, where
    nothing or an empty directory may be. Removed where what is done in it fails. `private`: 0700.

    Raises D102 where another process writes it.
    """
    part = out.with_name(f".{out.name}.part")
    part.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o777)
    held = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _lock(held, part)
        try:
            if private:
                os.fchmod(held, 0o700)
            for left in part.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield part
            part.rename(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        files.fsync(out.parent)
    finally:
        os.close(held)


def _lock(held: int, part: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BarnraiseError(
            "D102",
            f"another command is writing {part}",
            "it is locked",
            next="wait until that has ended, or give another path",
        ) from None
