"""The Session service of a federation that is served: members attend whether a run is open or not.

A member that works for the open run is handed to the run's own `Attendance`. Everybody else attends here:
welcomed without a run, told when there is something to ask for, seen by the operator with its state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import grpc

from barnraise.coordinator import refusals
from barnraise.coordinator.access import caller
from barnraise.coordinator.desk import Asked
from barnraise.coordinator.presence import ABSENT, OBJECTS, shown
from barnraise.coordinator.prover import Prover, View
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.federation_pb2_grpc import SessionServicer

CHECK = 30.0  # seconds after which a silent stream is looked at


@dataclass(frozen=True)
class Seen:
    """What a member is doing, as far as it says. `since` and `clock` are seconds since 1970; `agreements`
    are those under which its site would work."""

    state: str
    detail: str
    since: float
    agreements: frozenset[str] = frozenset()
    version: str = ""
    skew: float = 0.0


NEVER = Seen(ABSENT, "", 0.0)
_ENDED = "ended"


class _Guest:
    """One session. Its outbox is under the lobby's condition."""

    def __init__(self) -> None:
        self.outbox: list[pb.ToNode | Asked] = []
        self.over = ""


class Lobby(SessionServicer):
    """All state is under `_bell`. `run` is the Session service of the run that is open, `admits` says
    whether it wants this member with this Hello."""

    def __init__(
        self,
        federation: str,
        run: SessionServicer | None = None,
        admits: Callable[[str, pb.Hello], bool] = lambda name, hello: False,
        wall: Callable[[], float] = time.time,
        prover: Prover | None = None,
    ) -> None:
        """`prover` shows members the log, and takes their cosignatures; None while a run does that."""
        self._federation, self._run, self._admits, self._wall = federation, run, admits, wall
        self._prover = prover
        self._bell = threading.Condition()
        self._guests: dict[str, _Guest] = {}
        self._seen: dict[str, Seen] = {}
        self._asking = False

    # --- for the operator ------------------------------------------------------------------------

    def seen(self) -> dict[str, Seen]:
        """What each member that ever attended here is doing."""
        with self._bell:
            return dict(self._seen)

    def notice(self, what: str) -> None:
        """Tell everybody here that there is something to ask for."""
        with self._bell:
            for guest in self._guests.values():
                guest.outbox.append(pb.ToNode(notice=pb.Notice(what=what)))
            self._bell.notify_all()

    def ask(self) -> None:
        """Ask everybody here, and who comes later, to cosign what the prover has fixed."""
        with self._bell:
            self._asking = True
            for guest in self._guests.values():
                guest.outbox.append(Asked())
            self._bell.notify_all()

    def dismiss(self, name: str, why: str, text: str) -> None:
        """End this member's session, if it has one here."""
        self._dismiss([name], why, text)

    def close(self) -> None:
        """End every session here: the coordinator is about to begin anew, and nodes come back by
        themselves. Nothing is said, for nothing is over."""
        with self._bell:
            for guest in self._guests.values():
                guest.over = guest.over or _ENDED
            self._bell.notify_all()

    def _dismiss(self, names: list[str], why: str, text: str) -> None:
        with self._bell:
            for guest in [self._guests[n] for n in names if n in self._guests]:
                guest.outbox.append(pb.ToNode(dismissal=pb.Dismissal(why=why, text=text)))
                guest.over = guest.over or why
            self._bell.notify_all()

    # --- the service -----------------------------------------------------------------------------

    def Attend(
        self, request_iterator: Iterator[pb.FromNode], context: grpc.ServicerContext
    ) -> Iterator[pb.ToNode]:
        name = caller().name
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("said") != "hello":
            raise refusals.nonsense("a session begins with Hello")
        self._note_hello(name, first.hello)
        if self._run is not None and self._admits(name, first.hello):
            yield from self._run.Attend(chain([first], request_iterator), context)
            return
        guest = self._enter(name)
        try:
            if context.add_callback(lambda: self._leave(name, guest)):
                self._start_reader(name, guest, request_iterator)
                prover = self._prover
                view = prover.view(first.hello.log_size) if prover is not None else None
                yield self._welcome(name, view)
                yield from self._tell(guest, view)
        finally:
            self._leave(name, guest)

    def _welcome(self, name: str, view: View | None) -> pb.ToNode:
        evidence = view.opened() if view is not None else None
        return pb.ToNode(
            welcome=pb.Welcome(
                federation=self._federation, member=name, clock=self._wall(), evidence=evidence
            )
        )

    def _tell(self, guest: _Guest, view: View | None) -> Iterator[pb.ToNode]:
        while True:
            with self._bell:
                self._bell.wait_for(lambda: guest.outbox or guest.over, CHECK)
                messages, guest.outbox, over = guest.outbox, [], guest.over
            for message in messages:
                if not isinstance(message, Asked):
                    yield message
                elif view is not None:
                    yield pb.ToNode(evidence=view.last())
            if over == "displaced":
                raise refusals.displaced()
            if over in ("revoked", "left"):
                raise refusals.revoked()
            if over:
                return

    def _enter(self, name: str) -> _Guest:
        """The member's newest session; the one before is displaced."""
        guest = _Guest()
        with self._bell:
            if (before := self._guests.get(name)) is not None:
                before.over = before.over or "displaced"
            self._guests[name] = guest
            if self._asking:
                guest.outbox.append(Asked())
            self._bell.notify_all()
        return guest

    def _leave(self, name: str, guest: _Guest) -> None:
        with self._bell:
            guest.over = guest.over or _ENDED
            if self._guests.get(name) is guest:
                del self._guests[name]
                self._note(name, ABSENT, "")
            self._bell.notify_all()

    # --- what the node says ------------------------------------------------------------------------

    def _note_hello(self, name: str, hello: pb.Hello) -> None:
        now = self._wall()
        agreements = frozenset(list(hello.agreements)[:64])
        with self._bell:
            known = self._seen.get(name)
            since = known.since if known is not None and known.state != ABSENT else now
            skew = hello.clock - now
            self._seen[name] = Seen("idle", "", since, agreements, shown(hello.version), skew)

    def _note(self, name: str, state: str, detail: str) -> None:
        """Under `_bell`."""
        known = self._seen.get(name, NEVER)
        since = known.since if known.state == state else self._wall()
        self._seen[name] = Seen(state, detail, since, known.agreements, known.version, known.skew)

    def _start_reader(self, name: str, guest: _Guest, said: Iterator[pb.FromNode]) -> None:
        threading.Thread(
            target=self._read, args=(name, guest, said), name=f"lobby-{name}", daemon=True
        ).start()

    def _read(self, name: str, guest: _Guest, said: Iterator[pb.FromNode]) -> None:
        try:
            for message in said:
                if guest.over:
                    return
                self._heard(name, message)
        except grpc.RpcError:
            pass
        finally:
            self._leave(name, guest)

    def _heard(self, name: str, message: pb.FromNode) -> None:
        match message.WhichOneof("said"):
            case "state":
                held = shown(message.state.held)
                state = "held" if held else shown(message.state.state) or "idle"
                with self._bell:
                    self._note(name, state, held)
            case "cosignature" if self._prover is not None:
                self._prover.cosigned(name, message.cosignature.size, message.cosignature.line)
            case "objection":
                said = message.objection
                with self._bell:
                    self._note(name, OBJECTS, shown(f"{said.code}: {said.text}"))
