"""A reply on its way in: what a member offers, and the files into which its parts flow.

Nothing is written before the offer is known to fit. Each part is hashed while it flows; a cut transfer
leaves its file, and the next one goes on where that ends, also after a restart. Every member has a
folder of its own, so nobody's bytes stand in for another's. A small envelope stays in memory and comes
again after a cut: its file would cost more. Knows nothing of gRPC or of the blob store.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barnraise.coordinator import refusals
from barnraise.coordinator.desk import Part
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.canonical import digest as digest_of
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.files import sync_data
from barnraise.protocols.pagecache import EarlyWriteback
from barnraise.protocols.transfers import CHUNK, MAX_PARTS

MAX_STATEMENT = 1 << 16  # bytes of a statement that are parsed at all
MAX_DEPTH = 8  # of a statement's nesting; a DSSE envelope has three
SMALL = 1 << 16  # bytes of an envelope that is no file, and of a part not synced before its verdict
_BIG = 1 << 36  # bytes: a claimed size above this is recorded as this


@dataclass(frozen=True)
class Offer:
    """What a member offers for an order. `statement` is None if it is nothing like one.

    `envelope` may be the content's own bytes; nobody has looked at them yet.
    """

    order: str
    content: str
    statement: Mapping[str, Any] | None
    parts: tuple[Part, ...]
    envelope: bytes = b""

    @classmethod
    def of(cls, said: pb.Offer) -> Offer:
        """`Refused` (N205) unless it names its content and parts properly."""
        parts = tuple(Part(part.digest, part.size) for part in said.parts)
        if not 1 <= len(parts) <= MAX_PARTS:
            raise refusals.malformed(f"{len(parts)} parts")
        if not all(is_digest(part.digest) and part.size > 0 for part in parts):
            raise refusals.malformed("a part without a digest or a size")
        digests = {part.digest for part in parts}
        if len(digests) != len(parts):
            raise refusals.malformed("a part stands twice")
        if said.content not in digests:
            raise refusals.malformed("the content is not among the parts")
        envelope = said.envelope if len(said.envelope) <= SMALL else b""
        return cls(said.order, said.content, _statement(said.statement), parts, envelope)

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def claimed(self, cap: int) -> int:
        """The size as it is put on record: above `cap` if it is, but no number without bound."""
        return min(self.size, max(_BIG, cap + 1))


def _statement(data: bytes) -> Mapping[str, Any] | None:
    if len(data) > MAX_STATEMENT:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _is_flat(value, MAX_DEPTH) else None


def _is_flat(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested no deeper than this: whoever handles a statement after us may
    stand deeper in its thread's stack than we do, and must not run out of it."""
    if not isinstance(value, dict | list):
        return True
    held = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_flat(one, depth - 1) for one in held)


