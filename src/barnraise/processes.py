"""Members as nodes of their own: each a daemon and a worker, over mutual TLS on this machine.

    D/federation/     the authority: keys, certificates, who is admitted
    D/nodes/<member>/ what a member's site would hold: keys, approval, spool, logs
    D/incoming/       replies on their way in

Keys and secrets follow from the simulation's seed, as they do in process, so both end in the same model.
Here the coordinator's side and the institution's meet only as files and command lines.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from barnraise.client.keys import NodeKeys
from barnraise.client.node import misconduct
from barnraise.client.node.approval import FILE as APPROVED
from barnraise.client.node.daemon import INVITE
from barnraise.coordinator.authority import Authority
from barnraise.coordinator.enrolment import serve_enrolment
from barnraise.coordinator.founding import simulated_log_key
from barnraise.coordinator.local import LocalMember
from barnraise.coordinator.log import Log
from barnraise.coordinator.plans import Plan
from barnraise.coordinator.prover import Prover
from barnraise.coordinator.session import Running, SessionFleet, Settings
from barnraise.coordinator.simulate import FEDERATION, Setting
from barnraise.protocols import files
from barnraise.protocols.apps import app_digest
from barnraise.protocols.errors import BarnraiseError

HOST = "127.0.0.1"
OUT = "daemon.out"  # what a daemon says before it has a log
INVITED_FOR = 3600.0  # seconds that an invite is good for; it is used at once
RESTARTS = 5  # deaths of a daemon in a row after which it counts as unable to start
SLOWEST = 10.0  # seconds at most until a daemon is started again
LIVED = 30.0  # seconds after which a daemon counts as having lived
FAREWELL = 10.0  # seconds in which nodes may end by themselves
WITNESSED = 3.0  # seconds in which nodes may cosign the log's end
LOOK = 1.0  # seconds between two looks for nodes that cannot start


@dataclass(frozen=True)
class Processes:
    """A maker of fleets (`simulate.Fleets`). `port`: of the session port, 0 for any free one."""

    port: int = 0

    def check(self, plan: Plan, app: Path) -> None:
        """Nothing: each node finds out by itself."""

    @contextmanager
    def open(self, setting: Setting) -> Iterator[SessionFleet]:
        """Serve, enrol and start every member, and wait until all have attended. Raises N118, N308."""
        with ExitStack() as stack:
            authority = _authority(setting)
            stack.callback(authority.close)
            log = stack.enter_context(
                closing(Log(setting.place.journal.path, authority.log_key, FEDERATION))
            )
            fleet = _fleet(setting, authority, f"{HOST}:{self.port}", log)
            session = f"{HOST}:{fleet.serve()}"
            stack.callback(fleet.close)
            enrolment = f"{HOST}:{_enrolment(stack, authority)}"
            homes = {m.member.name: _furnish(setting, m) for m in setting.members}
            for name, home in homes.items():
                invite = authority.invitation(name, time.time() + INVITED_FOR, session, enrolment)
                files.replace(home / INVITE, str(invite).encode())
            nodes = stack.enter_context(_started(homes, fleet.restarting, fleet.fail))
            _wait_for(fleet, nodes)
            yield fleet
            setting.watch(fleet.have_cosigned(WITNESSED))


def _authority(setting: Setting) -> Authority:
    """The federation's authority, whose log is that of the simulation."""
    home = setting.place.root / "federation"
    home.mkdir(exist_ok=True, mode=0o700)
    key = simulated_log_key(setting.plan.secret).private_bytes_raw()
    files.keep(home / "log.key", base64.b64encode(key) + b"\n")
    return Authority.open(home, FEDERATION)


def _fleet(setting: Setting, authority: Authority, address: str, log: Log) -> SessionFleet:
    plan, place = setting.plan, setting.place
    keys = {m.member.name: m.member.public_key for m in setting.members}
    incoming = place.root / "incoming"
    incoming.mkdir(exist_ok=True)
    return SessionFleet(
        authority,
        Running(FEDERATION, plan.run, setting.run_id, app_digest(plan.code)),
        sorted(m.member for m in setting.members),
        place.blobs,
        setting.log.verdict_of,
        Settings(incoming, address, durable=place.durable),
        setting.watch,
        Prover(log, plan.run, keys, place.blobs.kept),
    )


