"""A release as others read it. Nothing in it is believed: what is read is for others to hold against digests.

Knows neither torch nor flwr, follows no link, and writes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from barnraise.protocols import release, tiles
from barnraise.protocols.canonical import digest as digest_of
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.notes import Checkpoint, NoteError
from barnraise.protocols.release import Manifest, ReleaseError

MAX_SMALL = 64 << 20  # bytes of a file that is read whole
_MAX_CHECKPOINT = 1 << 20


class Bundle:
    """The release in a directory. Its methods raise `ReleaseError` for what is no release's, `OSError`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # --- files ---------------------------------------------------------------------------------------

    def files(self) -> dict[str, int]:
        """Every file's path and size. `ReleaseError` for anything that is neither a file nor a directory
        with files in it, and for a path that no release has."""
        found: dict[str, int] = {}
        self._walk(self.root, "", found)
        return dict(sorted(found.items()))

    def _walk(self, folder: Path, prefix: str, found: dict[str, int]) -> None:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        if not entries and prefix:
            raise ReleaseError(f"the directory {prefix} is empty")
        for entry in entries:
            path = prefix + entry.name
            mode = entry.stat(follow_symlinks=False).st_mode
            if not release.is_sound_path(path):
                raise ReleaseError(f"{path!r} is no path of a release")
            if stat.S_ISDIR(mode):
                self._walk(Path(entry.path), f"{path}/", found)
            elif stat.S_ISREG(mode):
                found[path] = entry.stat(follow_symlinks=False).st_size
            else:
                raise ReleaseError(f"{path} is neither a file nor a directory")

    def has(self, path: str) -> bool:
        return self._is_file(self.root / path)

    def read(self, path: str, limit: int = MAX_SMALL) -> bytes:
        """A file's bytes. `ReleaseError` if there is none, or if it is larger than `limit`."""
        if not self._is_file(self.root / path):
            raise ReleaseError(f"there is no file {path}")
        with (self.root / path).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ReleaseError(f"{path} has more than {limit} bytes")
        return data

    def _is_file(self, path: Path) -> bool:
        """A regular file, reached through no link below the release's own directory."""
        parts = [path, *path.parents]
        inner = parts[: parts.index(self.root)]
        return not any(part.is_symlink() for part in inner) and path.is_file()

    # --- what binds ------------------------------------------------------------------------------------

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.decode(self.manifest_bytes)

    @cached_property
    def manifest_bytes(self) -> bytes:
        return self.read(release.MANIFEST, release.MAX_MANIFEST)

    def checkpoint(self) -> bytes:
        """The signed note with its cosignatures, as it lies there."""
        return self.read(release.CHECKPOINT, _MAX_CHECKPOINT)

    def size(self) -> int:
        """How many entries the checkpoint claims; nothing is verified."""
        try:
            text = self.checkpoint().decode()
            return Checkpoint.parse(text.partition("\n\n")[0] + "\n").size
        except (UnicodeDecodeError, NoteError) as error:
            raise ReleaseError(f"{release.CHECKPOINT}: {error}") from None

    def entries(self, size: int | None = None) -> Iterator[bytes]:
        """The entries in the tiles of a log of this size, by default of what the checkpoint claims."""
        for bundle in tiles.bundles_of(self.size() if size is None else size):
            data = self.read(f"{release.LOG}{bundle.path}")
            try:
                yield from tiles.unpack_entries(data, bundle.width)
            except tiles.TileError as error:
                raise ReleaseError(f"{release.LOG}{bundle.path}: {error}") from None

    # --- blobs ---------------------------------------------------------------------------------------

    def log_blob(self, digest: str) -> bytes | None:
        """What an entry names by digest and needs, if it is there and whole."""
        if not is_digest(digest) or not self.has(path := _below(release.LOG_BLOBS, digest)):
            return None
        data = self.read(path)
        return data if digest_of(data) == digest else None

    def contribution(self, digest: str) -> Path | None:
        """The file of a content or a blob, unverified; None where it is not released, or encrypted."""
        return self._path(_below(release.CONTRIBUTIONS, digest)) if is_digest(digest) else None

    def encrypted(self, digest: str) -> Path | None:
        """The same, encrypted to auditors."""
        if not is_digest(digest):
            return None
        return self._path(_below(release.CONTRIBUTIONS, digest) + release.ENCRYPTED)

    def _path(self, path: str) -> Path | None:
        return self.root / path if self.has(path) else None


def _below(folder: str, digest: str) -> str:
    return folder + release.blob_path(digest)
