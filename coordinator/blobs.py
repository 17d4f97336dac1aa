"""BlobStore: content-addressed files, `sha256/ab/cdef…`, written as temp + fsync + rename.

`put` writes and hashes; `sync` makes what was put durable and gives it its final name. Until then a
blob can be read but a crash may lose it. One `sync` serves many blobs.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from barnraise.protocols.canonical import is_digest
from barnraise.protocols.tensors import Spec, open_blob


class BlobStore:
    """Owned by the thread that drives the run. `durable=False` spares the fsyncs of a throw-away run."""

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = root
        self._durable = durable
        self._pending: dict[str, Path] = {}
        self._specs: dict[str, Mapping[str, Spec]] = {}
        self._incoming = root / "incoming"
        for half_written in self._incoming.glob("*"):
            half_written.unlink()
        self._incoming.mkdir(parents=True, exist_ok=True)

    def put(self, pieces: Iterable[memoryview | bytes]) -> str:
        """Store the bytes, hashed while they flow; returns their digest. Call `sync` to keep them."""
        hasher = hashlib.sha256()
        fd, name = tempfile.mkstemp(dir=self._incoming)
        temp = Path(name)
        try:
            with os.fdopen(fd, "wb", buffering=0) as file:
                for piece in pieces:
                    hasher.update(piece)
                    _write(file.fileno(), piece)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        digest = "sha256:" + hasher.hexdigest()
        if self.has(digest):
            temp.unlink()
        else:
            self._pending[digest] = temp
        return digest

    def sync(self) -> None:
        """Make every blob that was put durable under its final name."""
        if self._durable:
            for temp in self._pending.values():
                _fsync(temp)
        folders = set()
        for digest, temp in self._pending.items():
            final = self._final(digest)
            if final.parent not in folders:
                final.parent.mkdir(parents=True, exist_ok=True)
                folders.add(final.parent)
            temp.rename(final)
            self._specs.pop(digest, None)
        if self._durable:
            for folder in folders | {f.parent for f in folders}:
                _fsync(folder)
        self._pending.clear()

    def has(self, digest: str) -> bool:
        return digest in self._pending or self._final(digest).is_file()

    def path(self, digest: str) -> Path:
        """The file that holds this blob, whether it is there or not."""
        return self._pending.get(digest) or self._final(digest)

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def size(self, digest: str) -> int:
        return self.path(digest).stat().st_size

    def specs(self, digest: str) -> Mapping[str, Spec]:
        """The tensors in a blob, parsed once; `BlobError` if its header lies."""
        if (known := self._specs.get(digest)) is None:
            if len(self._specs) > 256:
                self._specs.clear()
            known = self._specs[digest] = open_blob(self.path(digest))
        return known

    def drop(self, digest: str) -> None:
        """Forget a blob that nothing names any more."""
        self.path(digest).unlink(missing_ok=True)
        self._pending.pop(digest, None)
        self._specs.pop(digest, None)

    def all(self) -> Iterator[str]:
        """The digests of the durable blobs."""
        for file in (self.root / "sha256").glob("??/*"):
            yield f"sha256:{file.parent.name}{file.name}"

    def _final(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        return self.root / "sha256" / digest[7:9] / digest[9:]


def _write(fd: int, piece: memoryview | bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
