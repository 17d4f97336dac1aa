"""The Session service: one stream for each node that is there. Orders and receipts are pushed on it.

Each stream has two threads: gRPC's, which takes what the member's desk has for it and waits on the wire
as long as the node does not read; and a reader, which notes what the node says of itself. Neither holds
anything that another member or the Grid waits for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import grpc

from barnraise.coordinator import refusals
from barnraise.coordinator.desk import Asked, Desk, Dismissed, Message, Recalled, Sent, Told
from barnraise.coordinator.exchange import Office
from barnraise.coordinator.presence import ABSENT, OBJECTS, Presence, shown
from barnraise.coordinator.prover import Prover, View
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.federation_pb2_grpc import SessionServicer

SKEW = 60.0  # seconds between a node's clock and ours that are worth a word


@dataclass(frozen=True)
class Running:
    """The run that is conducted: what a node is told of it, the digest of its app, and that of the
    agreement under which it was opened ("" if under none)."""

    federation: str
    run: str
    run_id: int
    app: str
    agreement: str = ""


class Attendance(SessionServicer):
    """Owns its readers, under `_lock`; whatever else it touches has an owner of its own."""

    def __init__(
        self,
        running: Running,
        office: Office,
        attended: Callable[[str], None],
        wall: Callable[[], float] = time.time,
        prover: Prover | None = None,
    ) -> None:
        self._running, self._office = running, office
        self._attended, self._wall, self._prover = attended, wall, prover
        self._lock = threading.Lock()
        self._readers: set[threading.Thread] = set()

    def Attend(
        self, request_iterator: Iterator[pb.FromNode], context: grpc.ServicerContext
    ) -> Iterator[pb.ToNode]:
        name, desk = self._office.desk()
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("said") != "hello":
            raise refusals.nonsense("a session begins with Hello")
        other = self._another_run(first.hello)
        serial = desk.begin(willing=not other)
        over = partial(self._over, name, desk, serial)
        try:
            if not context.add_callback(over):
                return
            self._note(name, first.hello, other)
            self._start_reader(name, desk, serial, request_iterator)
            view = self._prover.view(first.hello.log_size) if self._prover is not None else None
            yield self._welcome(name, view)
            yield from self._tell(desk, serial, view)
        finally:
            over()

    def _another_run(self, hello: pb.Hello) -> str:
        """What this site has approved instead of this run; empty if it is this one."""
        if self._running.agreement and self._running.agreement in hello.agreements:
            return ""
        if hello.run != self._running.run:
            return f"it approved another run ({shown(hello.run) or 'none'})"
        if hello.app != self._running.app:
            return f"it approved another app ({shown(hello.app)[:19] or 'none'})"
        return ""

    def _note(self, name: str, hello: pb.Hello, other: str) -> None:
        ahead = hello.clock - self._wall()
        skew = f"its clock is {ahead:+.0f} s off" if abs(ahead) > SKEW else ""
        self._office.presence.state(name, "refusing" if other else "idle", other or skew)
        if not other:
            self._attended(name)

    def _welcome(self, name: str, view: View | None) -> pb.ToNode:
        run = self._running
        return pb.ToNode(
            welcome=pb.Welcome(
                federation=run.federation,
                run=run.run,
                run_id=str(run.run_id),
                member=name,
                clock=self._wall(),
                evidence=view.opened() if view is not None else None,
                agreement=run.agreement,
            )
        )

    def _tell(self, desk: Desk, serial: int, view: View | None) -> Iterator[pb.ToNode]:
        while messages := desk.next(serial):
            for message in messages:
                yield self._wire(message, view)
                if isinstance(message, Dismissed):
                    _end(message)

    def _wire(self, message: Message, view: View | None) -> pb.ToNode:
        match message:
            case Told():
                evidence = view.receipt(message.id) if view is not None else None
                return pb.ToNode(receipt=pb.Receipt(statement=message.statement, evidence=evidence))
            case Asked():
                return pb.ToNode(evidence=view.last() if view is not None else None)
            case Recalled():
                return pb.ToNode(withdrawn=pb.Withdrawn(order=message.id))
            case Dismissed():
                return pb.ToNode(dismissal=pb.Dismissal(why=message.why, text=message.text))
            case Sent():
                return pb.ToNode(order=self._order(message, view))

    def _order(self, sent: Sent, view: View | None) -> pb.Order:
        order = sent.order
        return pb.Order(
            run=self._running.run,
            id=order.id,
            batch=order.batch,
            round=order.round,
            type=order.type,
            group=order.group,
            content=order.content,
            ttl=order.ttl,
            created=order.created,
            size=sent.size,
            envelope=sent.parts[0].data or b"",
            evidence=view.order(order.batch) if view is not None else None,
        )

    def _over(self, name: str, desk: Desk, serial: int) -> None:
        """The session has ended, however; a newer one of the same member is not touched."""
        if desk.end(serial):
            self._office.presence.state(name, ABSENT)

    # --- what the node says --------------------------------------------------------------------------

    def _start_reader(
        self, name: str, desk: Desk, serial: int, said: Iterator[pb.FromNode]
    ) -> None:
        reader = threading.Thread(
            target=self._read, args=(name, desk, serial, said), name=f"attend-{name}", daemon=True
        )
        reader.start()
        with self._lock:
            self._readers = {reader, *(r for r in self._readers if r.is_alive())}

    def _read(self, name: str, desk: Desk, serial: int, said: Iterator[pb.FromNode]) -> None:
        """Until the node ends its side, or the connection goes."""
        try:
            for message in said:
                if desk.live != serial:
                    break
                self._hear(name, desk, serial, message)
        except grpc.RpcError:
            pass
        finally:
            self._over(name, desk, serial)

    def _hear(self, name: str, desk: Desk, serial: int, message: pb.FromNode) -> None:
        match message.WhichOneof("said"):
            case "cosignature" if self._prover is not None:
                said = message.cosignature
                self._prover.cosigned(name, said.size, said.line)
            case "objection":
                text = shown(f"{message.objection.code}: {message.objection.text}")
                if desk.end(serial):
                    self._office.presence.state(name, OBJECTS, text)
            case _:
                _heard(self._office.presence, name, message)

    def join(self) -> None:
        """Wait for the readers; their streams have ended."""
        with self._lock:
            readers = list(self._readers)
        for reader in readers:
            reader.join()


def _heard(presence: Presence, name: str, message: pb.FromNode) -> None:
    """Shown, and nothing else: no decision hangs on what a node says of itself."""
    match message.WhichOneof("said"):
        case "state":
            held = shown(message.state.held)
            presence.state(name, "held" if held else shown(message.state.state) or "idle", held)
        case "progress":
            said = message.progress
            presence.progress(name, shown(said.what), said.done, said.total)


def _end(last: Dismissed) -> None:
    if last.why == "displaced":
        raise refusals.displaced()
    if last.why in ("revoked", "left"):
        raise refusals.revoked()
