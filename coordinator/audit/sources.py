"""Where an audited record lies: a release, or the directory of a run or of a federation.

Each is the same to the audit: entries in order, small blobs that the log names, and a file for each content.
Nothing is written, and nothing is believed: `contents` holds every byte against its digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from barnraise.coordinator.log import Log
from barnraise.coordinator.log_check import JOURNAL
from barnraise.coordinator.shelf import Shelf
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors

OPEN, AUDITORS, SEALED = "open", "auditors", "sealed"


class Source(Protocol):
    """For one thread. `mode` says whether contributions are here: "open", "auditors" or "sealed"."""

    root: Path
    mode: str

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """(index, bytes) of every entry, from the first."""
        ...

    def log_blob(self, digest: str) -> bytes | None:
        """What an entry names besides contents: an agreement, a charter, a body."""
        ...

    def file(self, digest: str) -> Path | None:
        """The file of a content's blob, or of its envelope where that is a file."""
        ...

    def envelope(self, digest: str) -> bytes | None:
        """A content's envelope, where it is no file."""
        ...

    def run(self, named: str | None) -> str | None:
        """The id of the run that is called this; None: that is for the log to say."""
        ...

    def code(self, run: str) -> Path | None:
        """The directory that holds the copy of the run's app."""
        ...

    def close(self) -> None: ...


class KeptSource:
    """The directory of a `sim run`, or of a federation: journal and blobs, also while a run goes on."""

    mode = OPEN

    def __init__(self, root: Path) -> None:
        self.root = root
        self._log = Log(root / JOURNAL)
        self._shelf = Shelf(root / "blobs")

    def entries(self) -> Iterator[tuple[int, bytes]]:
        return self._log.entries()

    def log_blob(self, digest: str) -> bytes | None:
        return self._shelf.read(digest)

    def file(self, digest: str) -> Path | None:
        return self._shelf.file(digest)

    def envelope(self, digest: str) -> bytes | None:
        return self._shelf.envelope(digest)

    def run(self, named: str | None) -> str | None:
        if named is None or not (place := self.root / "runs" / named).is_dir():
            return named
        return str(json.loads((place / "source.json").read_bytes())["run"])

    def code(self, run: str) -> Path | None:
        for source in (self.root / "runs").glob("*/source.json"):
            if json.loads(source.read_bytes()).get("run") == run:
                return source.parent / "app"
        return self.root / "app" if (self.root / "app").is_dir() else None

    def close(self) -> None:
        self._log.close()
        self._shelf.close()


def source_of(root: Path) -> Source:
    """What lies in this directory. U101 where that is neither a release nor a run's or a federation's."""
    with disk_errors(root):
        if (root / JOURNAL).is_file():
            return KeptSource(root)
    raise nothing_here(root)


def nothing_here(root: Path) -> BarnraiseError:
    why = "it holds neither manifest.json nor journal.db"
    return BarnraiseError(
        "U101",
        f"{root} holds nothing to audit",
        why if root.is_dir() else "there is no such directory",
        next="give a release, the --dir of a `barnraise sim run`, or a federation's directory",
    )
