"""A real coordinator and real nodes over a bad network, in this process: only the worker is a stand-in.

The daemon's loop, link, transfers, desk and spool are the ones that institutions run, each node reaching the
coordinator by a `Line` of its own. What a worker's process would do is done in a thread (`Hand`), so that a
test starts at once, and may say when a member answers. The coordinator is `session_kit.House`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import session_kit
from flwr.app import Array, ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from network import Line, Network
from session_kit import FEDERATION, NAMES, RUN, SECRET, SOON, House

from barnraise.client.keys import Membership, NodeKeys
from barnraise.client.node import daemon, link
from barnraise.client.node import node as node_module
from barnraise.client.node.handlers import Files
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.node import Stop
from barnraise.client.node.room import when_there_is_room
from barnraise.client.node.spares import Spares
from barnraise.client.node.supervisor import Done, Progress, Said
from barnraise.coordinator import events, session
from barnraise.coordinator.conduct import conduct
from barnraise.coordinator.rounds import Policy
from barnraise.protocols import files, flower, pki
from barnraise.protocols.apps import app_digest, code_files
from barnraise.protocols.identity import simulated_key
from barnraise.protocols.randomness import derive

SOURCE = """
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    hold = Path(__file__).with_name(f"hold-{context.node_id}")
    if hold.exists():
        hold.read_bytes()
    received = message.content["arrays"]
    arrays = ArrayRecord({k: Array(a.numpy() * np.float32(0.5)) for k, a in received.items()})
    metrics = MetricRecord({"num-examples": 10, "loss": 1.0})
    return Message(RecordDict({"m": metrics, "arrays": arrays}), reply_to=message)
