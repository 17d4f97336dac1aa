"""The two messages that carry content, `Chunk` and `Piece`, written and read by hand.

On the wire they are what `federation.proto` says, byte for byte; but protobuf would copy the content
twice at either end, which at 1 MiB a message is most of what a transfer costs. Whatever is spelled
otherwise than protobuf itself would spell it is left to protobuf. Knows nothing of files or of calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from barnraise.protocols import federation_pb2 as pb

Data = bytes | memoryview

SERVICE = "barnraise.v1.Exchange"
_DATA, _DIGEST, _OFFSET, _PIECE_DATA, _PIECE = 0x0A, 0x0A, 0x10, 0x1A, 0x12  # tags
_DIGEST_SIZE = 71  # "sha256:" and 64 hex digits


@dataclass(frozen=True)
class Piece:
    """A piece of a delivery. `data` is a view of the message that brought it."""

    digest: str
    offset: int
    data: Data


# --- writing --------------------------------------------------------------------------------------


def chunk(data: Data) -> bytes:
    """The bytes of `Chunk(data=data)`."""
    return b"".join((bytes([_DATA]), _varint(len(data)), data)) if data else b""


def piece(digest: str, offset: int, data: Data) -> bytes:
    """The bytes of `FromMember(piece=Piece(digest=digest, offset=offset, data=data))`."""
    name = digest.encode()
    head = bytes([_DIGEST]) + _varint(len(name)) + name if name else b""
    head += bytes([_OFFSET]) + _varint(offset) if offset else b""
    head += bytes([_PIECE_DATA]) + _varint(len(data)) if data else b""
    return b"".join((bytes([_PIECE]), _varint(len(head) + len(data)), head, data))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# --- reading --------------------------------------------------------------------------------------


class _Unusual(Exception):
    """It may be a message, but is not spelled as ours are."""


def chunk_data(message: bytes) -> Data:
    """The data of a `Chunk`, without a copy. Raises what protobuf raises."""
    try:
        start = _expect(message, 0, _DATA)
        size, start = _number(message, start)
        if start + size != len(message):
            raise _Unusual
        return memoryview(message)[start:]
    except _Unusual:
        return pb.Chunk.FromString(message).data


def from_member(message: bytes) -> pb.FromMember | Piece:
    """What a member says in a delivery: an offer, or a `Piece`. Raises what protobuf raises."""
    try:
        return _piece(message)
    except _Unusual:
        said = pb.FromMember.FromString(message)
        if said.WhichOneof("said") != "piece":
            return said
        return Piece(said.piece.digest, said.piece.offset, said.piece.data)


def _piece(message: bytes) -> Piece:
    size, at = _number(message, _expect(message, 0, _PIECE))
    if at + size != len(message):
        raise _Unusual
    size, at = _number(message, _expect(message, at, _DIGEST))
    if size != _DIGEST_SIZE or not (name := message[at : at + size]).isascii():
        raise _Unusual
    at, offset = at + size, 0
    if message[at : at + 1] == bytes([_OFFSET]):
        offset, at = _number(message, at + 1)
    size, at = _number(message, _expect(message, at, _PIECE_DATA))
    if at + size != len(message):
        raise _Unusual
    return Piece(name.decode("ascii"), offset, memoryview(message)[at:])


def _expect(message: bytes, at: int, tag: int) -> int:
    if at >= len(message) or message[at] != tag:
        raise _Unusual
    return at + 1


def _number(message: bytes, at: int) -> tuple[int, int]:
    """A varint of at most 63 bits, as short as it can be, and where the next byte is."""
    value = 0
    for shift in range(0, 63, 7):
        if at >= len(message):
            raise _Unusual
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise _Unusual
            return value, at
    raise _Unusual


def as_it_is(message: bytes) -> bytes:
    """The serializer of messages that are bytes already."""
    return message
