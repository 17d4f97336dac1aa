"""The node's socket: `N/node.sock`, open to whoever may enter the node's directory (mode 0700).

What is asked is answered by a function that it is given; it knows no verb.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from barnraise.protocols import control
from barnraise.protocols import control_pb2 as pb
from barnraise.protocols.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server

SOCKET = control.SOCKET["node"]


class _Servicer(ControlServicer):
    def __init__(self, answer: control.Answer) -> None:
        self._answer = answer

    def Ask(self, request: pb.Question, context: grpc.ServicerContext) -> pb.Answer:
        return pb.Answer(json=control.replied(request.json, self._answer))

    def Watch(self, request: pb.Question, context: grpc.ServicerContext) -> Iterator[pb.Answer]:
        """The answer of now; a node's state changes seldom, and is asked for again."""
        yield pb.Answer(json=control.replied(request.json, self._answer))


@contextmanager
def listening(home: Path, answer: control.Answer) -> Iterator[None]:
    """Inside, whoever opens the node's socket is answered, in a thread of its own."""
    (home / SOCKET).unlink(missing_ok=True)
    threads = ThreadPoolExecutor(4, "control")
    server = grpc.server(threads)
    add_ControlServicer_to_server(_Servicer(answer), server)
    with _short(home) as folder:
        try:
            server.add_insecure_port(f"unix:{folder}/{SOCKET}")
            (home / SOCKET).chmod(0o600)
            server.start()
            yield
        finally:
            server.stop(None).wait()
            threads.shutdown(wait=False)
            (home / SOCKET).unlink(missing_ok=True)


@contextmanager
def _short(home: Path) -> Iterator[str]:
    """A short name of the directory: a socket's name may have 107 bytes, and paths are longer."""
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
