"""A coordinator with real TLS on a loopback port, and nodes that do what a test writes down.

Nothing here sleeps: whatever is waited for comes through a queue or an event, with a deadline.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cryptography.hazmat.primitives import serialization
from flwr.app import ArrayRecord, MetricRecord, RecordDict

from barnraise.coordinator import events
from barnraise.coordinator.authority import Authority
from barnraise.coordinator.blobs import RunBlobs
from barnraise.coordinator.fleet import Delivery, Fleet, Order, Receipt
from barnraise.coordinator.grid import DurableGrid, Terms
from barnraise.coordinator.journal import Journal
from barnraise.coordinator.log import Log
from barnraise.coordinator.prover import Prover
from barnraise.coordinator.rounds import Policy
from barnraise.coordinator.runlog import RunLog
from barnraise.coordinator.session import Running, SessionFleet, Settings
from barnraise.protocols import canonical, flower, pki, statements
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.federation_pb2_grpc import ExchangeStub, SessionStub
from barnraise.protocols.identity import Member, order_id, simulated_key
from barnraise.protocols.transfers import CHANNEL_OPTIONS, CHUNK

FEDERATION, RUN, SECRET = "test", "00000000000000aa", b"kit"
APP = canonical.digest(b"the app")
NAMES = ("ada", "bob", "cyd")
QUICK = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
]
SOON = 20.0  # seconds: a deadline that nothing should ever need


def member(name: str) -> Member:
    return Member(name, simulated_key(SECRET, name).public_key().public_bytes_raw())


def nobody_judged(order: str, name: str) -> Receipt | None:
    return None


class House:
    """A run directory with its fleet; `restart` is what a killed coordinator and a new one are to it."""

    def __init__(self, root: Path, names: Sequence[str] = NAMES, **settings: Any) -> None:
        self.root, self.names, self.settings = root, names, settings
        root.mkdir(exist_ok=True)
        self.authority = Authority.open(root / "federation", FEDERATION)
        self.nodes: list[Node] = []
        self._certificates: dict[str, grpc.ChannelCredentials] = {}
        self.port = 0
        self.open()

    def open(self) -> None:
        self.events: list[events.Event] = []
        self.journal = Journal(
            self.root / "journal.db", durable=False, failpoint=lambda moment, index: None
        )
        self.blobs = RunBlobs(self.root / "blobs", durable=False)
        self.log = RunLog(RUN, self.journal, self.blobs, lambda: "2026-01-01T00:00:00Z")
        given = {"address": f"127.0.0.1:{self.port}", "durable": False, **self.settings}
        self.fleet = SessionFleet(
            self.authority,
            Running(FEDERATION, RUN, int(RUN, 16), APP),
            [member(name) for name in self.names],
            self.blobs,
            self.log.verdict_of,
            Settings(self.root / "incoming", **given),
            self.events.append,
            self.prover(),
        )
        self.port = self.fleet.serve()

    def prover(self) -> Prover:
        self.reader = Log(self.root / "journal.db", self.authority.log_key, FEDERATION)
        keys = {name: member(name).public_key for name in self.names}
        return Prover(self.reader, RUN, keys, self.blobs.kept)

    def restart(self) -> None:
        """The same directory and port, another process as far as anybody can tell."""
        self.fleet.close("closing", "the coordinator comes again")
        self.reader.close()
        self.journal.close()
        self.blobs.close()
        self.open()

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self.fleet.close()
        self.reader.close()
        self.journal.close()
        self.blobs.close()
        self.authority.close()

    def grid(self, policy: Policy | None = None, fleet: Fleet | None = None) -> DurableGrid:
        flower.become_server(int(RUN, 16))
        cap = self.settings.get("size_cap")
        terms = Terms(FEDERATION, RUN, int(RUN, 16), policy or Policy(), cap)
        members = [member(name) for name in self.names]
        fleet = fleet or self.fleet
        return DurableGrid(terms, self.log, self.blobs, fleet, members, self.events.append)

    # --- members -----------------------------------------------------------------------------------

    def credentials(self, name: str) -> grpc.ChannelCredentials:
        """The member's, enrolled when they are first asked for."""
        if name not in self._certificates:
            self._certificates[name] = enrolled(self.authority, name)
        return self._certificates[name]

    def node(self, name: str, credentials: grpc.ChannelCredentials | None = None) -> Node:
        node = Node(name, self.port, credentials or self.credentials(name))
        self.nodes.append(node)
        return node

    # --- orders, for tests that need no grid ---------------------------------------------------------

    def content(self, *values: float, size: int = 4) -> str:
        """A content of arrays, durable in the store."""
        records = RecordDict({"arrays": arrays(*values, size=size)})
        digest = self.blobs.put_envelope(flower.encode(records, self.blobs).encode())
        self.blobs.sync()
        return digest

    def order(self, name: str, batch: int = 1, content: str = "", run: str = RUN) -> Order:
        content = content or self.content(1.0)
        id_ = order_id(run, batch, name, "train", "", content, 0)
        return Order(id_, batch, member(name), "train", "", content, 60.0, 0.0, batch)

    def arrivals(self, seconds: float = SOON) -> list[Delivery]:
        return list(self.fleet.arrivals(self.fleet.now() + seconds))

    def accept(self, deliveries: Iterable[Delivery]) -> list[Receipt]:
        """Put these on record as accepted, as the Grid would, and acknowledge them."""
        from barnraise.coordinator.runlog import verdict_fact

        receipts = []
        for d in deliveries:
            (entry,) = self.log.write(verdict_fact(d, 1, "accepted", "", ""))
            receipts.append(Receipt(d.order, "accepted", "", entry))
        self.fleet.acknowledge(receipts)
        return receipts

    def until(self, true: Callable[[], bool]) -> None:
        """Let the fleet run, as the Grid does, until this is so."""
        end = time.monotonic() + SOON
        while not true():
            assert time.monotonic() < end, "it never happened"
            assert not self.fleet.arrivals(self.fleet.now() + 0.05)


