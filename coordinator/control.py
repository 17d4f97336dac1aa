"""The operator's socket: `F/serve.sock`, open to whoever may enter the directory (mode 0700).

What is asked is answered by a function that it is given; it knows no verb.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from barnraise.protocols import control
from barnraise.protocols import control_pb2 as pb
from barnraise.protocols.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server

FAREWELL = 1.0  # seconds in which what was answered may still go out
LOOK = 0.5  # seconds between two looks of a watch


class _Servicer(ControlServicer):
    def __init__(self, ask: control.Answer) -> None:
        self._ask = ask

    def Ask(self, request: pb.Question, context: grpc.ServicerContext) -> pb.Answer:
        return pb.Answer(json=control.replied(request.json, self._ask))

    def Watch(self, request: pb.Question, context: grpc.ServicerContext) -> Iterator[pb.Answer]:
        """The answer, and whenever it is another one, until the caller has enough."""
        ended, told = threading.Event(), b""
        context.add_callback(ended.set)
        while not ended.is_set():
            if (answer := control.replied(request.json, self._ask)) != told:
                told = answer
                yield pb.Answer(json=answer)
            ended.wait(LOOK)


@contextmanager
def listening(directory: Path, ask: control.Answer) -> Iterator[None]:
    """Inside, whoever opens the directory's socket is answered."""
    path = directory / control.SOCKET["serve"]
    path.unlink(missing_ok=True)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    threads = ThreadPoolExecutor(8, "control")
    server = grpc.server(threads)
    add_ControlServicer_to_server(_Servicer(ask), server)
    try:
        # a path by its folder's descriptor: a socket's name may have 107 bytes, and paths are longer
        server.add_insecure_port(f"unix:/proc/self/fd/{folder}/{path.name}")
        path.chmod(0o600)
        server.start()
        yield
    finally:
        server.stop(FAREWELL).wait()
        threads.shutdown(wait=False)
        os.close(folder)
        path.unlink(missing_ok=True)
