"""BlobStore: content-addressed files, `sha256/ab/cdef…`, written as temp + fsync + rename.

`put` hashes and writes; `sync` makes what was put durable and gives it its final name. Until then a
blob can be read but a crash may lose it. One `sync` serves many blobs. Bytes that are there already are
named, not written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from barnraise.protocols.canonical import is_digest
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import fsync as _fsync
from barnraise.protocols.files import sync as _sync
from barnraise.protocols.pagecache import let_go
from barnraise.protocols.tensors import Spec, open_blob

_REMEMBERED = 1 << 14  # blobs that are known to be whole
_PATHS = 1 << 10
_SPECS = 1 << 15  # tensors that are remembered, of all blobs together, before those of the last one
FLAT = "blobs"  # the folder of a flat store
T = TypeVar("T")


class Patience(Protocol):
    """Does what it is given, perhaps again and again, and returns what that returned."""

    def __call__(self, act: Callable[[], T], /) -> T: ...


def at_once(act: Callable[[], T], /) -> T:
    """What `act` returns, or raises."""
    return act()


class BlobStore:
    """Owned by the thread that drives the run. `durable=False` spares the fsyncs of a throw-away run.

    Others may `put` as well, as long as the owner waits for them before it calls `sync`.

    Each write goes through `patiently`, which may try it again until a full disk has room; an fsync never
    does, since what it failed to keep may be gone. What `sync` did not finish, the next one does.
    With `read_only` nothing is made or removed; whoever asks for that puts nothing. A `flat` store is for a
    few blobs at a time, that come and go: all lie in one folder, `blobs/abcdef…`.
    """

    def __init__(
        self, root: Path, *, durable: bool = True, read_only: bool = False, flat: bool = False
    ) -> None:
        self.root = root
        self._durable, self._flat = durable, flat
        self.patiently: Patience = at_once
        self._putting = threading.Lock()
        self._pending: dict[str, Path] = {}
        self._touched: set[Path] = set()
        self._synced: set[str] = set()  # of pending ones, those whose bytes are durable
        self._specs: dict[str, Mapping[str, Spec]] = {}
        self._folders: set[Path] = set()
        self._whole: set[str] = set()  # as far as this process knows
        self._files = str(root / (FLAT if flat else "sha256"))
        self._paths: dict[str, Path] = {}  # made before; each step is one, so any thread may
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
        with self._putting:
            if not self._is_whole(digest):
                self._pending[digest] = self._written(held, self._incoming / digest[7:])
        return digest

    def adopt(self, path: Path, digest: str, *, synced: bool = False) -> None:
        """Take in a file of the same file system whose bytes have this digest, as its writer made sure.

        `synced`: the writer has made these bytes durable as well.
        It is renamed, or removed if the blob is here. A file that is gone was taken in before.
        """
        if self._is_whole(digest):
            path.unlink(missing_ok=True)
            return
        temp = self._incoming / digest[7:]
        with contextlib.suppress(FileNotFoundError):
            self.patiently(partial(path.rename, temp))
            self._pending[digest] = temp
            if synced:
                self._synced.add(digest)

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
            final = self._final(digest)
            if final.is_file():  # that process may have died before it synced these
                self._touched |= {final.parent, final.parent.parent}
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
        if not self._pending and not self._touched:
            return
        if not self._folders:
            self._touched |= {self.root, self.root.parent}
        for digest in list(self._pending):
            self._settle(digest)
        if self._durable:
            for folder in self._touched:
                _fsync(folder)
        self._touched.clear()

    def _settle(self, digest: str) -> None:
        """Give one blob its final name; its folders are still to be synced."""
        temp, final = self._pending[digest], self._final(digest)
        if self._durable and digest not in self._synced:
            _sync(temp)
        if (folder := final.parent) not in self._folders:
            self.patiently(partial(folder.mkdir, parents=True, exist_ok=True))
            self._folders.add(folder)
            self._touched.add(folder.parent)
        self._touched.add(folder)
        self.patiently(partial(temp.rename, final))
        del self._pending[digest]
        self._synced.discard(digest)
        self._note_whole(digest)
        self._specs.pop(digest, None)

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
            known = open_blob(self.path(digest))
            if len(self._specs) > 256 or sum(map(len, self._specs.values())) > _SPECS:
                self._specs.clear()
            self._specs[digest] = known
        return known

    def let_go(self, digests: Iterable[str]) -> None:
        """These blobs will not be read soon: their memory in the page cache may go."""
        if self._durable:
            let_go(self._final(digest) for digest in digests)

    def drop(self, digest: str) -> None:
        """Forget a blob that nothing names any more."""
        self.path(digest).unlink(missing_ok=True)
        self._pending.pop(digest, None)
        self._synced.discard(digest)
        self._specs.pop(digest, None)

    def all(self) -> Iterator[str]:
        """The digests of what is durable."""
        with contextlib.suppress(FileNotFoundError):
            for found in os.scandir(self._files):
                if self._flat:
                    yield f"sha256:{found.name}"
                    continue
                for file in os.scandir(found):
                    yield f"sha256:{found.name}{file.name}"

    def close(self) -> None:
        """Nothing to let go of here."""

    def _written(self, pieces: Sequence[memoryview | bytes], path: Path) -> Path:
        """Write these bytes there; `path`, which is not left behind half written."""
        try:
            self._write(path, pieces)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _write(self, path: Path, pieces: Sequence[memoryview | bytes]) -> None:
        new = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        fd = self.patiently(partial(os.open, path, new, 0o600))
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[self.patiently(partial(os.write, fd, view)) :]
        finally:
            os.close(fd)

    def _final(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        if (path := self._paths.get(digest)) is None:
            if len(self._paths) >= _PATHS:
                self._paths.clear()
            name = digest[7:] if self._flat else f"{digest[7:9]}/{digest[9:]}"
            path = self._paths[digest] = Path(f"{self._files}/{name}")
        return path
