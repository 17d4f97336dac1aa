"""A run's blobs: files, but for envelopes, which are small and many and lie in one file (`documents`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from barnraise.coordinator.documents import Documents
from barnraise.protocols import canonical, files
from barnraise.protocols.blobs import BlobStore

_SMALL = 1 << 16


class RunBlobs(BlobStore):
    """Owned by the thread that drives the run. An envelope is durable after the blobs that it names."""

    def __init__(self, root: Path, *, durable: bool = True, read_only: bool = False) -> None:
        super().__init__(root, durable=durable, read_only=read_only)
        if durable and not read_only:  # an envelope may be all that is ever put
            for folder in (root, root.parent):
                files.fsync(folder)
        self._envelopes = Documents(root / "envelopes.db", durable=durable, read_only=read_only)

    def put_envelope(self, data: bytes) -> str:
        """A large one is a file like any blob: nothing large waits in memory."""
        return self._envelopes.put(data) if len(data) <= _SMALL else self.put([data])

    def sync(self) -> None:
        super().sync()
        self.patiently(self._envelopes.sync)

    def has(self, digest: str) -> bool:
        return super().has(digest) or self._envelopes.read(digest) is not None

    def read(self, digest: str) -> bytes:
        envelope = self._envelopes.read(digest)
        return super().read(digest) if envelope is None else envelope

    def check(self, digest: str) -> None:
        envelope = self._envelopes.read(digest)
        if envelope is None:
            super().check(digest)
        elif canonical.digest(envelope) != digest:
            raise self.damaged(digest, "its bytes have changed since they were written")

    def size(self, digest: str) -> int:
        envelope = self._envelopes.read(digest)
        return super().size(digest) if envelope is None else len(envelope)

    def all(self) -> Iterator[str]:
        yield from super().all()
        yield from self._envelopes.all()

    def close(self) -> None:
        self._envelopes.close()
