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

from barnraise.protocols import federation_pb2 as pb
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
        assert self._process.stdin is not None and self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
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
