"""Whole runs of the DurableGrid over real sessions, with nodes that a test has written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from session_kit import FEDERATION, NAMES, RUN, SECRET, SOON, House, Node, Reply, arrays, member

from barnraise.coordinator import events
from barnraise.coordinator.conduct import conduct
from barnraise.coordinator.local import Local, LocalFleet, LocalMember
from barnraise.coordinator.members import MemberStore
from barnraise.coordinator.rounds import Policy
from barnraise.protocols import canonical, flower, statements
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import Envelope

ROUNDS = 3
Answer = Callable[["Worker", pb.Order, RecordDict], RecordDict | None]


def trained(name: str, received: ArrayRecord) -> RecordDict:
    """The handler: a NumPy function of what it got and of who runs it."""
    shift = np.float32(NAMES.index(name))
    new = {k: Array(a.numpy() * np.float32(0.5) + shift) for k, a in received.items()}
    metrics = MetricRecord({"num-examples": 10 + NAMES.index(name), "loss": 1.0})
    return RecordDict({"arrays": ArrayRecord(new), "metrics": metrics})


def evaluated(name: str, received: ArrayRecord) -> RecordDict:
    loss = float(sum(np.abs(a.numpy()).sum() for a in received.values()))
    return RecordDict({"metrics": MetricRecord({"num-examples": 5, "loss": loss})})


def answer(name: str, kind: str, content: RecordDict) -> RecordDict:
    received = content.array_records["arrays"]
    return trained(name, received) if kind == "train" else evaluated(name, received)


def server_app(rounds: int = ROUNDS, least: int = len(NAMES)) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        rule = FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=least)
        rule.start(grid, arrays(1.0, 2.0, size=1000), num_rounds=rounds)

    return app


class Worker(threading.Thread):
    """A node's whole life in one thread: attend, fetch, answer, deliver; again after a cut."""

    def __init__(self, house: House, name: str, reply: Answer | None = None) -> None:
        super().__init__(name=f"worker-{name}", daemon=True)
        self.house, self.member, self.reply = house, name, reply
        self.store = BlobStore(house.root / f"node-{name}", durable=False)
        self.spool: dict[str, Reply] = {}
        self.handled: list[str] = []
        self.receipts: list[dict[str, Any]] = []
        self.failures: list[BaseException] = []
        self.node: Node = house.node(name)
        self.stopping = False

    def run(self) -> None:
        while not self.stopping:
            session = self.node.attend(patient=True)
            while isinstance(message := session.heard.get(), pb.ToNode):
                try:
                    self._hear(message)
                except grpc.RpcError:
                    break
                except Exception as error:
                    self.failures.append(error)
                    return
            session.cut()

    def _hear(self, message: pb.ToNode) -> None:
        match message.WhichOneof("said"):
            case "dismissal":
                self.stopping = message.dismissal.why in ("finished", "revoked")
            case "order":
                self._answer(message.order)
            case "receipt":
                key = self.house.authority.log_key.public_key().public_bytes_raw()
                envelope = canonical.parse(message.receipt.statement)
                receipt = statements.verify(key, f"{FEDERATION}/log", "receipt", envelope)
                self.receipts.append(receipt)

    def _answer(self, order: pb.Order) -> None:
        if order.id not in self.spool:
            envelope = Envelope.decode(self.node.fetch(order.content))
            for blob in envelope.blobs():
                assert self.store.put([self.node.fetch(blob)]) == blob
            content = flower.decode(envelope, self.store)
            made = (self.reply or honest)(self, order, content)
            if made is None:
                return
            self.handled.append(order.id)
            self.spool[order.id] = Reply.of(made, self.store.root / "out")
        self.node.deliver(order.id, self.spool[order.id])


def honest(worker: Worker, order: pb.Order, content: RecordDict) -> RecordDict | None:
    return answer(worker.member, order.type, content)


@pytest.fixture
def workers(house: House) -> Iterator[Callable[..., dict[str, Worker]]]:
    """Starts a worker for each member; `odd` gives some of them other answers."""
    started: list[Worker] = []

    def start(**odd: Answer) -> dict[str, Worker]:
        made = {name: Worker(house, name, odd.get(name)) for name in NAMES}
        for worker in made.values():
            worker.start()
        started.extend(made.values())
        return made

    yield start
    for worker in started:
        worker.stopping = True
    house.fleet.close()
    for worker in started:
        worker.node.close()
        worker.join(20)
        assert not worker.is_alive() and worker.failures == []


