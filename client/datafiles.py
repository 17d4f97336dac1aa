"""The files of a member's data directory: what every task reads, and what is stated of the data."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from barnraise.protocols.errors import BarnraiseError


def data_files(directory: Path, suffixes: Collection[str] = ()) -> Iterator[Path]:
    """The files under `directory`, of these suffixes if any are given, by path. Raises D201 if there is no
    such directory.

    Links are left out, for they lead to what is not in the directory; so is what is hidden, or in a
    hidden folder, and what Python made.
    """
    if not directory.is_dir():
        raise BarnraiseError(
            "D201", f"there is no data directory {directory}", next="give the directory of the data"
        )
    yield from sorted(p for p in _plain(directory) if not suffixes or p.suffix in suffixes)


def left_out(directory: Path) -> int:
    """How many links, to files or folders, are left out of `directory`."""
    return sum(
        Path(root, name).is_symlink()
        for root, folders, names in _visible(directory)
        for name in (*folders, *names)
        if not name.startswith(".")
    )


def _visible(directory: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, but for what is hidden and what Python made."""
    for root, folders, names in os.walk(directory):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
        yield root, folders, names


def _plain(directory: Path) -> Iterator[Path]:
    for root, _, names in _visible(directory):
        for name in names:
            path = Path(root, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path
