"""Hostile peers: what they send is refused in so many words, costs bounded memory, and hurts no one else.

The coordinator runs in a process of its own; its peak memory (`VmHWM`) is read after an honest delivery of
each size that follows, and again after the attack.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from session_kit import (
    LARGE,
    SOON,
    Delivering,
    Node,
    Reply,
    Session,
    refusal,
    status,
)

from barnraise.protocols import canonical
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.content import ArrayEntry, Arrays, Envelope
from barnraise.protocols.tensors import encode
from barnraise.protocols.transfers import CHUNK

BOUND = 24 << 10  # kB that an attack may cost at most
HERE = Path(__file__).parent


class Coordinator:
    """The process, and what it answers."""

    def __init__(self, place: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "hostile_coordinator.py"), str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        )
        self.port = int(self.ask("port"))
        self._credentials: dict[str, grpc.ChannelCredentials] = {}
        self._nodes: list[Node] = []

    def ask(self, *words: str) -> Any:
        self.tell(*words)
        return self.answer()

    def tell(self, *words: str) -> None:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def node(self, name: str) -> Node:
        if name not in self._credentials:
            place = Path(self.ask("pair", name))
            files = (place / "ca.crt", place / f"{name}.key", place / f"{name}.crt")
            self._credentials[name] = grpc.ssl_channel_credentials(*(f.read_bytes() for f in files))
        node = Node(name, self.port, self._credentials[name])
        self._nodes.append(node)
        return node

    def honest(self, name: str, reply: Reply) -> None:
        """The whole way of an honest member: attend, be asked, fetch, deliver, be told."""
        order, node = self.ask("order", name), self.node(name)
        session = node.attend().welcomed()
        while (said := session.next()) and getattr(said, "id", "") != order:
            pass
        node.fetch(said.content)
        node.deliver(order, reply)
        assert order in self.ask("arrivals", "20")
        while not isinstance(session.next(), pb.Receipt):
            pass
        session.cut()

    def close(self) -> None:
        for node in self._nodes:
            node.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(SOON) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def coordinator(place: Path) -> Iterator[Coordinator]:
    made = Coordinator(place / "house")
    large = Reply.good(place / "warm", size=LARGE)
    for name in ("ada", "cyd"):
        made.honest(name, large)
    yield made
    made.close()


@pytest.fixture
def unharmed(coordinator: Coordinator, tmp_path: Path) -> Iterator[None]:
    """Around an attack: memory is bounded, and afterwards an honest member is served as before."""
    before = coordinator.ask("peak")
    yield
    coordinator.honest("ada", Reply.good(tmp_path / "honest", value=3.0, size=LARGE))
    grown = coordinator.ask("peak") - before
    assert grown < BOUND, f"{grown} kB more"


# --- members that lie -------------------------------------------------------------------------------

Lie = Callable[[Node, str, Reply], tuple[str, str]]


def an_unannounced_length(node: Node, order: str, reply: Reply) -> tuple[str, str]:
    """A part whose size is a number that nobody could store."""
    offer = node.offer(order, reply)
    offer.parts[1].size = 1 << 62
    return refusal(lambda: Delivering(node, offer).__enter__())


def a_stream_longer_than_its_plan(node: Node, order: str, reply: Reply) -> tuple[str, str]:
    """64 MB more than was offered."""
    with Delivering(node, node.offer(order, reply)) as delivering:
        for piece in reply.pieces(delivering.wanted):
            delivering.send(piece)
        blob = list(reply.parts)[1]
        for at in range(64):
            offset = len(reply.parts[blob]) + at * CHUNK
            delivering.send(pb.Piece(digest=blob, offset=offset, data=bytes(CHUNK)))
        delivering.taken()
    return "taken", "once"


def a_piece_beyond_its_part(node: Node, order: str, reply: Reply) -> tuple[str, str]:
    blob, data = next(iter(reply.parts.items()))
    with Delivering(node, node.offer(order, reply)) as delivering:
        delivering.send(pb.Piece(digest=blob, offset=0, data=data + bytes(CHUNK // 2)))
        return status(delivering.refused())


def a_repeated_chunk(node: Node, order: str, reply: Reply) -> tuple[str, str]:
    with Delivering(node, node.offer(order, reply)) as delivering:
        pieces = list(reply.pieces(delivering.wanted))
        for piece in [*pieces[:2], pieces[1]]:
            delivering.send(piece)
        return status(delivering.refused())


def bytes_that_are_others(node: Node, order: str, reply: Reply) -> tuple[str, str]:
    """What comes is as long as what was offered, and is something else."""
    with Delivering(node, node.offer(order, reply)) as delivering:
        for piece in reply.pieces(delivering.wanted):
            delivering.send(
                pb.Piece(digest=piece.digest, offset=piece.offset, data=bytes(len(piece.data)))
            )
        return status(delivering.refused())


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    ("lie", "refused"),
    [
        (an_unannounced_length, ("RESOURCE_EXHAUSTED", "N206")),
        (a_stream_longer_than_its_plan, ("taken", "once")),
        (a_piece_beyond_its_part, ("INVALID_ARGUMENT", "N207")),
        (a_repeated_chunk, ("INVALID_ARGUMENT", "N207")),
        (bytes_that_are_others, ("DATA_LOSS", "N208")),
    ],
)
def test_a_lie_is_refused(
    coordinator: Coordinator, tmp_path: Path, lie: Lie, refused: tuple[str, str]
) -> None:
    reply = Reply.good(tmp_path / "reply", value=float(len(lie.__name__)), size=LARGE)
    assert lie(coordinator.node("bob"), coordinator.ask("order", "bob"), reply) == refused
    coordinator.ask("arrivals", "0")


# --- replies that lie ---------------------------------------------------------------------------------


def forged(reply: Reply, change: Callable[[Envelope, str, bytes], tuple[Envelope, bytes]]) -> Reply:
    """The reply with another envelope and blob, each under the digest that its bytes do have."""
    data, blob = reply.parts.values()
    envelope, blob = change(Envelope.decode(data), "sha256:" + "ab" * 32, blob)
    parts = [envelope.encode(), blob]
    return Reply({canonical.digest(part): part for part in parts})


def naming(envelope: Envelope, blob: str, keys: tuple[str, ...] = ("0",)) -> Envelope:
    arrays = Arrays(blob, tuple(ArrayEntry(key) for key in keys))
    records = ((n, arrays if n == "arrays" else record) for n, record in envelope.records)
    return Envelope(tuple(records))


def a_blob_that_never_comes(envelope: Envelope, other: str, blob: bytes) -> tuple[Envelope, bytes]:
    return naming(envelope, other), blob


def arrays_that_its_blob_has_not(
    envelope: Envelope, other: str, blob: bytes
) -> tuple[Envelope, bytes]:
    return naming(envelope, canonical.digest(blob), ("0", "1")), blob


def a_blob_of_another_shape(envelope: Envelope, other: str, blob: bytes) -> tuple[Envelope, bytes]:
    """Twice the numbers, in a blob that is sound in itself."""
    twice = b"".join(encode({"0": np.full(2 * LARGE, 5.0, np.float32)}))
    return naming(envelope, canonical.digest(twice)), twice


def with_header(envelope: Envelope, blob: bytes, text: bytes) -> tuple[Envelope, bytes]:
    """The same numbers behind another header, which says how long it is itself."""
    start = 8 + int.from_bytes(blob[:8], "little")
    text += b" " * (-len(text) % 8)
    lying = len(text).to_bytes(8, "little") + text + blob[start:]
    return naming(envelope, canonical.digest(lying)), lying


def a_header_longer_than_its_file(
    envelope: Envelope, other: str, blob: bytes
) -> tuple[Envelope, bytes]:
    lying = (1 << 62).to_bytes(8, "little") + blob[8:]
    return naming(envelope, canonical.digest(lying)), lying


def a_header_with_a_larger_array(
    envelope: Envelope, other: str, blob: bytes
) -> tuple[Envelope, bytes]:
    """4 EB are announced, where 2.8 MB lie."""
    tensor = {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}
    return with_header(envelope, blob, json.dumps({"0": tensor}).encode())


def a_header_of_another_shape(
    envelope: Envelope, other: str, blob: bytes
) -> tuple[Envelope, bytes]:
    tensor = {"dtype": "F32", "shape": [2 * LARGE], "data_offsets": [0, 4 * LARGE]}
    return with_header(envelope, blob, json.dumps({"0": tensor}).encode())


def a_header_nested_without_end(
    envelope: Envelope, other: str, blob: bytes
) -> tuple[Envelope, bytes]:
    return with_header(envelope, blob, b'{"0":' + b"[" * 100_000)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """A coordinator whose rounds are the engine's own."""
    place = tmp_path_factory.mktemp("judge")
    made = Coordinator(place / "house")
    a_round(made, {n: Reply.good(place / n, value=2.0, size=LARGE) for n in ("ada", "bob", "cyd")})
    yield made
    made.close()