def conducted(house: House, policy: Policy | None = None, rounds: int = ROUNDS) -> str:
    """The digest of the final model."""
    assert house.fleet.wait_for(NAMES, house.fleet.now() + SOON) == []
    return conduct(server_app(rounds), house.grid(policy), {}, SECRET, resumable=True).model


def client_app() -> ClientApp:
    app = ClientApp()

    def handler(message: Message, context: Context) -> Message:
        name = str(context.node_config["name"])
        reply = answer(name, message.metadata.message_type, message.content)
        return Message(reply, reply_to=message)

    app.train()(handler)
    app.evaluate()(handler)
    return app


def locally(house: House) -> str:
    """The same run in this process."""
    root = house.root.parent / "local"
    other = House(root)
    members = [LocalMember.simulated(SECRET, name, {"name": name}) for name in NAMES]
    assert [m.member for m in members] == [member(name) for name in NAMES]
    fleet = LocalFleet(
        client_app(),
        members,
        Local(FEDERATION, RUN, int(RUN, 16), {}),
        other.blobs,
        MemberStore(root / "members", durable=False),
    )
    other.fleet.close()
    grid = other.grid(fleet=fleet)
    try:
        return conduct(server_app(), grid, {}, SECRET, resumable=True).model
    finally:
        fleet.close()
        other.close()


Workers = Callable[..., dict[str, Worker]]


def test_a_run_over_sessions_ends_in_the_model_of_the_run_in_this_process(
    house: House, workers: Workers
) -> None:
    made = workers()
    assert conducted(house) == locally(house)
    for worker in made.values():
        assert len(worker.handled) == 2 * ROUNDS
    assert not [e for e in house.events if isinstance(e, events.BatchClosed) and e.refused]


class Killed(BaseException):
    """What a killed coordinator's thread sees."""


@pytest.mark.parametrize("appends", [2, 3, 5, 8, 13])
def test_a_killed_coordinator_goes_on_and_no_node_trains_twice(
    house: House, workers: Workers, appends: int
) -> None:
    """Killed before its n-th append; the nodes stay, and hold what has no receipt yet."""
    made = workers()
    count = [0]

    def failpoint(moment: str, index: int) -> None:
        count[0] += moment == "before"
        if count[0] == appends:
            raise Killed

    house.journal._failpoint = failpoint
    with pytest.raises(Killed):
        conducted(house)
    house.restart()
    assert conducted(house) == locally(house)
    for worker in made.values():
        assert len(worker.handled) == len(set(worker.handled)) == 2 * ROUNDS


def test_a_cut_connection_costs_no_training(house: House, workers: Workers) -> None:
    cut: list[str] = []

    def cutting(worker: Worker, order: pb.Order, content: RecordDict) -> RecordDict | None:
        if order.round == 2 and order.type == "train" and not cut:
            cut.append(order.id)
            house.fleet.calls.cut("bob")
        return honest(worker, order, content)

    made = workers(bob=cutting)
    assert conducted(house) == locally(house)
    assert len(made["bob"].handled) == len(set(made["bob"].handled)) == 2 * ROUNDS


def test_anothers_statement_is_refused_by_name_and_hurts_nobody(
    house: House, workers: Workers
) -> None:
    def posing(worker: Worker, order: pb.Order, content: RecordDict) -> RecordDict | None:
        reply = Reply.of(answer("ada", order.type, content), worker.store.root / "posed")
        worker.node.deliver(order.id, reply, signer="cyd")
        return None

    made = workers(bob=posing)
    conducted(house, rounds=1)
    closed = [e for e in house.events if isinstance(e, events.BatchClosed)]
    assert [e.accepted for e in closed] == [("ada", "cyd")] * 2
    assert all(list(e.refused) == ["bob"] and "M103" in e.refused["bob"] for e in closed)
    house.fleet.close()
    made["bob"].join(20)
    assert [r["verdict"] for r in made["bob"].receipts] == ["refused"] * 2


