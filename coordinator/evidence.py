"""What arrived, as the intake reads it; and a sink that only names what it is given."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from barnraise.protocols import canonical, codecs
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import Envelope
from barnraise.protocols.tensors import Spec, first_nonfinite, header_length

_KEPT = 1024
_SMALL = 1 << 16


class StoredEvidence:
    """Reads from the blob store; keeps the last envelopes, which several steps of a round ask for.

    Only small ones: what a member sends must not decide how much memory stays in use (law L6).
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._envelopes: dict[str, Envelope] = {}
        self._read: tuple[str, bytes] = "", b""  # the envelope that was read last, if it is small
        self._headers: dict[str, int] = {}
        self._nonfinite: dict[str, str | None] = {}

    def envelope(self, digest: str) -> Envelope:
        """`ContentError` if the bytes are no envelope."""
        if (known := self._envelopes.get(digest)) is None:
            if len(self._envelopes) >= _KEPT:
                self._envelopes.clear()
            data = self._data(digest)
            known = Envelope.decode(data)
            if len(data) <= _SMALL:
                self._envelopes[digest] = known
        return known

    def values(self, digest: str) -> int:
        """How many values the envelope holds at most, without parsing it: each but the first of a list
        follows a comma, and each list and object has its bracket."""
        data = self._data(digest)
        return sum(map(data.count, (b",", b"[", b"{")))

    def _data(self, digest: str) -> bytes:
        if self._read[0] == digest:
            return self._read[1]
        data = self._blobs.read(digest)
        if len(data) <= _SMALL:
            self._read = digest, data
        return data

    def header(self, blob: str) -> int:
        """How many bytes describe this blob's arrays, as its first 8 say; `BlobError` if they lie."""
        if (known := self._headers.get(blob)) is None:
            if len(self._headers) >= _KEPT:
                self._headers.clear()
            with self._blobs.path(blob).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                known = self._headers[blob] = header_length(file.read(8), size)
        return known

    def specs(self, blob: str) -> Mapping[str, Spec]:
        return self._blobs.specs(blob)

    def nonfinite(self, blob: str) -> str | None:
        """The first tensor that is not finite. Looked at once for each blob: its digest fixes it."""
        if blob not in self._nonfinite:
            if len(self._nonfinite) >= _KEPT:
                self._nonfinite.clear()
            specs = self._blobs.specs(blob).values()
            self._nonfinite[blob] = first_nonfinite(self._blobs.path(blob), specs)
        return self._nonfinite[blob]

    def miscoded(self, blob: str, shapes: codecs.Form, codec: str) -> codecs.CodecError | None:
        """Why the blob is no update of a model of these shapes under this codec, or None."""
        path = self._blobs.path(blob)
        tensors = {name: spec.open(path) for name, spec in self._blobs.specs(blob).items()}
        try:
            codecs.check(tensors, shapes, codec)
        except codecs.CodecError as error:
            return error
        return None


class HashOnly:
    """A sink for a replay: it names the content that the app asks to send, and writes nothing."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def put(self, pieces: Iterator[memoryview]) -> str:
        hasher = hashlib.sha256()
        for piece in pieces:
            hasher.update(piece)
        return "sha256:" + hasher.hexdigest()

    def put_envelope(self, data: bytes) -> str:
        return canonical.digest(data)

    def has(self, digest: str) -> bool:
        return self._blobs.has(digest)

    def path(self, digest: str) -> Path:
        return self._blobs.path(digest)

    def specs(self, digest: str) -> Mapping[str, Spec]:
        return self._blobs.specs(digest)