def _enrolment(stack: ExitStack, authority: Authority) -> int:
    server, port = serve_enrolment(authority, f"{HOST}:0")
    stack.callback(_stop, server)
    return port


def _stop(server: grpc.Server) -> None:
    server.stop(0).wait()


def _furnish(setting: Setting, member: LocalMember) -> Path:
    """A member's directory: its keys, and its approval of the run, which starting the simulation is."""
    plan, place = setting.plan, setting.place
    home = place.root / "nodes" / member.member.name
    NodeKeys.given(home, member.key, member.secret)
    approval = {
        "federation": FEDERATION,
        "run": plan.run,
        "run_id": setting.run_id,
        "app": app_digest(plan.code),
        "code": str((plan.home or place.app).absolute()),
        "client": plan.component,
        "node_config": dict(member.config),
        "run_config": dict(plan.config),
        "members": {m.member.name: m.member.public_key.hex() for m in setting.members},
    }
    files.replace(home / APPROVED, json.dumps(approval, indent=1).encode())
    return home


# --- processes -------------------------------------------------------------------------------------


class NodeProcess:
    """One member's daemon, started again when it dies, ever more slowly; `told` hears why.

    It is started, watched and restarted by one thread, which lives as long as the daemon may: a daemon
    ends with the thread that started it.
    """

    def __init__(
        self,
        member: str,
        home: Path,
        told: Callable[[str, str], None],
        caught: Callable[[BarnraiseError], None],
    ) -> None:
        self.member, self.home, self._told, self._caught = member, home, told, caught
        self.deaths = 0  # in a row; written by the thread alone
        self._ending = threading.Event()
        self._lock = threading.Lock()  # _process
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name=f"node {member}", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._ending.is_set():
            started = time.monotonic()
            with self._lock:
                self._process = _start(self.home)
            code = self._process.wait()
            if self._ending.is_set():
                return
            if (why := self._evidence()) is not None:
                self._caught(why)
                return
            self.deaths = 1 if time.monotonic() - started > LIVED else self.deaths + 1
            words = self.last_words().splitlines()
            self._told(self.member, f"its daemon ended with {code}: {words[-1] if words else ''}")
            self._ending.wait(min(SLOWEST, 0.1 * 2**self.deaths))

    def _evidence(self) -> BarnraiseError | None:
        """What the node has caught its coordinator at: it is not started over that."""
        try:
            misconduct.check(self.home)
        except BarnraiseError as why:
            return why
        return None

    def end(self) -> None:
        """Ask the daemon to end."""
        self._ending.set()
        self._signal(signal.SIGTERM)

    def gone(self, until: float) -> None:
        """Return when the daemon is gone; after `until` it is killed."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._signal(signal.SIGKILL)
            self._thread.join()

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self._process is not None:
                self._process.send_signal(number)

    def last_words(self) -> str:
        """The end of what the node said last, in its log or before it had one."""
        said = [p for p in (self.home / "logs" / "node.log", self.home / OUT) if p.is_file()]
        if not said:
            return "it has no log"
        text = max(said, key=lambda p: p.stat().st_mtime_ns).read_text(errors="replace")
        return "\n".join(text.splitlines()[-8:])


def _start(home: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "barnraise.client.node",
        str(home),
        "--parent",
        str(os.getpid()),
    ]
    with (home / OUT).open("ab") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )


@contextmanager
def _started(
    homes: dict[str, Path],
    told: Callable[[str, str], None],
    caught: Callable[[BarnraiseError], None],
) -> Iterator[list[NodeProcess]]:
    """Every member's node; none of them is left afterwards."""
    nodes: list[NodeProcess] = []
    try:
        for member, home in homes.items():
            nodes.append(NodeProcess(member, home, told, caught))
        yield nodes
    finally:
        for node in nodes:
            node.end()
        until = time.monotonic() + FAREWELL
        for node in nodes:
            node.gone(until)


def _wait_for(fleet: SessionFleet, nodes: list[NodeProcess]) -> None:
    """Until every node has attended; N308 with its last words if one cannot start."""
    names = [node.member for node in nodes]
    while fleet.wait_for(names, fleet.now() + LOOK):
        for node in nodes:
            if node.deaths > RESTARTS:
                raise BarnraiseError(
                    "N308",
                    f"the node of {node.member} does not start",
                    node.last_words(),
                    changed="no order was sent",
                    next=f"look into {node.home}",
                )