def arrays(*values: float, size: int = 4) -> ArrayRecord:
    return ArrayRecord([np.full(size, value, np.float32) for value in values])


def enrolled(authority: Authority, name: str) -> grpc.ChannelCredentials:
    """Credentials as `name`'s node would have them after its enrolment."""
    return grpc.ssl_channel_credentials(pem(authority.certificate_der), *pair(authority, name))


def pair(authority: Authority, name: str) -> tuple[bytes, bytes]:
    """An enrolled member's TLS key and certificate, in PEM."""
    identity, tls = simulated_key(SECRET, name), pki.new_tls_key()
    csr = pki.make_csr(tls, name)
    token = authority.invite(name, time.time() + 60)
    certificate = authority.enrol(
        token,
        name,
        identity.public_key().public_bytes_raw(),
        csr,
        pki.sign_csr(identity, "enrol", csr),
    )
    return private(tls), pem(certificate)


def private(tls: pki.TlsKey) -> bytes:
    return tls.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def channel_credentials(root: bytes, tls: Any, certificate: bytes) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(pem(root), private(tls), pem(certificate))


def pem(der: bytes) -> bytes:
    from cryptography import x509

    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


# --- nodes -------------------------------------------------------------------------------------------


class Reply:
    """A content as a member would deliver it: its parts' bytes by digest, the envelope first."""

    def __init__(self, parts: dict[str, bytes]) -> None:
        self.parts = parts
        self.content = next(iter(parts))

    @classmethod
    def of(cls, records: RecordDict, folder: Path) -> Reply:
        from barnraise.protocols.blobs import BlobStore

        store = BlobStore(folder, durable=False)
        envelope = flower.encode(records, store)
        data = envelope.encode()
        blobs = {blob: store.read(blob) for blob in envelope.blobs()}
        return cls({canonical.digest(data): data, **blobs})

    @classmethod
    def good(cls, folder: Path, value: float = 2.0, size: int = 4) -> Reply:
        metrics = MetricRecord({"num-examples": 10})
        return cls.of(RecordDict({"arrays": arrays(value, size=size), "m": metrics}), folder)

    def offered(self) -> list[pb.Part]:
        return [pb.Part(digest=d, size=len(data)) for d, data in self.parts.items()]

    def pieces(self, wanted: Iterable[pb.Want], chunk: int = CHUNK) -> Iterator[pb.Piece]:
        for want in wanted:
            data = self.parts[want.digest]
            for at in range(want.offset, len(data), chunk):
                yield pb.Piece(digest=want.digest, offset=at, data=data[at : at + chunk])


class Node:
    """One connection of one member. `raw` streams are the test's to write."""

    def __init__(self, name: str, port: int, credentials: grpc.ChannelCredentials) -> None:
        self.name = name
        self.channel = grpc.secure_channel(
            f"127.0.0.1:{port}",
            credentials,
            options=[*CHANNEL_OPTIONS, *QUICK],
        )
        self.exchange = ExchangeStub(self.channel)

    def attend(
        self,
        *,
        run: str = RUN,
        app: str = APP,
        clock: float | None = None,
        patient: bool = False,
        log_size: int = 0,
    ) -> Session:
        """`patient`: a coordinator that is not there yet is waited for."""
        clock = time.time() if clock is None else clock
        hello = pb.Hello(run=run, app=app, version="0", clock=clock, log_size=log_size)
        return Session(self.channel, hello, patient=patient)

    def fetch(self, digest: str, offset: int = 0) -> bytes:
        request = pb.FetchRequest(digest=digest, offset=offset)
        return b"".join(c.data for c in self.exchange.Fetch(request, timeout=SOON))

    def statement(self, order: str, content: str, signer: str = "", **stated: str) -> bytes:
        who = signer or self.name
        payload = statements.reply_payload(FEDERATION, RUN, order, content, statements.NO_POLICY)
        signed = statements.sign(simulated_key(SECRET, who), who, "reply", {**payload, **stated})
        return json.dumps(signed).encode()

    def offer(self, order: str, reply: Reply, **signed: str) -> pb.Offer:
        statement = self.statement(order, reply.content, **signed)
        return pb.Offer(
            order=order, content=reply.content, statement=statement, parts=reply.offered()
        )

    def deliver(self, order: str, reply: Reply, chunk: int = CHUNK, **signed: str) -> list[pb.Want]:
        """The whole delivery; returns what was wanted."""
        with Delivering(self, self.offer(order, reply, **signed)) as delivering:
            for piece in reply.pieces(delivering.wanted, chunk):
                delivering.send(piece)
            delivering.taken()
        return delivering.wanted

    def close(self) -> None:
        self.channel.close()