def test_a_reply_replayed_from_another_order_is_refused(house: House, workers: Workers) -> None:
    """The bytes and the statement of round 1, handed in for round 2."""
    kept: list[tuple[Reply, bytes]] = []

    def replaying(worker: Worker, order: pb.Order, content: RecordDict) -> RecordDict | None:
        if order.type != "train" or not kept:
            made = honest(worker, order, content)
            assert made is not None
            if order.type == "train":
                reply = Reply.of(made, worker.store.root / "kept")
                kept.append((reply, worker.node.statement(order.id, reply.content)))
            return made
        reply, statement = kept[0]
        offer = worker.node.offer(order.id, reply)
        offer.statement = statement
        said = [pb.FromMember(offer=offer)]
        stream = worker.node.exchange.Deliver(pieces(said, reply))
        list(stream)
        return None

    workers(bob=replaying)
    conducted(house, rounds=2)
    train = [e for e in house.events if isinstance(e, events.BatchClosed) and e.type == "train"]
    assert [list(e.refused) for e in train] == [[], ["bob"]]
    assert "M103" in train[1].refused["bob"] and "another order" in train[1].refused["bob"]


def pieces(said: list[pb.FromMember], reply: Reply) -> Iterator[pb.FromMember]:
    yield from said
    for digest, data in reply.parts.items():
        yield pb.FromMember(piece=pb.Piece(digest=digest, offset=0, data=data))


def test_an_oversize_reply_is_refused_by_name_and_the_round_goes_on(
    tmp_path: Path,
) -> None:
    house = House(tmp_path / "capped", size_cap=20_000)
    started = []
    try:

        def large(worker: Worker, order: pb.Order, content: RecordDict) -> RecordDict | None:
            if order.type != "train":
                return honest(worker, order, content)
            return RecordDict({"arrays": arrays(1.0, size=100_000)})

        for name in NAMES:
            started.append(Worker(house, name, large if name == "bob" else None))
            started[-1].start()
        conducted(house, rounds=1)
        closed = [e for e in house.events if isinstance(e, events.BatchClosed)]
        assert "M102" in closed[0].refused["bob"] and closed[0].accepted == ("ada", "cyd")
        assert closed[1].accepted == tuple(NAMES)
    finally:
        for worker in started:
            worker.stopping = True
        house.close()


def test_a_member_that_is_revoked_in_a_round_is_not_waited_for(
    house: House, workers: Workers
) -> None:
    """No deadline, no quorum: without this the round would never end."""

    def revoking(worker: Worker, order: pb.Order, content: RecordDict) -> RecordDict | None:
        house.fleet.revoke("bob")
        return None

    made = workers(bob=revoking)
    assert house.fleet.wait_for(NAMES, house.fleet.now() + SOON) == []
    conduct(server_app(1, least=1), house.grid(), {}, SECRET, resumable=True)
    closed = [e for e in house.events if isinstance(e, events.BatchClosed)]
    assert [e.accepted for e in closed] == [("ada", "cyd")] * 2
    assert list(closed[0].absent) == ["bob"] and list(closed[1].absent) == []
    assert closed[0].reason == "all still admitted answered"
    made["bob"].stopping = True


def test_who_misses_the_deadline_is_late_with_a_receipt(house: House, workers: Workers) -> None:
    held, closed = threading.Event(), threading.Event()

    def slow(worker: Worker, order: pb.Order, content: RecordDict) -> RecordDict | None:
        if order.type == "train" and order.round == 1:
            held.set()
            assert closed.wait(20)
        return honest(worker, order, content)

    def watch(event: events.Event) -> None:
        house.events.append(event)
        if isinstance(event, events.BatchClosed):
            closed.set()

    house.fleet.watch = watch
    made = workers(bob=slow)
    grid_watch = house.grid(Policy(quorum=2, grace=0.2))
    grid_watch._watch = watch
    grid_watch._live._watch = watch  # type: ignore[union-attr]
    assert house.fleet.wait_for(NAMES, house.fleet.now() + SOON) == []
    conduct(server_app(2), grid_watch, {}, SECRET, resumable=True)
    assert held.is_set()
    answered = [e for e in house.events if isinstance(e, events.Answered) and e.member == "bob"]
    assert "late" in [e.verdict for e in answered]
    house.fleet.close()
    made["bob"].join(20)
    assert "late" in [r["verdict"] for r in made["bob"].receipts]


def test_a_session_is_not_needed_for_what_the_journal_holds(house: House, workers: Workers) -> None:
    workers()
    model = conducted(house)
    house.restart()
    before = len(house.journal)
    grid = house.grid()
    replayed = conduct(server_app(), grid, {}, SECRET, resumable=False).model
    assert replayed == model and len(house.journal) == before
