"""Contents by digest, each byte held against its digest before anything is made of it.

What a round needs is hashed once, on several threads, and then read by `pread`: memory is one chunk for each
thread. Contents that are encrypted for auditors are decrypted into a folder of this process alone (0700), a
round at a time. As a sink it only names what it is given.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from flwr.app import RecordDict

from barnraise.coordinator.audit.sources import Source
from barnraise.protocols import canonical, flower
from barnraise.protocols.apps import digest_held
from barnraise.protocols.content import ContentError, Envelope
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.tensors import BlobError, Spec, open_blob

_LARGEST = 64 << 20  # bytes of an envelope
_THREADS = 2


class Contents:
    """Owned by one thread. `identity` decrypts what is encrypted; `read` counts the bytes hashed."""

    def __init__(self, source: Source, identity: Identity | None = None) -> None:
        self._source, self._identity = source, identity
        self._folder: Path | None = None
        self._whole: dict[str, Path] = {}
        self._specs: dict[str, Mapping[str, Spec]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, "hash")
        self.read = 0

    def __enter__(self) -> Contents:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Nothing that was decrypted is left afterwards."""
        self._pool.shutdown(cancel_futures=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # --- what a round needs --------------------------------------------------------------------------

    def envelope(self, digest: str) -> Envelope:
        """Raises U103 if it is missing or has another digest, U102 if it is no envelope."""
        data = self._source.envelope(digest)
        if data is None:
            path = self._found(digest)
            if path.stat().st_size > _LARGEST:
                raise missing(digest, "it is too large for an envelope")
            data = path.read_bytes()
        if canonical.digest(data) != digest:
            raise missing(digest, "its bytes have another digest")
        try:
            return Envelope.decode(data)
        except ContentError as error:
            raise unreadable(digest, str(error)) from None

    def records(self, digest: str) -> RecordDict:
        """The content's records, its arrays read when they are asked for. Raises U102, U103."""
        envelope = self.envelope(digest)
        self.check(envelope.blobs())
        try:
            return flower.decode(envelope, self)
        except (ContentError, BlobError) as error:
            raise unreadable(digest, str(error)) from None

    def check(self, digests: Iterable[str]) -> None:
        """Hash those blobs that were not hashed in this round. Raises U103."""
        wanted = [d for d in dict.fromkeys(digests) if d not in self._whole]
        paths = {digest: self._found(digest) for digest in wanted}
        for digest, found in zip(wanted, self._pool.map(digest_held, paths.values()), strict=True):
            if found != digest:
                raise missing(digest, f"{paths[digest]}: its bytes have another digest")
            self.read += paths[digest].stat().st_size
        self._whole |= paths

    def keep(self, digests: Iterable[str]) -> None:
        """A round is over: all but these is to be read anew when it is needed."""
        kept = {digest: self._whole[digest] for digest in digests if digest in self._whole}
        for digest in self._whole.keys() - kept.keys():
            self._forget(digest)
        self._whole = kept

    def _forget(self, digest: str) -> None:
        self._specs.pop(digest, None)
        if self._folder is not None:
            (self._folder / digest[7:]).unlink(missing_ok=True)

    def _found(self, digest: str) -> Path:
        if (path := self._source.file(digest)) is not None:
            return path
        if (sealed := self._source.encrypted(digest)) is not None:
            return self._decrypted(sealed, digest)
        raise missing(digest, "it is not there")

    def _decrypted(self, path: Path, digest: str) -> Path:
        if self._identity is None:
            raise BarnraiseError(
                "U106",
                "the contributions are encrypted for auditors",
                f"{path.name} is; the charter names whose keys open it",
                next="give --identity KEYFILE, the age identity of one of the charter's auditors",
            )
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="barnraise-audit-"))  # made with 0700
        out = self._folder / digest[7:]
        if not out.is_file():
            self._identity.decrypt(path, out)
        return out

    # --- as `records` reads and names them -----------------------------------------------------------

    def path(self, digest: str) -> Path:
        return self._whole[digest]

    def specs(self, digest: str) -> Mapping[str, Spec]:
        if digest not in self._specs:
            self._specs[digest] = open_blob(self._whole[digest])
        return self._specs[digest]

    def has(self, digest: str) -> bool:
        return digest in self._whole

    def put(self, pieces: Iterator[memoryview]) -> str:
        hasher = hashlib.sha256()
        for piece in pieces:
            hasher.update(piece)
        return "sha256:" + hasher.hexdigest()


class Identity:
    """An age identity file (`age-keygen`): one secret key a line, comments beside. Raises U107."""

    def __init__(self, path: Path) -> None:
        try:
            import pyrage
        except ImportError:
            raise BarnraiseError(
                "U107",
                "an age identity cannot be used without pyrage",
                "it comes with the extra `release`",
                next="pip install 'barnraise[release]'",
            ) from None
        self._age = pyrage
        try:
            lines = [line.strip() for line in path.read_text().splitlines()]
            keys = [line for line in lines if line and not line.startswith("#")]
            self._keys: list[Any] = [pyrage.x25519.Identity.from_str(key) for key in keys]
            why = "it holds no key"
        except (OSError, UnicodeDecodeError, pyrage.IdentityError) as error:
            self._keys, why = [], getattr(error, "strerror", None) or "it holds another thing"
        if not self._keys:
            raise BarnraiseError(
                "U107",
                f"{path} is no age identity",
                why,
                next="give the file that age-keygen wrote, with a line AGE-SECRET-KEY-1…",
            )
        self._path = path

    def decrypt(self, path: Path, out: Path) -> None:
        """In pieces. U106 if the file is not for this identity, or is damaged."""
        os.close(os.open(out, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        try:
            self._age.decrypt_file(str(path), str(out), self._keys)
        except (self._age.DecryptError, OSError) as error:
            out.unlink(missing_ok=True)
            raise BarnraiseError(
                "U106",
                f"{self._path} does not open the contributions",
                f"{path.name}: {error}",
                next="give the identity of an auditor whom the charter names, and a whole release",
            ) from None


def missing(digest: str, why: str) -> BarnraiseError:
    """U103."""
    return BarnraiseError(
        "U103",
        "a content that the log names is missing or damaged",
        f"{digest}: {why}",
        next="get the release again, or audit a directory that keeps its contributions",
    )


def unreadable(digest: str, why: str) -> BarnraiseError:
    """U102: what the log says was accepted is nothing that can be."""
    return BarnraiseError(
        "U102",
        "a content that the log names cannot be read",
        f"{digest}: {why}",
        next="keep it as it is, and ask the federation's operator",
    )
