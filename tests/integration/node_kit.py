"""A coordinator that does what a test scripts, over real mTLS, and real node processes to attend it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from log_kit import KitLog

from barnraise.client.keys import Membership, NodeKeys
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import notes, pki, statements
from barnraise.protocols.apps import app_digest, code_files
from barnraise.protocols.canonical import digest
from barnraise.protocols.content import ArrayEntry, Arrays, Envelope, Values
from barnraise.protocols.federation_pb2_grpc import (
    ExchangeServicer,
    SessionServicer,
    add_ExchangeServicer_to_server,
    add_SessionServicer_to_server,
)
from barnraise.protocols.identity import order_id, simulated_key
from barnraise.protocols.tensors import encode
from barnraise.protocols.transfers import CHUNK, SERVER_OPTIONS

PATIENCE = 60.0
FEDERATION, RUN, RUN_ID, MEMBER = "barn", "a1b2c3d4e5f60718", 0xA1B2C3D4E5F60718, "basel"
IDENTITY = simulated_key(b"k" * 32, MEMBER)
SECRET = b"s" * 32
_PEM = serialization.Encoding.PEM


@dataclass
class Delivered:
    """A reply as it came: the offer, and the bytes of each part that was sent."""

    order: str
    content: str
    statement: dict[str, Any]
    parts: dict[str, bytes]

    @property
    def envelope(self) -> Envelope:
        return Envelope.decode(self.parts[self.content])

    @property
    def all(self) -> tuple[str, dict[str, Any], dict[str, bytes]]:
        return self.content, self.statement, self.parts


class Coordinator(SessionServicer, ExchangeServicer):
    """`changed` guards everything; a test waits for what it wants to see with `until`.

    The scripts: `cut_fetch` and `cut_delivery` end the first transfer that has moved so many bytes;
    `refuse` is what a delivery is refused with; `tamper` changes a message before it goes out.
    """

    def __init__(self) -> None:
        now = time.time()
        self.key, self.ca = pki.new_authority(FEDERATION, now)
        self.log_key = Ed25519PrivateKey.generate()
        self.log = KitLog(f"{FEDERATION}/log", self.log_key)
        self.members = {MEMBER: IDENTITY.public_key().public_bytes_raw().hex()}
        self.opened: int | None = None
        self.app = digest(b"the app")
        self.tamper: Callable[[pb.ToNode, int], None] = lambda message, seen: None
        self.blobs: dict[str, bytes] = {}
        self.sessions: list[dict[str, Any]] = []
        self.said: list[pb.FromNode] = []
        self.open: dict[str, pb.Order] = {}
        self.sent: dict[str, pb.Order] = {}
        self.receipts: list[pb.Receipt] = []
        self.deliveries: list[Delivered] = []
        self.fetches: list[tuple[str, int]] = []
        self.wants: list[tuple[str, int]] = []
        self.half: dict[str, bytearray] = {}
        self.cut_fetch: int | None = None
        self.cut_delivery: int | None = None
        self.refuse: tuple[grpc.StatusCode, str] | None = None
        self.welcome: dict[str, Any] = {}
        self.ahead = 0.0
        self.changed = threading.Condition()
        self._server: grpc.Server | None = None
        self.port = 0
        self._tls = pki.new_tls_key()
        self._certificate = pki.server_certificate(self.key, self.ca, self._tls, ["127.0.0.1"], now)

    # --- its port -------------------------------------------------------------------------------

    def serve(self) -> None:
        server = grpc.server(ThreadPoolExecutor(16), options=SERVER_OPTIONS)
        add_SessionServicer_to_server(self, server)
        add_ExchangeServicer_to_server(self, server)
        self.add_services(server)
        key = self._tls.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        credentials = grpc.ssl_server_credentials(
            [(key, self._certificate.public_bytes(_PEM))], self.ca.public_bytes(_PEM), True
        )
        self.port = server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        server.start()
        self._server = server

    def add_services(self, server: grpc.Server) -> None:
        """What a kit on top of this one serves beside."""

    def welcomed(self, hello: pb.Hello) -> dict[str, Any]:
        """What such a kit welcomes a session with instead."""
        return {}

    def stop(self) -> None:
        """Every connection breaks."""
        assert self._server is not None
        with self.changed:
            for session in self.sessions:
                session["live"] = False
            self.changed.notify_all()
        self._server.stop(None).wait()

    def until(self, wanted: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        with self.changed:
            assert self.changed.wait_for(wanted, seconds), "it did not happen in time"
            return wanted()

    # --- what a test does -----------------------------------------------------------------------

    def order(
        self,
        value: float = 1.0,
        *,
        kind: str = "train",
        config: Mapping[str, Any] | None = None,
        size: int = 4,
        run: str = RUN,
    ) -> str:
        """Push an order with an array of `size` float32s and a config; its id."""
        import numpy as np

        array = np.full(size, value, np.float32)
        blob = b"".join(bytes(piece) for piece in encode({"w": array}))
        values = Values("config", tuple((config or {"n": 0}).items()))
        arrays = Arrays(digest(blob), (ArrayEntry("w"),))
        envelope = Envelope((("arrays", arrays), ("config", values))).encode()
        with self.changed:
            self.blobs |= {digest(blob): blob, digest(envelope): envelope}
            batch = len(self.sent) + 1
            index = self.log.append("batch.sent", sent_body(run, batch, kind, digest(envelope)))
        return self.push(
            pb.Order(
                run=run,
                id=order_id(run, batch, MEMBER, kind, "", digest(envelope), 0),
                batch=batch,
                round=1,
                type=kind,
                content=digest(envelope),
                ttl=3600.0,
                created=1e9,
                size=len(blob) + len(envelope),
                evidence=self.log.entry_of(index),
            )
        )

    def push(self, order: pb.Order) -> str:
        with self.changed:
            self.open[order.id] = self.sent[order.id] = order
            self._tell(pb.ToNode(order=order))
        return order.id

    def receipt(self, order: str, key: Ed25519PrivateKey | None = None, name: str = "") -> None:
        """Push a receipt for `order`, also to later sessions; or one by `key`, or as `name`, once."""
        evidence = self.verdict(order)
        entry = digest(evidence.entry)
        payload = {"order": order, "verdict": "accepted", "reason": "", "entry": entry}
        signed = statements.sign(
            key or self.log_key, name or f"{FEDERATION}/log", "receipt", payload
        )
        statement = json.dumps(signed).encode()
        with self.changed:
            if key is None and not name:
                self.open.pop(order, None)
                self.receipts.append(pb.Receipt(statement=statement, evidence=evidence))
        self.push_receipt(statement, evidence)

    def verdict(self, order: str, **changed: Any) -> pb.Evidence:
        """Put the acceptance of the last delivery of this order on record."""
        with self.changed:
            replies = [d for d in self.deliveries if d.order == order]
            body = {
                "run": RUN,
                "batch": self.sent[order].batch if order in self.sent else 0,
                "order": order,
                "member": MEMBER,
                "content": replies[-1].content if replies else digest(b""),
                "bytes": 1,
                "statement": replies[-1].statement if replies else None,
                **changed,
            }
            return self.log.entry_of(self.log.append("reply.accepted", body))

    def push_receipt(self, statement: bytes, evidence: pb.Evidence | None = None) -> None:
        with self.changed:
            self._tell(pb.ToNode(receipt=pb.Receipt(statement=statement, evidence=evidence)))

    def dismiss(self, why: str) -> None:
        with self.changed:
            self._tell(pb.ToNode(dismissal=pb.Dismissal(why=why, text="so it was decided")))

    def cut_session(self) -> None:
        with self.changed:
            for session in self.sessions:
                session["live"] = False
            self.changed.notify_all()

    def _tell(self, message: pb.ToNode) -> None:
        for session in self.sessions:
            if session["live"]:
                session["queue"].append(message)
        self.changed.notify_all()

    def delivered(self, order: str, times: int = 1) -> Delivered:
        """Wait until the reply has been delivered (so often); the last."""
        found = self.until(
            lambda: (
                (f := [d for d in self.deliveries if d.order == order]) and len(f) >= times and f
            )
        )
        return found[-1]  # type: ignore[no-any-return]

    def attended(self, times: int = 1) -> None:
        self.until(lambda: len(self.sessions) >= times)

    def states(self) -> list[str]:
        with self.changed:
            return [m.state.state for m in self.said if m.HasField("state")]

    def state(self, wanted: str) -> None:
        self.until(lambda: any(s.startswith(wanted) for s in self.states()))

    # --- Session --------------------------------------------------------------------------------

    def Attend(
        self, request_iterator: Iterator[pb.FromNode], context: grpc.ServicerContext
    ) -> Iterator[pb.ToNode]:
        hello = next(request_iterator).hello
        session: dict[str, Any] = {"hello": hello, "queue": [], "live": True}
        session["seen"] = hello.log_size
        context.add_callback(lambda: self._ended(session))
        welcome = {
            "federation": FEDERATION,
            "run": RUN,
            "run_id": str(RUN_ID),
            "member": MEMBER,
            "clock": time.time() + self.ahead,
            **self.welcome,
            **self.welcomed(hello),
        }
        with self.changed:
            session["queue"] += [pb.ToNode(welcome=pb.Welcome(**welcome, evidence=self.opening()))]
            session["queue"] += [pb.ToNode(order=order) for order in self.open.values()]
            session["queue"] += [pb.ToNode(receipt=told) for told in self.receipts]
            self.sessions.append(session)
            self.changed.notify_all()
        threading.Thread(target=self._read, args=(request_iterator,), daemon=True).start()
        while True:
            with self.changed:
                self.changed.wait_for(lambda: session["queue"] or not session["live"])
                if not session["live"]:
                    return
                message = session["queue"].pop(0)
            yield self.proved(message, session)

    def opening(self) -> pb.Evidence:
        """The entry that opens the run, put on record when the first node asks."""
        if self.opened is None:
            app = {"name": "tiny", "digest": self.app}
            members = [[name, key] for name, key in sorted(self.members.items())]
            body = {"run": RUN, "federation": FEDERATION, "app": app, "members": members}
            self.opened = self.log.append("run.opened", body)
        return self.log.entry_of(self.opened)

    def proved(self, message: pb.ToNode, session: dict[str, Any]) -> pb.ToNode:
        """The message with the proofs that this session needs, and tampered with."""
        out = pb.ToNode()
        out.CopyFrom(message)
        with self.changed:
            evidence = evidence_of(out)
            if evidence is not None and not evidence.checkpoint:
                self.log.prove(evidence, session["seen"])
            self.tamper(out, session["seen"])
            if evidence is not None:
                session["seen"] = self.log.size
        return out

    def _ended(self, session: dict[str, Any]) -> None:
        with self.changed:
            session["live"] = False
            self.changed.notify_all()

    def _read(self, said: Iterator[pb.FromNode]) -> None:
        try:
            for message in said:
                with self.changed:
                    self.said.append(message)
                    self.changed.notify_all()
                if message.HasField("objection"):
                    self.cut_session()
        except grpc.RpcError:
            return

    # --- Exchange -------------------------------------------------------------------------------

    def Fetch(self, request: pb.FetchRequest, context: grpc.ServicerContext) -> Iterator[pb.Chunk]:
        with self.changed:
            self.fetches.append((request.digest, request.offset))
            self.changed.notify_all()
        data = self.blobs.get(request.digest)
        if data is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "N209: no open order names this content")
        assert data is not None
        for at in range(request.offset, len(data), CHUNK):
            if self.cut_fetch is not None and at - request.offset >= self.cut_fetch:
                self.cut_fetch = None
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            yield pb.Chunk(data=data[at : at + CHUNK])

    def Deliver(
        self, request_iterator: Iterator[pb.FromMember], context: grpc.ServicerContext
    ) -> Iterator[pb.ToMember]:
        offer = next(request_iterator).offer
        if self.refuse is not None:
            code, text = self.refuse
            self._refused()
            context.abort(code, text)
        held = {part.digest: self.half.setdefault(part.digest, bytearray()) for part in offer.parts}
        missing = [p for p in offer.parts if len(held[p.digest]) < p.size]
        with self.changed:
            self.wants += [(p.digest, len(held[p.digest])) for p in missing]
        wanted = [pb.Want(digest=p.digest, offset=len(held[p.digest])) for p in missing]
        yield pb.ToMember(wanted=pb.Wanted(parts=wanted))
        moved = 0
        while any(len(held[p.digest]) < p.size for p in offer.parts):
            piece = next(request_iterator).piece
            assert piece.offset == len(held[piece.digest])
            assert len(piece.data) <= CHUNK
            held[piece.digest] += piece.data
            moved += len(piece.data)
            if self.cut_delivery is not None and moved >= self.cut_delivery:
                self.cut_delivery = None
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        for name, data in held.items():
            assert "sha256:" + hashlib.sha256(data).hexdigest() == name
        statement = json.loads(offer.statement)
        with self.changed:
            parts = {name: bytes(data) for name, data in held.items()}
            self.deliveries.append(Delivered(offer.order, offer.content, statement, parts))
            self.changed.notify_all()
        yield pb.ToMember(taken=pb.Taken())

    def _refused(self) -> None:
        with self.changed:
            self.refuse = None
            self.changed.notify_all()

    def membership(self) -> Membership:
        vkey = notes.verifier_key(f"{FEDERATION}/log", self.log_key.public_key().public_bytes_raw())
        at = f"127.0.0.1:{self.port}"
        return Membership(FEDERATION, MEMBER, at, at, vkey)


def sent_body(
    run: str, batch: int, kind: str, content: str, members: Sequence[str] = (MEMBER,)
) -> dict[str, Any]:
    """`batch.sent` of one order to each of these."""
    group = {"type": kind, "group": "", "content": content, "ttl": 3600, "members": list(members)}
    return {"run": run, "batch": batch, "kind": "send", "timeout": None, "orders": [group]}


def evidence_of(message: pb.ToNode) -> pb.Evidence | None:
    """What the message shows of the log, to be changed in place."""
    said = message.WhichOneof("said")
    if said == "evidence":
        return message.evidence
    part = getattr(message, said or "dismissal")
    if said in ("welcome", "order", "receipt") and part.HasField("evidence"):
        return part.evidence  # type: ignore[no-any-return]
    return None


# --- nodes ------------------------------------------------------------------------------------------

CLIENT = """
import os, signal, socket, subprocess, sys, time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from barnraise.protocols.flower import load_carry, save_carry

