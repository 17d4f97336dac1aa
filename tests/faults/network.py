"""A bad network on this machine: a TCP proxy that delays, throttles, loses, stalls and cuts.

TLS passes through it as bytes. Each `Line` is one address that a node is given instead of the coordinator's;
what it does to all its connections may be changed at any time, from any thread.

    latency    seconds that every byte travels, in each direction
    rate       bytes a second, in each direction; None for no limit
    loss       how many of 100 segments come only after `RETRANSMIT` seconds, as TCP hides a loss
    stalled    half open: both ends stay connected and nothing moves
    refusing   whoever connects is cut at once
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

SEGMENT = 8 << 10  # bytes that are read at a time, and at most in flight on a throttled line
RETRANSMIT = 0.3
BUFFER = 16 << 10  # bytes of each socket's buffers: a line holds little, as a long one does


@dataclass
class Line:
    """One way to the coordinator. `up` and `down` count the bytes that a node sent and was sent."""

    target: int
    port: int = 0
    host: str = "127.0.0.1"
    latency: float = 0.0
    rate: int | None = None
    loss: int = 0
    refusing: bool = False
    up: int = 0
    down: int = 0
    connections: int = 0
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    moved: threading.Condition = field(default_factory=threading.Condition)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def until_moved(self, up: int = 0, down: int = 0, seconds: float = 20.0) -> None:
        """Wait until so many bytes went up and down."""
        with self.moved:
            done = self.moved.wait_for(lambda: self.up >= up and self.down >= down, seconds)
        assert done, f"only {self.up} bytes up and {self.down} down"


class Network:
    """The proxy: one loop in a thread of its own, which owns every connection."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._draw = random.Random(1)
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()
        self.lines: list[Line] = []

    def line(self, target: int, **how: Any) -> Line:
        """A new address that leads to the port `target` of this machine."""
        line = Line(target, **how)
        self._do(self._open(line))
        self.lines.append(line)
        return line

    def cut(self, line: Line) -> None:
        """End every connection of the line, now."""
        self._do(self._cut(line))

    def stall(self, line: Line) -> None:
        """Half open from now on: nobody is told anything, and nothing moves."""
        self._do(self._set(line, False))

    def heal(self, line: Line) -> None:
        """Let what is stalled flow again."""
        self._do(self._set(line, True))

    def close(self) -> None:
        for line in self.lines:
            self.cut(line)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # --- in the loop ---------------------------------------------------------------------------

    async def _open(self, line: Line) -> None:
        listener = socket.create_server(("127.0.0.1", line.port))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        line.flowing.set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._carry(line, reader, writer)

        server = await asyncio.start_server(connected, sock=listener, limit=SEGMENT)
        line.port = server.sockets[0].getsockname()[1]

    async def _set(self, line: Line, flowing: bool) -> None:
        (line.flowing.set if flowing else line.flowing.clear)()

    async def _cut(self, line: Line) -> None:
        for task in list(line.tasks):
            task.cancel()
        await asyncio.gather(*line.tasks, return_exceptions=True)

    async def _carry(
        self, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        line.tasks.add(task)
        line.connections += 1
        try:
            if not line.refusing:
                await self._between(line, reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()
            line.tasks.discard(task)

    async def _between(
        self, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            there = socket.socket()
            there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            there.setblocking(False)
            await self._loop.sock_connect(there, ("127.0.0.1", line.target))
            back, forth = await asyncio.open_connection(sock=there, limit=SEGMENT)
            for out in (writer, forth):
                out.transport.set_write_buffer_limits(SEGMENT)
            ways = [
                asyncio.ensure_future(self._pump(line, reader, forth, "up")),
                asyncio.ensure_future(self._pump(line, back, writer, "down")),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                forth.transport.abort()

    async def _pump(
        self, line: Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str
    ) -> None:
        """One direction. What travels is in `road`, which is as long as the latency."""
        road: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        arriving = asyncio.ensure_future(self._arrive(line, road, sink, way))
        try:
            with suppress(OSError):
                while data := await source.read(SEGMENT):
                    await line.flowing.wait()
                    if line.rate is not None:
                        await asyncio.sleep(len(data) / line.rate)
                    await road.put((self._loop.time() + self._travels(line), data))
                await road.put((0.0, b""))
                await arriving
        finally:
            arriving.cancel()

    def _travels(self, line: Line) -> float:
        lost = self._draw.randrange(100) < line.loss
        return line.latency + (RETRANSMIT if lost else 0.0)

    async def _arrive(
        self,
        line: Line,
        road: asyncio.Queue[tuple[float, bytes]],
        sink: asyncio.StreamWriter,
        way: str,
    ) -> None:
        with suppress(OSError):
            while True:
                due, data = await road.get()
                if not data:
                    return
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await line.flowing.wait()
                sink.write(data)
                await sink.drain()
                with line.moved:
                    setattr(line, way, getattr(line, way) + len(data))
                    line.moved.notify_all()
