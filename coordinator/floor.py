"""What goes on while a federation is served: who attends, the run that is conducted, the session port.

One `Floor` lives as long as the process does, which is for one run or for the time between two: after
either, `serve` executes itself anew. Any thread may call it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from barnraise.coordinator import events
from barnraise.coordinator.access import Calls, Guard
from barnraise.coordinator.campaigns import Conduct, Run, run_is_open
from barnraise.coordinator.federation import Federation
from barnraise.coordinator.lobby import Lobby, Seen
from barnraise.coordinator.membership import Membership
from barnraise.coordinator.ports import bind
from barnraise.coordinator.presence import ABSENT
from barnraise.coordinator.prover import Cosigned, Prover
from barnraise.coordinator.session import Running, SessionFleet, Settings
from barnraise.coordinator.transparency import Transparency
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.federation_pb2_grpc import (
    SessionServicer,
    add_MembershipServicer_to_server,
    add_SessionServicer_to_server,
    add_TransparencyServicer_to_server,
)
from barnraise.protocols.transfers import SERVER_OPTIONS
from barnraise.protocols.witnessing import quorum

THREADS = 256  # members that attend without a run, and their other calls, at a time
GRACE = 60.0  # seconds to wait for late members at the start, where the charter has no grace
WITNESSED = 3.0  # seconds in which nodes may cosign the log's end
LOOK = 1.0  # seconds between two looks at who has attended


class Floor:
    """`conduct` is the run of this process, None between runs."""

    threads = THREADS

    def __init__(self, federation: Federation, conduct: Conduct | None) -> None:
        self.federation, self.conduct = federation, conduct
        self._bell = threading.Condition()
        self._anew = False  # this and `_signatures` are under it
        self._signatures = 0
        self._fleet: SessionFleet | None = None  # set once, by the run's thread
        self._calls: Calls | None = None
        self._batch_open = False  # this and `sent_bytes` are written by the run's thread alone
        self.sent_bytes = 0  # what orders have carried since this process began
        self._here: Prover | None = None  # set once, when the port opens
        self._lobby = Lobby(federation.name)
        held = conduct.run.agreement if conduct is not None else ""
        self._membership = Membership(federation, self._signed, self._left, held)

    # --- the port ----------------------------------------------------------------------------------

    def session(self, run: SessionServicer) -> SessionServicer:
        """See `session.Front`."""
        self._lobby = Lobby(self.federation.name, run, self._admits)
        return self._lobby

    def register(self, server: grpc.Server) -> None:
        """See `session.Front`."""
        add_MembershipServicer_to_server(self._membership, server)

    def _prover(self, run: str, members: Mapping[str, str]) -> Prover:
        """What shows the log; its witnesses are these members."""
        keys = {name: bytes.fromhex(key) for name, key in members.items()}
        return Prover(self.federation.log, run, keys, self.federation.blobs.kept)

    def _admits(self, name: str, hello: pb.Hello) -> bool:
        run = self.run
        fits = run is not None and (run.agreement in hello.agreements or hello.run == run.run)
        return fits and self._fleet is not None and self._fleet.admits(name)

    @contextmanager
    def between_runs(self) -> Iterator[None]:
        """Inside, members attend at the session port, and no run is open. Raises N118."""
        said, self._calls = self.federation.description, Calls()
        members = self.federation.ledger.read().active()
        self._here = self._prover("", members) if members else None
        self._lobby = Lobby(self.federation.name, prover=self._here)
        threads = ThreadPoolExecutor(THREADS, "session")
        server = grpc.server(
            threads,
            interceptors=[Guard(self.federation.authority.member, self._calls)],
            options=SERVER_OPTIONS,
        )
        add_SessionServicer_to_server(self._lobby, server)
        self.register(server)
        if self._here is not None:
            add_TransparencyServicer_to_server(Transparency(self._here), server)
        credentials = self.federation.authority.server_credentials(said.hosts, require_client=True)
        bind(server, said.listens(said.session), credentials)
        server.start()
        try:
            yield
        finally:
            self._lobby.close()
            server.stop(1.0).wait()
            threads.shutdown(wait=False)

    @contextmanager
    def during_run(self, conduct: Conduct) -> Iterator[SessionFleet]:
        """Inside, the run's fleet; its members have attended, or have been waited for. Raises N118."""
        said, run = self.federation.description, conduct.run
        fleet = SessionFleet(
            self.federation.authority,
            Running(self.federation.name, run.run, run.run_id, conduct.app, run.agreement),
            conduct.members,
            self.federation.blobs,
            conduct.log.verdict_of,
            Settings(self.federation.root / "incoming", said.listens(said.session), said.hosts),
            conduct.watch,
            front=self,
            prover=self._prover(run.run, conduct.proposal.agreement.members),
        )
        self._fleet, why = fleet, "anew"
        fleet.serve()
        try:
            self._wait_for(fleet, conduct)
            yield fleet
            conduct.watch(fleet.have_cosigned(WITNESSED))
            why = "finished"
        finally:
            self._lobby.close()
            fleet.close(why, "the run has ended" if why == "finished" else "attend again")

    def _wait_for(self, fleet: SessionFleet, conduct: Conduct) -> None:
        """Until all have attended; once a quorum has, for the charter's grace at most. The operator may
        close this wait like a batch."""
        names = [member.name for member in conduct.members]
        grace = conduct.work.grace or GRACE
        enough: float | None = None
        while missing := fleet.wait_for(names, fleet.now() + LOOK):
            conduct.word.check()
            here = len(names) - len(missing)
            if conduct.work.quorum is not None and here >= conduct.work.quorum:
                enough = enough or fleet.now()
            late = enough is not None and fleet.now() - enough >= grace
            if late or (here and conduct.word.closes()):
                return

    # --- for the operator --------------------------------------------------------------------------

    def watch(self, event: events.Event) -> None:
        """A watcher of the run, to know whether a batch is open."""
        if isinstance(event, events.BatchSent):
            self._batch_open = not event.replayed
            self.sent_bytes += 0 if event.replayed else event.bytes
        elif isinstance(event, events.BatchClosed):
            self._batch_open = False

    @property
    def run(self) -> Run | None:
        return self.conduct.run if self.conduct is not None else None

    def seen(self) -> Mapping[str, Seen]:
        """What each member is doing: of those in the run, what the run sees."""
        found = self._lobby.seen()
        fleet = self._fleet
        if fleet is None or self.conduct is None:
            return found
        now = time.time() - fleet.now()
        for member in self.conduct.members:
            state = fleet.presence(member.name)
            if state.state != ABSENT and (known := found.get(member.name)) is not None:
                found[member.name] = Seen(
                    state.state,
                    state.detail,
                    now + state.since,
                    known.agreements,
                    known.version,
                    known.skew,
                )
        return found

    def notice(self, what: str) -> None:
        self._lobby.notice(what)

    def expel(self, name: str, why: str, text: str) -> None:
        if why == "revoked" and self.conduct is not None:
            self.conduct.word.exclude(name)
        self._lobby.dismiss(name, why, text)
        if self._fleet is not None:
            self._fleet.expel(name, why, text)
        elif self._calls is not None:
            self._calls.cut(name, spare="Attend")

    def cosigned(self, witnesses: Mapping[str, str], patience: float) -> Cosigned:
        """Have the log as it stands cosigned by these members (name → hex key), between runs. Waits for a
        quorum, `patience` seconds at most, and a moment for the others. Raises F111 during a run."""
        if self.conduct is not None:
            raise run_is_open(self.conduct.run.name)
        needed, log = quorum(len(witnesses)), self.federation.log
        if (prover := self._here) is None:
            return Cosigned(None, log.size(), (), needed)
        log.expect({name: bytes.fromhex(key) for name, key in witnesses.items()}, needed)
        size = prover.ask()
        self._lobby.ask()
        have = prover.gathered(size, set(witnesses), needed, patience)
        note = log.witnessed() if len(have) >= needed else None
        return Cosigned(note, size, tuple(sorted(have)), needed)

    def close_batch(self) -> bool:
        if self.conduct is None or self._fleet is None:
            return False
        self.conduct.word.close()
        self._fleet.stir()
        return True

    def abort(self) -> None:
        if self.conduct is not None:
            self.conduct.word.abort()
        if self._fleet is not None:
            self._fleet.stir()

    def _signed(self) -> None:
        with self._bell:
            self._signatures += 1
            self._bell.notify_all()

    def _left(self, name: str) -> None:
        self.expel(name, "left", "the member has left the federation")

    def wait_signed(self, seconds: float) -> None:
        with self._bell:
            before = self._signatures
            self._bell.wait_for(lambda: self._signatures != before or self._anew, seconds)

    # --- the process -------------------------------------------------------------------------------

    def end(self) -> None:
        """The process is about to end, or to begin anew: whoever waits for members here is let go."""
        if self._here is not None:
            self._here.end()

    def anew(self) -> None:
        with self._bell:
            self._anew = True
            self._bell.notify_all()

    def wait_anew(self, seconds: float) -> bool:
        """Whether the process is to begin anew, after at most so many seconds."""
        with self._bell:
            return self._bell.wait_for(lambda: self._anew, seconds)
