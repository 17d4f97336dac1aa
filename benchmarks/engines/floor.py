"""What the machine allows: the bytes of a round over gRPC and TLS, hashed, written, synced. Nothing else.

As many clients as sites, each a process of its own, fetch the model at once and then send it back, in
messages of 1 MiB that no serializer touches. Hashing: as often as Barnraise must look at a byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
OPTIONS = [
    ("grpc.max_receive_message_length", 2 * CHUNK),
    ("grpc.max_send_message_length", 2 * CHUNK),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", CHUNK),
    ("grpc.so_reuseport", 0),
]


def same(data: bytes) -> bytes:
    return data


def measure(where: Path, mb: float, sites: int) -> dict[str, float]:
    """Seconds a round."""
    size = int(mb * 2**20)
    passes = 1 + 3 * sites  # made once; fetched, made and taken in at each site's turn
    return {
        **over_tls(where, size, sites),
        f"hash {passes} times": _hashed(size, passes),
        f"write and sync {sites + 1} blobs": _written(where, size, sites + 1),
    }


def _hashed(size: int, passes: int) -> float:
    """On every processor at once."""
    data = os.urandom(min(size, 8 << 20))
    total, cores = size * passes, os.cpu_count() or 1

    def work(count: int) -> None:
        hasher = hashlib.sha256()
        for _ in range(count):
            hasher.update(data)

    started = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(work, [max(1, total // len(data) // cores)] * cores))
    return time.perf_counter() - started


def _written(where: Path, size: int, blobs: int) -> float:
    data = memoryview(os.urandom(size))
    started = time.perf_counter()
    for number in range(blobs):
        path = where / f"floor-{number}"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        view = data
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
        os.close(fd)
    seconds = time.perf_counter() - started
    for number in range(blobs):
        (where / f"floor-{number}").unlink()
    return seconds


# --- gRPC over TLS --------------------------------------------------------------------------------


def over_tls(where: Path, size: int, sites: int) -> dict[str, float]:
    """Seconds until every client has fetched `size` bytes, and until it has sent them back; best of 3."""
    import grpc

    from barnraise.protocols import pki

    key, root = pki.new_authority("floor", time.time())
    server_key = pki.new_tls_key()
    chain = pki.server_certificate(key, root, server_key, ["127.0.0.1"], time.time())
    (where / "root.pem").write_bytes(_pem(root))
    credentials = grpc.ssl_server_credentials([(_private(server_key), _pem(chain))])
    server = grpc.server(ThreadPoolExecutor(sites + 2), options=OPTIONS)
    server.add_generic_rpc_handlers((_handlers(size),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    asked = [sys.executable, __file__, str(port), str(where / "root.pem"), str(size)]
    clients = [
        subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(sites)
    ]
    try:
        for client in clients:
            _line(client)
        best = {"fetch over TLS": float("inf"), "deliver over TLS": float("inf")}
        for _ in range(3):
            for what in best:
                best[what] = min(best[what], _together(clients, what.split()[0]))
        return best
    finally:
        for client in clients:
            client.terminate()
            client.communicate()
        server.stop(0).wait()


def _handlers(size: int) -> Any:
    import grpc

    data = os.urandom(CHUNK)

    def fetch(request: bytes, context: Any) -> Iterator[bytes]:
        for _ in range(max(1, size // CHUNK)):
            yield data[: min(size, CHUNK)]

    def deliver(pieces: Iterator[bytes], context: Any) -> bytes:
        for _ in pieces:
            """Taken."""
        return b"taken"

    return grpc.method_handlers_generic_handler(
        "floor",
        {
            "fetch": grpc.unary_stream_rpc_method_handler(fetch, same, same),
            "deliver": grpc.stream_unary_rpc_method_handler(deliver, same, same),
        },
    )


def _together(clients: list[subprocess.Popen[str]], what: str) -> float:
    started = time.perf_counter()
    for client in clients:
        assert client.stdin is not None
        client.stdin.write(what + "\n")
        client.stdin.flush()
    for client in clients:
        _line(client)
    return time.perf_counter() - started


def _line(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    return client.stdout.readline()


def _client(port: str, root: str, size: int) -> None:
    import grpc

    credentials = grpc.ssl_channel_credentials(Path(root).read_bytes())
    channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=OPTIONS)
    fetch = channel.unary_stream("/floor/fetch", same, same)
    deliver = channel.stream_unary("/floor/deliver", same, same)
    data = os.urandom(min(size, CHUNK))
    grpc.channel_ready_future(channel).result(20)
    print(json.dumps("ready"), flush=True)
    for asked in sys.stdin:
        if asked.strip() == "fetch":
            for _ in fetch(b""):
                """Taken."""
        else:
            deliver(iter([data] * max(1, size // CHUNK)))
        print(json.dumps("done"), flush=True)


def _pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(certificate.public_bytes(Encoding.PEM))


def _private(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    return bytes(
        key.private_bytes(s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption())
    )


if __name__ == "__main__":
    _client(sys.argv[1], sys.argv[2], int(sys.argv[3]))