def a_round(judge: Coordinator, replies: dict[str, Reply]) -> dict[str, str]:
    """Each member attends, is asked, and delivers; what became of each reply."""
    sessions = {name: judge.node(name).attend().welcomed() for name in replies}
    judge.tell("round", *replies)
    for name, session in sessions.items():
        while not isinstance(order := session.next(), pb.Order):
            pass
        judge.node(name).deliver(order.id, replies[name])
    verdicts: dict[str, str] = judge.answer()
    for session in sessions.values():
        session.cut()
    return verdicts


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (a_blob_that_never_comes, "M101: it names bytes that it did not bring"),
        (arrays_that_its_blob_has_not, "M101: the record 'arrays' names other arrays"),
        (a_blob_of_another_shape, "M105: arrays[0] is float32[1400000], not float32[700000]"),
        (a_header_longer_than_its_file, "M101: the header claims to be longer than the file"),
        (a_header_with_a_larger_array, "M101: "),
        (a_header_of_another_shape, "M101: a tensor's shape and length contradict each other"),
        (a_header_nested_without_end, "M101: the header is not JSON"),
    ],
)
def test_a_reply_that_lies_is_refused_and_the_round_goes_on(
    judge: Coordinator, tmp_path: Path, lie: Any, reason: str
) -> None:
    """What it brings is what it is called; what it says of itself is not so."""
    before = judge.ask("peak")
    good = Reply.good(tmp_path / "good", value=3.0, size=LARGE)
    verdicts = a_round(judge, {"ada": good, "bob": forged(good, lie), "cyd": good})
    assert verdicts.pop("bob").startswith(reason)
    assert verdicts == {"ada": "accepted", "cyd": "accepted"}
    grown = judge.ask("peak") - before
    assert grown < BOUND, f"{grown} kB more"