class Feed:
    """An iterator of requests that a test fills."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, message: Any) -> None:
        self._queue.put(message)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        while (message := self._queue.get()) is not None:
            yield message


class Delivering:
    """A Deliver call under way: `wanted` has come."""

    def __init__(self, node: Node, offer: pb.Offer) -> None:
        self._feed = Feed()
        self._feed.put(pb.FromMember(offer=offer))
        self.call = node.exchange.Deliver(iter(self._feed), timeout=SOON)

    def __enter__(self) -> Delivering:
        try:
            self.wanted = list(next(self.call).wanted.parts)
        except BaseException:
            self._feed.end()
            raise
        return self

    def send(self, piece: pb.Piece) -> None:
        self._feed.put(pb.FromMember(piece=piece))

    def taken(self) -> None:
        """Wait until the coordinator has it all."""
        assert next(self.call).WhichOneof("said") == "taken"
        assert next(self.call, None) is None

    def refused(self) -> grpc.RpcError:
        """Wait until the coordinator refuses."""
        try:
            next(self.call)
        except grpc.RpcError as error:
            return error
        raise AssertionError("it was not refused")

    def __exit__(self, *_: object) -> None:
        self._feed.end()
        self.call.cancel()


class Session:
    """An Attend stream whose messages are read as they come."""

    def __init__(
        self, channel: grpc.Channel, *first: Any, read: bool = True, patient: bool = False
    ) -> None:
        self._feed = Feed()
        for hello in first:
            self.say(hello)
        self.call = SessionStub(channel).Attend(iter(self._feed), wait_for_ready=patient)
        self.heard: queue.Queue[pb.ToNode | grpc.RpcError | None] = queue.Queue()
        if read:
            threading.Thread(target=self._read, name="test-node", daemon=True).start()

    def _read(self) -> None:
        try:
            for message in self.call:
                self.heard.put(message)
            self.heard.put(None)
        except grpc.RpcError as error:
            self.heard.put(error)

    def say(self, message: Any) -> None:
        kind = type(message).__name__.lower()
        self._feed.put(pb.FromNode(**{kind: message}))

    def next(self, seconds: float = SOON) -> Any:
        """The next message's content; the RpcError or None with which the stream ended."""
        message = self.heard.get(timeout=seconds)
        return (
            getattr(message, message.WhichOneof("said"))
            if isinstance(message, pb.ToNode)
            else message
        )

    def welcomed(self) -> Session:
        assert isinstance(self.next(), pb.Welcome)
        return self

    def orders(self, count: int) -> list[pb.Order]:
        found = [self.next() for _ in range(count)]
        assert all(isinstance(message, pb.Order) for message in found), found
        return found

    def receipt(self, authority: Authority) -> dict[str, Any]:
        """The next message, a receipt that the log key has signed."""
        message = self.next()
        assert isinstance(message, pb.Receipt), message
        key = authority.log_key.public_key().public_bytes_raw()
        return statements.verify(key, "test/log", "receipt", json.loads(message.statement))

    def end(self) -> grpc.RpcError | None:
        """What the stream ends with, once what is still in it has been read."""
        while isinstance(message := self.heard.get(timeout=SOON), pb.ToNode):
            pass
        return message

    def leave(self) -> None:
        self._feed.end()

    def cut(self) -> None:
        self.call.cancel()
        self._feed.end()


def status(error: Any) -> tuple[str, str]:
    """(gRPC status, our code) of a call that failed."""
    assert isinstance(error, grpc.RpcError), error
    return error.code().name, error.details()[:4]


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    try:
        call()
    except grpc.RpcError as error:
        return status(error)
    raise AssertionError("it was answered")


# --- what lies where ----------------------------------------------------------------------------------


LARGE = 700_000  # float32: a blob of 2.8 MB, three pieces


def incoming(house: House, name: str = "ada") -> dict[str, int]:
    """The files on their way in from a member, with their sizes."""
    folder = house.root / "incoming" / name
    found = folder.iterdir() if folder.exists() else ()
    return {f"sha256:{file.name}": file.stat().st_size for file in found}


def stored(house: House) -> set[str]:
    return set(house.blobs.all())
