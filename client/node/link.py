"""The connection to the coordinator: one session after another, over mTLS, for as long as the node runs.

Its thread attends, tells what it hears, and after a cut tries again with jittered backoff; a coordinator
that is not there yet is no error. It decides nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from barnraise.client.node.backoff import delay
from barnraise.client.node.transfers import BulkStub
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.federation_pb2_grpc import MembershipStub, SessionStub, TransparencyStub
from barnraise.protocols.transfers import CHANNEL_OPTIONS

OPTIONS = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
"""Of its channels; each attempt begins afresh, without gRPC's own backoff."""
SAY_EVERY = 0.2  # seconds between two reports of a transfer's progress


AGAIN = 0.2  # seconds between two states, or reports of progress
OFTEN = frozenset({"state", "progress"})
MOST_SAID = 500  # characters of why a site holds back


@dataclass(frozen=True)
class Heard:
    """A message of the session that is going on, and what its evidence was found to be."""

    message: pb.ToNode
    found: Any = None


@dataclass(frozen=True)
class Cut:
    """The session, if it had begun, has ended; the link tries again after `seconds`."""

    why: str
    seconds: float


class _Outgoing:
    """What one session has yet to say: the newest state and the newest progress, never more.

    Those are said `AGAIN` seconds after the last word at the earliest: what has passed by then is never
    said. Anything else goes at once.
    """

    def __init__(self, hello: pb.Hello, leaving: Callable[[pb.FromNode], None]) -> None:
        self._leaving = leaving
        self._changed = threading.Condition()
        self._waiting: dict[str, pb.FromNode] = {"hello": pb.FromNode(hello=hello)}
        self._open = True

    def put(self, kind: str, message: pb.FromNode) -> None:
        with self._changed:
            self._waiting[kind] = message
            self._changed.notify()

    def drop(self, kind: str) -> None:
        """What waits of this kind is said no more."""
        with self._changed:
            self._waiting.pop(kind, None)

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify()

    def __iter__(self) -> Iterator[pb.FromNode]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or not self._open)
                if not self._open:
                    return
                first = next(iter(self._waiting.keys() - OFTEN or self._waiting))
                message = self._waiting.pop(first)
            self._leaving(message)
            yield message
            with self._changed:
                self._changed.wait_for(
                    lambda: not self._open or self._waiting.keys() - OFTEN, AGAIN
                )


class Link:
    """`tell` is called in the link's thread, and may block; `connect` and `hello` at each attempt.

    `leaving` is called with each message before it leaves, in a thread of gRPC's.
    """

    def __init__(
        self,
        connect: Callable[[], grpc.Channel],
        hello: Callable[[], pb.Hello],
        tell: Callable[[Heard | Cut], None],
        draw: Callable[[], float] = random.random,
        leaving: Callable[[pb.FromNode], None] = lambda message: None,
    ) -> None:
        self._leaving = leaving
        self._connect, self._hello, self._tell, self._draw = connect, hello, tell, draw
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._channel: grpc.Channel | None = None
        self._bulk: BulkStub | None = None
        self._outgoing: _Outgoing | None = None
        self._state: pb.FromNode | None = None
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the session. The thread ends by itself."""
        self._stopping.set()
        with self._lock:
            channel, outgoing = self._channel, self._outgoing
        if outgoing is not None:
            outgoing.close()
        if channel is not None:
            channel.close()

    def exchange(self) -> BulkStub | None:
        """For transfers over the connection of now; None if there is none."""
        with self._lock:
            return self._bulk

    def membership(self) -> MembershipStub | None:
        """For proposals and signatures over the connection of now; None if there is none."""
        with self._lock:
            return None if self._channel is None else MembershipStub(self._channel)

    def transparency(self) -> TransparencyStub | None:
        with self._lock:
            return None if self._channel is None else TransparencyStub(self._channel)

    def say(self, message: pb.FromNode) -> bool:
        """Say this in the session of now; False if there is none."""
        with self._lock:
            if self._outgoing is not None:
                self._outgoing.put(message.WhichOneof("said") or "", message)
            return self._outgoing is not None

    def state(self, state: str, order: str, held: str = "") -> None:
        """Say this in the session of now, and at the beginning of each that follows."""
        message = pb.FromNode(state=pb.State(state=state, order=order, held=held[:MOST_SAID]))
        with self._lock:
            self._state = message
            if self._outgoing is not None:
                self._outgoing.drop("progress")  # it is of what was done before
                self._outgoing.put("state", message)

    def progress(self, order: str, what: str, done: int, total: int) -> None:
        said = pb.Progress(order=order, what=what, done=done, total=total)
        with self._lock:
            if self._outgoing is not None:
                self._outgoing.put("progress", pb.FromNode(progress=said))

    # --- its thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            heard, why = self._attend()
            failures = 1 if heard else failures + 1
            seconds = delay(failures, self._draw())
            if self._stopping.is_set():
                return
            self._tell(Cut(why, seconds))
            self._stopping.wait(seconds)

    def _attend(self) -> tuple[bool, str]:
        """One session: whether anything was heard in it, and why it ended."""
        heard = False
        try:
            channel, outgoing = self._connect(), _Outgoing(self._hello(), self._leaving)
        except (BarnraiseError, OSError) as error:
            return heard, str(error)
        try:
            call = SessionStub(channel).Attend(iter(outgoing))
            with self._lock:
                if self._stopping.is_set():
                    return heard, "the node is ending"
                self._channel, self._outgoing = channel, outgoing
                self._bulk = BulkStub(channel)
                if self._state is not None:
                    outgoing.put("state", self._state)
            for message in call:
                heard = True
                self._tell(Heard(message))
            return heard, "the coordinator ended the session"
        except grpc.RpcError as error:
            return heard, f"{error.code().name}: {error.details()}"
        except ValueError:
            return heard, "the node is ending"
        finally:
            with self._lock:
                self._channel = self._outgoing = self._bulk = None
            outgoing.close()
            channel.close()


class Teller:
    """Tells a transfer's progress, some times a second; of one that is over at once, nothing."""

    def __init__(self, link: Link, order: str, what: str) -> None:
        self._link, self._order, self._what, self._last = link, order, what, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= SAY_EVERY:
            self._last = now
            self._link.progress(self._order, self._what, done, total)