app = ClientApp()

def note(context, text):
    with open(context.node_config["notes"], "a") as file:
        file.write(text + "\\n")

def deed(message, context):
    pass

@app.train()
def train(message, context):
    note(context, "train " + message.metadata.message_id)
    said = deed(message, context)
    count = context.state["count"]["n"] if "count" in context.state else 0
    context.state["count"] = ConfigRecord({"n": count + 1})
    carry = load_carry(context)
    moved = carry["moved"]["n"] if "moved" in carry else 0
    save_carry(context, RecordDict({"moved": ConfigRecord({"n": moved + 10})}))
    arrays = {k: a.numpy() + np.float32(np.random.random()) for k, a in message.content["arrays"].items()}
    records = {"arrays": ArrayRecord({k: Array(a) for k, a in arrays.items()})}
    records["metrics"] = MetricRecord({"num-examples": 3, "count": count, "moved": moved})
    if said is not None:
        records["said"] = ConfigRecord(said)
    return Message(RecordDict(records), reply_to=message)
"""


@dataclass
class Site:
    """A node's directory, enrolled and with an approved app, and the node processes that ran in it."""

    home: Path
    coordinator: Coordinator
    notes: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def approve(self, deed: str = "pass", **more: Any) -> None:
        """Approve the app whose training begins with `deed`."""
        code = self.home.parent / "app"
        (code / "tiny").mkdir(parents=True, exist_ok=True)
        (code / "tiny" / "__init__.py").touch()
        indented = "\n".join(f"    {line}" for line in deed.splitlines())
        (code / "tiny" / "client.py").write_text(CLIENT.replace("    pass\n", indented + "\n"))
        self.approve_again(**more)

    def approve_again(self, **more: Any) -> None:
        """Approve the code that lies there."""
        code = self.home.parent / "app"
        self.coordinator.app = app_digest(code_files(code))
        self.write_approval(
            {
                "federation": FEDERATION,
                "run": RUN,
                "run_id": RUN_ID,
                "app": app_digest(code_files(code)),
                "code": str(code),
                "client": "tiny.client:app",
                "node_config": {"notes": str(self.notes)},
                "run_config": {},
                **more,
            }
        )

    def write_approval(self, document: Mapping[str, Any]) -> None:
        (self.home / "approved.json").write_text(json.dumps(document))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "barnraise.client.node", str(self.home), *arguments]
        kept = {k: v for k, v in os.environ.items() if k != "BARNRAISE_NODE_KILL_AT"}
        process = subprocess.Popen(
            command,
            env={**kept, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def start_under_a_parent(self) -> subprocess.Popen[bytes]:
        """Start a process that starts the node, and will be gone before it; the process."""
        code = (
            "import os, subprocess, sys, time\n"
            "command = [sys.executable, '-P', '-m', 'barnraise.client.node', sys.argv[1],"
            " '--parent', str(os.getpid())]\n"
            "subprocess.Popen(command).wait()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(self.home)], stderr=subprocess.PIPE
        )
        self.processes.append(process)
        return process

    def trained(self) -> list[str]:
        """The orders over which a handler began, once for each time."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line.removeprefix("train ") for line in lines if line.startswith("train ")]

    @property
    def log(self) -> str:
        return (self.home / "logs" / "node.log").read_text()

    @property
    def worker_log(self) -> str:
        return (self.home / "logs" / "worker.log").read_text(errors="replace")

    def kept(self) -> dict[str, Any]:
        return json.loads((self.home / "spool" / "current.json").read_text())  # type: ignore[no-any-return]

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def enrolled(home: Path, coordinator: Coordinator) -> None:
    """A node's directory as enrolment leaves it; its keys, and so its replies, are always the same."""
    keys = NodeKeys.given(home, IDENTITY, SECRET)
    csr = pki.make_csr(keys.tls_key, MEMBER)
    der = pki.issue(coordinator.key, coordinator.ca, csr, MEMBER, keys.public_key, time.time())
    pem = pki.x509.load_der_x509_certificate(der).public_bytes(_PEM)
    (home / "ca.crt").write_bytes(coordinator.ca.public_bytes(_PEM))
    (home / "tls.crt").write_bytes(pem)
    coordinator.membership().write(home)


@contextmanager
def node_site(place: Path, coordinator: Coordinator) -> Iterator[Site]:
    """An enrolled node's directory, whose processes have ended afterwards."""
    enrolled(place / "node", coordinator)
    site = Site(place / "node", coordinator, place / "notes")
    site.approve()
    try:
        yield site
    finally:
        site.end()


def ended(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Send the signal and wait for the end; the exit status."""
    process.send_signal(number)
    return process.wait(PATIENCE)


def in_directory(home: Path) -> dict[int, str]:
    """Every living process of this machine whose command line or open files name this directory."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(home) in command and (folder / "stat").read_text().rpartition(")")[2][1] != "Z":
                found[int(folder.name)] = command
        except OSError:
            continue
    return found


@contextmanager
def polled(seconds: float = PATIENCE) -> Iterator[Callable[[], bool]]:
    """For what only a look can tell: true until the time is over, each look after a short wait."""
    deadline, pause = time.monotonic() + seconds, threading.Event()

    def go_on() -> bool:
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.02)
        return True

    yield go_on


def wait_until(wanted: Callable[[], Any], seconds: float = PATIENCE) -> None:
    with polled(seconds) as go_on:
        while not wanted():
            go_on()
