"""Where an audited record lies: a release, or the directory of a run or of a federation.

Each is the same to the audit: entries in order, small blobs that the log names, and a file for each content.
Nothing is written, and nothing is believed: `contents` holds every byte against its digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from barnraise.coordinator.log import Log
from barnraise.coordinator.log_check import JOURNAL
from barnraise.coordinator.release.bundle import Bundle
from barnraise.coordinator.shelf import Shelf
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors
from barnraise.protocols.release import CODE, MANIFEST, OPEN, ReleaseError


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

    def encrypted(self, digest: str) -> Path | None:
        """The same, encrypted to auditors."""
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
        return path if is_digest(digest) and (path := self._shelf.path(digest)).is_file() else None

    def encrypted(self, digest: str) -> Path | None:
        return None

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


class ReleaseSource:
    """A release. Whether its files are those that its manifest names is for `verify` to say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._bundle = Bundle(root)
        with _sound(root):
            self.mode = self._bundle.manifest.contributions

    def entries(self) -> Iterator[tuple[int, bytes]]:
        with _sound(self.root):
            yield from enumerate(self._bundle.entries())

    def log_blob(self, digest: str) -> bytes | None:
        return self._bundle.log_blob(digest)

    def file(self, digest: str) -> Path | None:
        return self._bundle.contribution(digest)

    def encrypted(self, digest: str) -> Path | None:
        return self._bundle.encrypted(digest)

    def envelope(self, digest: str) -> bytes | None:
        return None

    def run(self, named: str | None) -> str | None:
        return named if named is not None else self._bundle.manifest.run

    def code(self, run: str) -> Path | None:
        return code if (code := self.root / CODE).is_dir() else None

    def close(self) -> None:
        """Nothing to let go of here."""


@contextmanager
def _sound(root: Path) -> Iterator[None]:
    try:
        yield
    except ReleaseError as error:
        raise BarnraiseError(
            "U101", f"{root} is no whole release", str(error), next="barnraise verify says more"
        ) from None


def source_of(root: Path) -> Source:
    """What lies in this directory. U101 where that is neither a release nor a run's or a federation's."""
    with disk_errors(root):
        if (root / MANIFEST).is_file():
            return ReleaseSource(root)
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
