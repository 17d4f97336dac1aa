"""A reply on its way in: what a member offers, and the files into which its parts flow.

Nothing is written before the offer is known to fit. Each part is hashed while it flows; a cut transfer
leaves its file, and the next one goes on where that ends, also after a restart. Every member has a
folder of its own, so nobody's bytes stand in for another's. Knows nothing of gRPC or of the blob store.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barnraise.coordinator import refusals
from barnraise.coordinator.desk import Part
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.pagecache import EarlyWriteback
from barnraise.protocols.transfers import CHUNK, MAX_PARTS

MAX_STATEMENT = 1 << 16  # bytes of a statement that are parsed at all
SMALL = 1 << 16  # bytes up to which nothing is gained by syncing a part before its reply is judged
_BIG = 1 << 36  # bytes: a claimed size above this is recorded as this


@dataclass(frozen=True)
class Offer:
    """What a member offers for an order. `statement` is None if it is nothing like one."""

    order: str
    content: str
    statement: Mapping[str, Any] | None
    parts: tuple[Part, ...]

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
        return cls(said.order, said.content, _statement(said.statement), parts)

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
    return value if isinstance(value, dict) else None


class _Flow:
    """One wanted part and its file. The hash is of what the file holds."""

    def __init__(self, part: Part, path: Path) -> None:
        self.part, self.path = part, path
        self.hasher = hashlib.sha256()
        self.at = 0
        if path.exists() and path.stat().st_size > part.size:
            path.unlink()
        if path.exists():
            with path.open("rb") as file:
                while data := file.read(CHUNK):
                    self.hasher.update(data)
                    self.at += len(data)
        if self.at == part.size and not self.right:
            path.unlink()
            self.hasher, self.at = hashlib.sha256(), 0

    @property
    def whole(self) -> bool:
        return self.at == self.part.size

    @property
    def right(self) -> bool:
        return self.hasher.hexdigest() == self.part.digest[7:]


class Arrival:
    """One reply's parts flowing into its member's folder. Owned by the thread of the call.

    `spared` says which parts need not come. `folder` is cleared of what this offer does not name, if
    `clear`: a member's abandoned transfers must not fill the disk.
    """

    def __init__(
        self,
        folder: Path,
        parts: Sequence[Part],
        *,
        spared: Callable[[str], bool] = lambda digest: False,
        clear: bool = True,
        durable: bool = True,
    ) -> None:
        self._durable = durable
        folder.mkdir(parents=True, exist_ok=True)
        names = {part.digest[7:] for part in parts}
        for file in folder.iterdir() if clear else ():
            if file.name not in names:
                file.unlink()
        self.files = {p.digest: folder / p.digest[7:] for p in parts if not spared(p.digest)}
        flows = [_Flow(p, self.files[p.digest]) for p in parts if p.digest in self.files]
        self._flows = [flow for flow in flows if not flow.whole]
        self.total = sum(part.size for part in parts)
        self.done = self.total - sum(flow.part.size - flow.at for flow in self._flows)
        self.synced: set[str] = set()  # of `files`, those that are on the disk
        self._fd = -1
        self._early: EarlyWriteback | None = None

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
        self._write(flow, data)
        flow.hasher.update(data)
        flow.at += len(data)
        if self._durable and self._early is not None:
            self._early.grown(flow.at)
        self.done += len(data)
        if flow.whole:
            self._finish(flow)

    def _write(self, flow: _Flow, data: bytes | memoryview) -> None:
        if self._fd < 0:
            self._fd = os.open(flow.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            self._early = EarlyWriteback(self._fd, flow.at)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def _finish(self, flow: _Flow) -> None:
        if not flow.right:
            self.close()
            flow.path.unlink()
            raise refusals.wrong_bytes(flow.part.digest)
        if self._durable and flow.part.size > SMALL:
            self._sync(flow)
            self.synced.add(flow.part.digest)
        self.close()
        del self._flows[0]

    def _sync(self, flow: _Flow) -> None:
        """What could not be synced is dropped: a second fsync would not say so again."""
        try:
            os.fsync(self._fd)
        except OSError:
            flow.path.unlink()
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
