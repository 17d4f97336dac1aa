"""What daemon and worker say to each other over their socket: JSON objects, each behind its length.

Tensors never pass here; they lie as files in the spool, named by digest. Small envelopes do: a file for each
would cost more than what is in it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

LARGEST = 2 << 20
SMALL = 1 << 16  # bytes of an envelope that passes in a frame: of three, each up to six in JSON


class FrameError(ValueError):
    """Bytes that are no frame of ours."""


def send(sock: socket.socket, message: Mapping[str, Any]) -> None:
    """`FrameError` if the message is larger than a frame may be; `OSError` if the other side is gone."""
    data = json.dumps(message).encode()
    if len(data) > LARGEST:
        raise FrameError(f"a frame of {len(data)} bytes")
    sock.sendall(len(data).to_bytes(4, "big") + data)


def receive(sock: socket.socket) -> dict[str, Any] | None:
    """The next message; None when the other side has ended. `FrameError` for anything else."""
    head = _exactly(sock, 4)
    if head is None:
        return None
    length = int.from_bytes(head, "big")
    if length > LARGEST:
        raise FrameError(f"a frame that says it has {length} bytes")
    data = _exactly(sock, length)
    if data is None:
        return None
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame that is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise FrameError("a frame that is not an object")
    return message


def _exactly(sock: socket.socket, length: int) -> bytes | None:
    """`length` bytes, or None when the stream ends before."""
    data = bytearray()
    while len(data) < length:
        try:
            piece = sock.recv(min(length - len(data), 1 << 16))
        except ConnectionError:
            return None
        if not piece:
            return None
        data += piece
    return bytes(data)
