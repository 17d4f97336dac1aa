"""A small HTTP server for a few pages that only tell: GET, no body, no name looked up, nothing logged.

It is for the machine itself and for a monitoring system beside it. Whoever can reach it learns what it tells,
so it listens on loopback unless another address is given.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from barnraise.protocols.errors import BarnraiseError

LOOPBACK = "127.0.0.1"
AT_ONCE = 16  # connections; more are closed unanswered
PATIENCE = 10.0  # seconds for a question to come, and for its answer to be taken
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Told:
    """One page's answer."""

    body: bytes
    type: str = PLAIN
    status: int = 200


Pages = Mapping[str, Callable[[], Told]]


def health_page(ok: bool, said: Mapping[str, Any]) -> Told:
    """One JSON line: 200 if all is well, else 503."""
    line = json.dumps(said, ensure_ascii=False) + "\n"
    return Told(line.encode(), "application/json", 200 if ok else 503)


def place_of(address: str) -> tuple[str, int]:
    """Host and port of `PORT`, `HOST:PORT` or `[V6]:PORT`; X102 for anything else."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536) or (":" in host) != (
        host.startswith("[") and host.endswith("]")
    ):
        raise BarnraiseError(
            "X102", f"{address!r} is no address to listen at", next="give PORT, or HOST:PORT"
        )
    return host.strip("[]") or LOOPBACK, int(port)


class _Server(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        self.pages = pages
        self._room = threading.BoundedSemaphore(AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Without looking up this machine's name, as `HTTPServer` does."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Whoever asks a byte at a time has `PATIENCE` in all: a connection holds one of few places."""
        end = threading.Timer(PATIENCE, partial(_end, request))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asks may go away at any time."""


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "barnraise", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self._tell(
                Told(b"there is: " + ", ".join(self.server.pages).encode() + b"\n", PLAIN, 404)
            )
            return
        try:
            told = page()
        except BarnraiseError as error:
            told = Told(f"{error.code}: {error.what}\n".encode(), PLAIN, 503)
        self._tell(told)

    def _tell(self, told: Told) -> None:
        self.send_response(told.status)
        self.send_header("Content-Type", told.type)
        self.send_header("Content-Length", str(len(told.body)))
        self.end_headers()
        self.wfile.write(told.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a question a few times a minute would hide what matters."""


@contextmanager
def listening(address: str, pages: Pages) -> Iterator[int]:
    """Inside, the pages are told at this address; the port. Raises N118, X102."""
    host, port = place_of(address)
    try:
        server = _Server(host, port, pages)
    except (OSError, OverflowError) as error:
        raise BarnraiseError(
            "N118",
            f"cannot listen on {address}",
            str(error),
            next="end what holds the port, or give another address",
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="http", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