# --- floods -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("tls", [False, True])
def test_64_mb_of_junk_before_anybody_has_said_who_it_is(
    coordinator: Coordinator, place: Path, tls: bool
) -> None:
    junk, sent = os.urandom(1 << 20), 0
    with ExitStack() as held, suppress(OSError):
        one = held.enter_context(socket.create_connection(("127.0.0.1", coordinator.port)))
        if tls:
            coordinator.node("ada")
            context = ssl.create_default_context(cafile=str(place / "house" / "ca.crt"))
            context.set_alpn_protocols(["h2"])
            one = held.enter_context(context.wrap_socket(one, server_hostname="127.0.0.1"))
        one.settimeout(SOON)
        for _ in range(64):
            one.sendall(junk)
            sent += len(junk)
    assert sent < 64 << 20, "it was read to its end"


@pytest.mark.usefixtures("unharmed")
def test_a_thousand_connections(coordinator: Coordinator) -> None:
    with ExitStack() as held:
        for _ in range(1000):
            one = held.enter_context(socket.create_connection(("127.0.0.1", coordinator.port)))
            with suppress(OSError):
                one.sendall(b"\x16\x03\x01")


@pytest.mark.usefixtures("unharmed")
def test_a_thousand_sessions_of_one_member(coordinator: Coordinator) -> None:
    """Each displaces the one before; nobody else notices."""
    nodes = [coordinator.node("bob") for _ in range(4)]
    hello = pb.Hello(run="none", version="0")
    sessions = [Session(nodes[number % 4].channel, hello) for number in range(1000)]
    ends = [status(session.end()) for session in sessions[:-8]]
    assert {kind for kind, _ in ends} <= {"ABORTED", "CANCELLED", "UNAVAILABLE"}, set(ends)
    assert ("ABORTED", "N210") in ends
    for session in sessions:
        session.cut()
