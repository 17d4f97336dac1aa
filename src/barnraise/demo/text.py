"""The demo's data: the Python standard library's source on this machine, split by package.

Four members, each with packages of its own kind, so that their texts differ; each with so little that
none gets far alone.
"""

from __future__ import annotations

import hashlib
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from barnraise.demo import answers
from barnraise.protocols.errors import BarnraiseError

PACKAGES = {
    "basel": ("email", "http", "urllib"),
    "geneva": ("asyncio", "concurrent", "multiprocessing"),
    "lausanne": ("unittest", "logging", "json", "sqlite3"),
    "zurich": ("xml", "html", "xmlrpc", "importlib"),
}
BYTES = 130_000
SMALLEST, LARGEST = 500, 40_000


def lay_out(data: Path) -> None:
    """Copy each member's text to `data/<member>/`, if it is not there, and what it says of it. All or
    nothing. This file, which chooses them, is copied beside `data`."""
    if data.is_dir():
        return
    library = Path(sysconfig.get_paths()["stdlib"])
    partial = data.with_name(f"{data.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for member, packages in PACKAGES.items():
        copied = sum(_copy(library, file, partial / member) for file in _chosen(library, packages))
        if copied < BYTES // 2:
            raise BarnraiseError(
                "D201",
                "this Python has too little of its own source text for the demo",
                f"{library} holds {copied} bytes of {', '.join(packages)}",
                next="run the demo with a Python that brings its standard library as .py files",
            )
        answers.write(partial, member, packages, Path(__file__))
    processing = data.with_name(answers.PROCESSING)
    processing.mkdir(exist_ok=True)
    shutil.copyfile(__file__, processing / Path(__file__).name)
    partial.rename(data)


def _chosen(library: Path, packages: tuple[str, ...]) -> Iterator[Path]:
    """Files of these packages up to `BYTES`, taken by the hash of their bytes so that all packages
    have a share."""
    files = [f for p in packages for f in sorted((library / p).rglob("*.py"))]
    sized = [f for f in files if SMALLEST <= f.stat().st_size <= LARGEST]
    room = BYTES
    for file in sorted(sized, key=lambda f: hashlib.sha256(f.read_bytes()).digest()[:8][::-1]):
        if (size := file.stat().st_size) <= room:
            room -= size
            yield file


def _copy(library: Path, file: Path, home: Path) -> int:
    target = home / file.relative_to(library)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
    return file.stat().st_size
