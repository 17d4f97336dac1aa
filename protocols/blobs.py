"""BlobStore: content-addressed files, `sha256/ab/cdef…`, written as temp + fsync + rename.

`put` hashes and writes; `sync` makes what was put durable and gives it its final name. Until then a
blob can be read but a crash may lose it. One `sync` serves many blobs. Bytes that are there already are
named, not written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from barnraise.protocols.canonical import is_digest
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import fsync as _fsync
from barnraise.protocols.tensors import Spec, open_blob

_REMEMBERED = 1 << 14  # blobs that are known to be whole


class BlobStore:
    """Owned by the thread that drives the run. `durable=False` spares the fsyncs of a throw-away run.

    With `read_only` nothing is made or removed; whoever asks for that puts nothing.
    """

    def __init__(self, root: Path, *, durable: bool = True, read_only: bool = False) -> None:
        self.root = root
        self._durable = durable
        self._pending: dict[str, Path] = {}
        self._specs: dict[str, Mapping[str, Spec]] = {}
        self._folders: set[Path] = set()
        self._whole: set[str] = set()  # as far as this process knows
        self._files = str(root / "sha256")
        self._incoming = root / "incoming"
        if read_only:
            return
        for half_written in self._incoming.glob("*"):
            half_written.unlink()
        self._incoming.mkdir(parents=True, exist_ok=True)

    def put(self, pieces: Iterable[memoryview | bytes]) -> str:
        """Store bytes that lie in memory; returns their digest. Call `sync` to keep them."""
        held = list(pieces)
        hasher = hashlib.sha256()
        for piece in held:
            hasher.update(piece)
        digest = "sha256:" + hasher.hexdigest()
        if not self._is_whole(digest):
            temp = self._incoming / hasher.hexdigest()
            try:
                _write(temp, held)
            except BaseException:
                temp.unlink(missing_ok=True)
                raise
            self._pending[digest] = temp
        return digest

    def adopt(self, path: Path, digest: str) -> None:
        """Take in a file of the same file system whose bytes have this digest, as its writer made sure.

        It is renamed, or removed if the blob is here. A file that is gone was taken in before.
        """
        if self._is_whole(digest):
            path.unlink(missing_ok=True)
            return
        temp = self._incoming / digest[7:]
        with contextlib.suppress(FileNotFoundError):
            path.rename(temp)
            self._pending[digest] = temp

    def _is_whole(self, digest: str) -> bool:
        """Whether the blob is here. One that an earlier process wrote is read once: damaged, it is
        written anew from what is at hand."""
        if digest in self._pending or not self.has(digest):
            return digest in self._pending
        if digest not in self._whole:
            try:
                self.check(digest)
            except BarnraiseError:
                return False
            self._note_whole(digest)
        return True

    def _note_whole(self, digest: str) -> None:
        if len(self._whole) >= _REMEMBERED:
            self._whole.clear()
        self._whole.add(digest)

    def put_envelope(self, data: bytes) -> str:
        """The same for an envelope, which is small."""
        return self.put([data])

    def sync(self) -> None:
        """Make all that was put durable, under its final name."""
        if not self._pending:
            return
        touched = set() if self._folders else {self.root, self.root.parent}
        for digest, temp in self._pending.items():
            if self._durable:
                _fsync(temp)
            final = self._final(digest)
            folder = final.parent
            if folder not in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
                touched.add(folder.parent)
            touched.add(folder)
            temp.rename(final)
            self._note_whole(digest)
            self._specs.pop(digest, None)
        if self._durable:
            for folder in touched:
                _fsync(folder)
        self._pending.clear()

    def has(self, digest: str) -> bool:
        return digest in self._pending or self._final(digest).is_file()

    def path(self, digest: str) -> Path:
        """The file that holds this blob, whether it is there or not."""
        return self._pending.get(digest) or self._final(digest)

    def kept(self, digest: str) -> Path:
        """Where this blob lies once it is durable. May be asked from any thread."""
        return self._final(digest)

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def check(self, digest: str) -> None:
        """D106 unless the blob is there and its bytes still give its digest. Memory: one chunk."""
        try:
            with self.path(digest).open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == digest[7:]
        except FileNotFoundError:
            raise self.damaged(digest, "there is no such file") from None
        if not whole:
            raise self.damaged(digest, "its bytes have changed since they were written")

    def damaged(self, digest: str, evidence: str) -> BarnraiseError:
        return BarnraiseError(
            "D106",
            f"the stored blob {digest} is damaged",
            f"{self.path(digest)}: {evidence}",
            next="restore the directory from a backup, or start again in a new one",
        )

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
        """The digests of what is durable."""
        for file in (self.root / "sha256").glob("??/*"):
            yield f"sha256:{file.parent.name}{file.name}"

    def close(self) -> None:
        """Nothing to let go of here."""

    def _final(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        return Path(f"{self._files}/{digest[7:9]}/{digest[9:]}")


def _write(path: Path, pieces: Sequence[memoryview | bytes]) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