"""  # what `Hand` does, for workers that are processes; `hold-NODE` is a pipe, whose writer lets it go on
QUEUE = 6  # times as long a silent peer has to answer
KEEPALIVE = 1  # second of silence after which a peer is asked
Deed = Callable[[str, str], None]
"""What happens while a member works: (its name, the order's type)."""


class Hand:
    """Stands where the worker's process does: reads the order's files, writes the reply's."""

    deeds: Deed = staticmethod(lambda name, kind: None)

    def __init__(
        self, home: Path, memory: int | None, tell: Callable[[Any], None], *_: Any
    ) -> None:
        self._name, self._tell, self.life = home.name, tell, 0
        self.process = None

    def start(self, first: Mapping[str, Any]) -> None:
        self.life += 1
        stores = [Path(p) for p in first["stores"]]
        spares = Spares(Path(first["spares"]))
        self._files = Files(stores, Path(first["outgoing"]), spares)

    def send(self, message: Mapping[str, Any]) -> None:
        threading.Thread(target=self._work, args=(message,), daemon=True).start()

    def _work(self, message: Mapping[str, Any]) -> None:
        Hand.deeds(self._name, message["type"])

        def say(what: str, done: int, total: int) -> None:
            self._tell(Said(self.life, Progress(message["id"], what, done, total)))

        when_there_is_room(partial(self._answer, message), say)

    def _answer(self, message: Mapping[str, Any]) -> None:
        self._files.begin(message["envelopes"])
        received = self._files.records(message["content"]).array_records["arrays"]
        arrays = {k: Array(a.numpy() * np.float32(0.5)) for k, a in received.items()}
        metrics = MetricRecord({"num-examples": 10, "loss": 1.0})
        made: dict[str, Any] = {"m": metrics}
        if message["type"] == "train":
            made["arrays"] = ArrayRecord(arrays)
        content = self._files.put([flower.encode(RecordDict(made), self._files).encode()])
        self._tell(Said(self.life, Done(message["id"], content, None, None)))

    def stop(self) -> None:
        """It ends with its order."""


class Member:
    """One member's node: a directory, and the thread in which its daemon runs, if it runs."""

    def __init__(self, federation: Federation, name: str, line: Line) -> None:
        self.name, self.line, self.home = name, line, federation.root / "nodes" / name
        keys = NodeKeys.given(self.home, simulated_key(SECRET, name), derive(SECRET, name))
        csr = pki.make_csr(keys.tls_key, name)
        authority = federation.house.authority
        token = authority.invite(name, time.time() + 60)
        signature = pki.sign_csr(keys.identity, "enrol", csr)
        certificate = authority.enrol(token, name, keys.public_key, csr, signature)
        for file, der in (("tls.crt", certificate), ("ca.crt", authority.certificate_der)):
            (self.home / file).write_bytes(session_kit.pem(der))
        at = f"{line.host}:{line.port}"
        Membership(FEDERATION, name, at, at, authority.vkey).write(self.home)
        files.replace(self.home / "approved.json", federation.approval())
        self._thread: threading.Thread | None = None
        self.failed: list[BaseException] = []

    def start(self) -> Member:
        self._mail = Mailbox()
        name = f"node-{self.name}"
        self._thread = threading.Thread(
            target=self._run, args=(self._mail,), name=name, daemon=True
        )
        self._thread.start()
        return self

    def _run(self, mail: Mailbox) -> None:
        log = logging.getLogger(f"test.{self.name}")
        log.setLevel(logging.INFO)
        try:
            (self.home / "logs").mkdir(exist_ok=True)
            daemon._run(self.home, mail, log)
        except BaseException as error:
            self.failed.append(error)

    def stop(self) -> None:
        """As SIGTERM does; what is in its directory stays."""
        if self._thread is not None:
            self._mail.urge(Stop())
            self._thread.join(SOON)
            assert not self._thread.is_alive()
            self._thread = None


class Federation:
    """The House, a network, and a member for each name."""

    def __init__(self, root: Path, names: Sequence[str] = NAMES, **settings: Any) -> None:
        self.root, self.names = root, names
        (root / "code").mkdir(parents=True)
        (root / "code" / "client.py").write_text(SOURCE)
        self.house = House(root / "house", names, **settings)
        self._put_on_record()
        self.network = Network()
        self.members = {
            name: Member(self, name, self.network.line(self.house.port)) for name in names
        }
        self._seen = threading.Condition()

    def _put_on_record(self) -> None:
        """No node works in a run of which the log says nothing."""
        keys = [[name, session_kit.member(name).public_key.hex()] for name in sorted(self.names)]
        app = {"name": "app", "digest": session_kit.APP}
        body = {"federation": FEDERATION, "app": app, "members": keys}
        self.house.log.write(("run.opened", body))

    def approval(self) -> bytes:
        code = self.root / "code"
        return json.dumps(
            {
                "federation": FEDERATION,
                "run": RUN,
                "run_id": int(RUN, 16),
                "app": app_digest(code_files(code)),
                "code": str(code),
                "client": "client:app",
                "node_config": {},
                "run_config": {},
            }
        ).encode()

    def start(self) -> Federation:
        for member in self.members.values():
            member.start()
        missing = self.house.fleet.wait_for(self.names, self.house.fleet.now() + SOON)
        assert missing == [], [m.failed for m in self.members.values()]
        return self

    def run(self, policy: Policy | None = None, *, rounds: int = 1, size: int = 1000) -> str:
        """Conduct a run in this thread; the final model's digest."""
        grid = self.house.grid(policy)
        assert grid._live is not None
        grid._watch = grid._live._watch = self.house.fleet.watch
        return conduct(server_app(rounds, size, 1), grid, {}, SECRET, resumable=True).model

    def watch(self, hook: Callable[[events.Event], None]) -> None:
        """`hook` sees every event, in the thread that conducts the run."""

        def both(event: events.Event) -> None:
            self.house.events.append(event)
            hook(event)

        self.house.fleet.watch = both

    def closed(self, kind: str = "train") -> list[events.BatchClosed]:
        found = [e for e in self.house.events if isinstance(e, events.BatchClosed)]
        return [e for e in found if e.type == kind]

    def answers(self, name: str) -> list[events.Answered]:
        found = [e for e in self.house.events if isinstance(e, events.Answered)]
        return [e for e in found if e.member == name]

    def on_record(self, kind: str) -> list[dict[str, Any]]:
        """The bodies of the journal's entries of this type."""
        return [entry.body for _, entry in self.house.log.read() if entry.type == kind]

    def close(self) -> None:
        for member in self.members.values():
            self.network.heal(member.line)
            member.line.rate, member.line.latency, member.line.loss = None, 0.0, 0
        self.house.close()
        for member in self.members.values():
            member.stop()
        self.network.close()


def server_app(rounds: int, size: int, least: int) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        rule = FedAvg(
            fraction_evaluate=0.0,
            min_train_nodes=1,
            min_evaluate_nodes=0,
            min_available_nodes=least,
        )
        rule.start(grid, session_kit.arrays(1.0, size=size), num_rounds=rounds)

    return app


@contextmanager
def federation(
    root: Path, patch: pytest.MonkeyPatch, names: Sequence[str] = NAMES, **settings: Any
) -> Iterator[Federation]:
    """A federation whose peers notice a silent one within `KEEPALIVE` seconds and `QUEUE` times that."""
    keep = 1000 * KEEPALIVE
    quick = {
        "grpc.keepalive_time_ms": keep,
        "grpc.keepalive_timeout_ms": QUEUE * keep,
        "grpc.http2.ping_timeout_ms": QUEUE * keep,
    }
    for module, name in ((session, "SERVER_OPTIONS"), (link, "OPTIONS")):
        kept = [option for option in getattr(module, name) if option[0] not in quick]
        patch.setattr(module, name, [*kept, *quick.items()])
    patch.setattr(node_module, "Worker", Hand)
    patch.setattr(Hand, "deeds", staticmethod(lambda name, kind: None))
    code = root / "digest"
    code.mkdir(parents=True)
    (code / "client.py").write_text(SOURCE)
    patch.setattr(session_kit, "APP", app_digest(code_files(code)))
    made = Federation(root / "federation", names, **settings)
    try:
        yield made
    finally:
        made.close()