class _Flow(ABC):
    """One wanted part. The hash is of what has come; `at` is how much that is."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.hasher = hashlib.sha256()
        self.at = 0

    @property
    def whole(self) -> bool:
        return self.at == self.part.size

    @property
    def right(self) -> bool:
        return self.hasher.hexdigest() == self.part.digest[7:]

    def take(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        self._keep(data)
        self.hasher.update(data)
        self.at += len(data)

    @abstractmethod
    def _keep(self, data: bytes | memoryview) -> None: ...

    def settle(self) -> None:  # noqa: B027
        """All of it is here, and right."""

    def drop(self) -> None:  # noqa: B027
        """What is here is wrong."""

    def close(self) -> None:  # noqa: B027
        """No more will come for now."""


class _Held(_Flow):
    """A small part that stays in memory. A cut transfer loses it, and it comes again."""

    def __init__(self, part: Part, brought: bytes = b"") -> None:
        super().__init__(part)
        self.data = bytearray()
        if len(brought) == part.size and digest_of(brought) == part.digest:
            self.take(brought)

    def _keep(self, data: bytes | memoryview) -> None:
        self.data += data


class _Filed(_Flow):
    """A part and its file, which outlives a cut, and this process. `durable`: it is synced once whole."""

    def __init__(self, part: Part, path: Path, durable: bool) -> None:
        super().__init__(part)
        self.path, self._durable = path, durable
        self._fd = -1
        self._early: EarlyWriteback | None = None
        self.synced = False
        self._resume()

    def _resume(self) -> None:
        """Go on behind what an earlier transfer left, unless it cannot be right."""
        try:
            file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            return
        with file:
            fits = os.fstat(file.fileno()).st_size <= self.part.size
            while fits and (data := file.read(CHUNK)):
                self.hasher.update(data)
                self.at += len(data)
        if not fits or (self.whole and not self.right):
            self.path.unlink()
            self.hasher, self.at = hashlib.sha256(), 0

    def _keep(self, data: bytes | memoryview) -> None:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            self._early = EarlyWriteback(self._fd, self.at) if self._durable else None
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        if self._early is not None:
            self._early.grown(self.at + len(data))

    def settle(self) -> None:
        """What could not be synced is dropped: a second fsync would not say so again."""
        if not self._durable or self.part.size <= SMALL:
            return
        try:
            sync_data(self._fd)
        except OSError:
            self.drop()
            raise
        self.synced = True

    def drop(self) -> None:
        self.path.unlink()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Arrival:
    """One reply's parts flowing in: files in its member's folder, and its envelope in memory where that
    is small. Owned by the thread of the call.

    `content` is the envelope's digest; `envelope` is taken if it is small and is it. `spared` says which
    parts need not come. `folder` is cleared of what neither this offer names nor a reply that `waits` to be
    judged: a member's abandoned transfers must not fill the disk.
    """

    def __init__(
        self,
        folder: Path,
        parts: Sequence[Part],
        content: str = "",
        envelope: bytes = b"",
        *,
        spared: Callable[[str], bool] = lambda digest: False,
        waits: Callable[[str], bool] = lambda digest: False,
        durable: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = {part.digest[7:] for part in parts}
        for file in folder.iterdir():
            if file.name not in names and not waits(f"sha256:{file.name}"):
                file.unlink()
        self._all = [
            _Held(part, envelope)
            if part.digest == content and part.size <= SMALL
            else _Filed(part, folder / part.digest[7:], durable)
            for part in parts
            if not spared(part.digest)
        ]
        self._flows = [flow for flow in self._all if not flow.whole]
        self.total = sum(part.size for part in parts)
        self.done = self.total - sum(flow.part.size - flow.at for flow in self._flows)

    @property
    def envelope(self) -> bytes | None:
        """The envelope, if it came and is no file."""
        held = (bytes(flow.data) for flow in self._all if isinstance(flow, _Held))
        return next(held, None)

    @property
    def files(self) -> dict[str, Path]:
        """Where the other parts lie that came."""
        return {flow.part.digest: flow.path for flow in self._filed()}

    @property
    def synced(self) -> frozenset[str]:
        """Of `files`, those that are on the disk."""
        return frozenset(flow.part.digest for flow in self._filed() if flow.synced)

    def _filed(self) -> Iterator[_Filed]:
        return (flow for flow in self._all if isinstance(flow, _Filed))

    def wanted(self) -> list[tuple[str, int]]:
        """(digest, offset) of what is still to come, in the sequence in which it must."""
        return [(flow.part.digest, flow.at) for flow in self._flows]

    @property
    def complete(self) -> bool:
        return not self._flows

    def piece(self, digest: str, offset: int, data: bytes | memoryview) -> None:
        """Take the next piece. `Refused` if it is not the next (N207) or ends a wrong part (N208)."""
        if self.complete:
            raise refusals.out_of_place("a piece after the last")
        flow = self._flows[0]
        if (digest, offset) != (flow.part.digest, flow.at):
            expected = f"{flow.part.digest} at {flow.at}"
            raise refusals.out_of_place(f"the next piece is {expected}")
        if not 1 <= len(data) <= CHUNK or flow.at + len(data) > flow.part.size:
            raise refusals.out_of_place(f"a piece of {len(data)} bytes at {flow.at}")
        flow.take(data)
        self.done += len(data)
        if flow.whole:
            self._finish(flow)

    def _finish(self, flow: _Flow) -> None:
        try:
            if not flow.right:
                flow.drop()
                raise refusals.wrong_bytes(flow.part.digest)
            flow.settle()
        finally:
            flow.close()
        del self._flows[0]

    def close(self) -> None:
        if self._flows:
            self._flows[0].close()
