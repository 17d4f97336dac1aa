"""What lies in a directory: every file with its size, and what has no place in a release. Follows no link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from barnraise.protocols.release import is_sound_path

_DEEPEST = 64


def listing(root: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Path → bytes of every file, and (path, reason) of links, empty directories, and odd names."""
    found: dict[str, int] = {}
    odd: list[tuple[str, str]] = []
    _walk(root, "", found, odd)
    return dict(sorted(found.items())), odd


def _walk(folder: Path, prefix: str, found: dict[str, int], odd: list[tuple[str, str]]) -> None:
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    if prefix and not entries:
        odd.append((prefix, "an empty directory"))
    for entry in entries:
        path, held = prefix + entry.name, entry.stat(follow_symlinks=False)
        if not is_sound_path(path) or path.count("/") > _DEEPEST:
            odd.append((ascii(path), "no release has such a path"))
        elif stat.S_ISDIR(held.st_mode):
            _walk(Path(entry.path), f"{path}/", found, odd)
        elif stat.S_ISREG(held.st_mode):
            found[path] = held.st_size
        else:
            odd.append((path, "neither a file nor a directory"))
