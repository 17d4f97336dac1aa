"""Moving content: fetched and delivered in pieces of at most 1 MiB, going on where a cut one ended.

Bytes are hashed while they flow; no size that the other side names is believed. Memory: one piece.
"""

from __future__ import annotations

import hashlib
import os
import queue
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc

from barnraise.client.node.frames import SMALL
from barnraise.client.node.spares import Growing, Spares
from barnraise.protocols import bulk
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.content import ContentError, Envelope
from barnraise.protocols.files import FULL
from barnraise.protocols.transfers import CHUNK

ENVELOPE = 256 << 20  # bytes of the largest envelope that is read into memory
_FINAL = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)

Moved = Callable[[int, int], None]
"""(bytes moved, bytes in all)."""


class Failed(Exception):
    """It may be tried again: the connection was cut, or what came was not what it should be.

    `full`: the disk here has no room for it.
    """

    def __init__(self, why: str, *, full: bool = False) -> None:
        super().__init__(why)
        self.full = full


class Refused(Exception):
    """The coordinator has said no; the same again would be refused again."""

    @property
    def code(self) -> str:
        """The code that the coordinator gave, of `protocols.errors.CODES`; "" if it gave none."""
        found = re.search(r"\bN\d{3}\b", str(self))
        return found[0] if found else ""


def failure_of(error: grpc.RpcError) -> Failed | Refused:
    """What a call's end means for the transfer."""
    text = f"{error.code().name}: {error.details()}"
    return Refused(text) if error.code() in _FINAL else Failed(text)


def _called(method: Callable[..., Any], argument: Any) -> Any:
    try:
        return method(argument)
    except ValueError:  # how gRPC says that the channel was closed meanwhile
        raise Failed("the connection is gone") from None


class BulkStub:
    """The Exchange as a node calls it. `Fetch` gives each chunk's data; `Deliver` takes messages as bytes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.Fetch: Callable[..., Any] = channel.unary_stream(
            f"/{bulk.SERVICE}/Fetch",
            request_serializer=pb.FetchRequest.SerializeToString,
            response_deserializer=bulk.chunk_data,
        )
        self.Deliver: Callable[..., Any] = channel.stream_stream(
            f"/{bulk.SERVICE}/Deliver",
            request_serializer=bulk.as_it_is,
            response_deserializer=pb.ToMember.FromString,
        )


# --- fetching ---------------------------------------------------------------------------------------


class Shelf(Protocol):
    """Where fetched blobs lie. `partial` holds unfinished ones, each in a file named by its digest."""

    partial: Path
    spares: Spares

    def has(self, digest: str) -> bool: ...

    def read(self, digest: str) -> bytes: ...


def fetch(stub: BulkStub, content: str, size: int, shelf: Shelf, moved: Moved) -> list[str]:
    """Fetch what is missing of a content into `shelf.partial`; the digests of what is complete there.

    `size` is the most that all of it may have, in bytes. Raises `Failed` or `Refused`.
    """
    fetched = _Fetch(stub, size, shelf, moved)
    try:
        fetched.blob(content, min(size, ENVELOPE))
        path = shelf.partial / content[7:]
        data = path.read_bytes() if path.is_file() else shelf.read(content)
        for blob in Envelope.decode(data).blobs():
            fetched.blob(blob, size, size - fetched.all)
    except grpc.RpcError as error:
        raise failure_of(error) from None
    except ContentError as error:
        raise Refused(f"the order's content is malformed: {error}") from None
    except OSError as error:
        full = error.errno in FULL
        raise Failed(f"the spool cannot be written: {error}", full=full) from None
    return fetched.complete


class _Fetch:
    def __init__(self, stub: BulkStub, size: int, shelf: Shelf, moved: Moved) -> None:
        self._stub, self._size, self._shelf, self._moved = stub, size, shelf, moved
        self.all = 0
        self.complete: list[str] = []

    def blob(self, digest: str, most: int, about: int = 0) -> None:
        """`most` bytes at most; `about` so many are expected."""
        if self._shelf.has(digest):
            return
        file = Growing(self._shelf.partial / digest[7:], self._shelf.spares, about)
        try:
            hasher = file.hasher()
            self._take(file.at)
            if "sha256:" + hasher.hexdigest() != digest:
                self._rest(digest, file, hasher, most)
        finally:
            file.close()
        self.complete.append(digest)

    def _rest(self, digest: str, file: Growing, hasher: hashlib._Hash, most: int) -> None:
        call = _called(self._stub.Fetch, pb.FetchRequest(digest=digest, offset=file.at))
        try:
            for data in call:
                size = len(data)
                if size > CHUNK or file.at + size > most or self.all + size > self._size:
                    file.drop()
                    raise Failed(
                        f"{digest} goes on beyond the {self._size} bytes that were announced"
                    )
                hasher.update(data)
                file.write(data)
                self._take(size)
        finally:
            call.cancel()
        if "sha256:" + hasher.hexdigest() != digest:
            file.drop()
            raise Failed(f"what came as {digest} has another digest")

    def _take(self, count: int) -> None:
        self.all += count
        self._moved(self.all, self._size)


# --- delivering -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """`held`: its bytes, or the file that holds them."""

    digest: str
    size: int
    held: Path | bytes


def deliver(
    stub: BulkStub, order: str, statement: bytes, parts: Sequence[Part], moved: Moved
) -> None:
    """Offer a reply, send what of it is wanted, and return when it is taken in.

    The first of `parts` is the envelope. Raises `Failed` or `Refused`, and `OSError` if a file is gone.
    """
    delivery = _Delivery(order, statement, parts, moved)
    call = _called(stub.Deliver, delivery.said())
    try:
        for answer in call:
            delivery.hear(answer)
        if not delivery.taken:
            raise Failed("the coordinator ended the transfer before it took the reply in")
    except grpc.RpcError as error:
        raise delivery.problem or failure_of(error) from None
    finally:
        delivery.end()
        call.cancel()


class _Delivery:
    """`said` runs in a thread of gRPC's, which takes a message when there is room for it."""

    def __init__(self, order: str, statement: bytes, parts: Sequence[Part], moved: Moved) -> None:
        self._parts = {part.digest: part for part in parts}
        self._offer = pb.Offer(
            order=order,
            content=parts[0].digest,
            statement=statement,
            parts=[pb.Part(digest=part.digest, size=part.size) for part in parts],
            envelope=_brought(parts[0]),
        )
        self._moved = moved
        self._wanted: queue.SimpleQueue[list[pb.Want] | None] = queue.SimpleQueue()
        self.taken = self._told = False
        self.problem: Exception | None = None

    def hear(self, answer: pb.ToMember) -> None:
        if answer.HasField("taken"):
            self.taken = True
        elif answer.HasField("wanted"):
            names = [want.digest for want in answer.wanted.parts]
            if self._told or len({*names}) < len(names):
                raise Failed("the coordinator wants the same twice")
            self._told = True
            for want in answer.wanted.parts:
                part = self._parts.get(want.digest)
                if part is None or want.offset > part.size:
                    raise Failed("the coordinator wants something that was not offered")
            self._wanted.put(list(answer.wanted.parts))

    def end(self) -> None:
        self._wanted.put(None)

    def said(self) -> Iterator[bytes]:
        yield pb.FromMember(offer=self._offer).SerializeToString()
        wanted = self._wanted.get()
        if not wanted:
            return
        total = sum(part.size for part in self._parts.values())
        sent = total - sum(self._parts[want.digest].size - want.offset for want in wanted)
        try:
            for want in wanted:
                for offset, data in _pieces(self._parts[want.digest], want.offset):
                    yield bulk.piece(want.digest, offset, data)
                    sent += len(data)
                    self._moved(sent, total)
        except OSError as error:
            self.problem = error
            raise


def _brought(part: Part) -> bytes:
    """An envelope as its offer brings it; "" to be sent when it is wanted."""
    return part.held if isinstance(part.held, bytes) and part.size <= SMALL else b""


def _pieces(part: Part, offset: int) -> Iterator[tuple[int, bytes]]:
    if isinstance(part.held, bytes):
        for at in range(offset, part.size, CHUNK):
            yield at, part.held[at : at + CHUNK]
        return
    with part.held.open("rb", buffering=0) as file:
        while offset < part.size:
            data = os.pread(file.fileno(), min(CHUNK, part.size - offset), offset)
            if not data:
                raise OSError(f"{part.held} is shorter than it was")
            yield offset, data
            offset += len(data)
