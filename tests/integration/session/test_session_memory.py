"""L6 at the session port: more members, the same memory. The members are threads that speak the protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from session_kit import LARGE, NAMES, House, Node, Reply, Session

from barnraise.client.node import transfers
from barnraise.coordinator import session
from barnraise.protocols import allocator, canonical
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.content import Arrays, Envelope, Values

HERE = Path(__file__).parent
SLOW_MACHINE = 240.0  # seconds


def peak(place: Path, members: int, megabytes: int, rounds: int = 2) -> float:
    """The coordinator's peak resident memory in MB."""
    place.mkdir()
    command = [sys.executable, str(HERE / "scripted_coordinator.py"), str(place)]
    process = subprocess.Popen(
        [*command, str(members), str(megabytes), str(rounds)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    files = place / "members"
    files.mkdir()
    with process, ThreadPoolExecutor(members) as pool:
        try:
            ready = _ready(place, process)
            work = [pool.submit(_member, ready, n, rounds, files) for n in ready["members"]]
            for one in work:
                one.result(SLOW_MACHINE)
            out, _ = process.communicate(timeout=SLOW_MACHINE)
        finally:
            process.kill()
    return float(json.loads(out))


def _ready(place: Path, process: subprocess.Popen[str]) -> Any:
    while not (place / "ready.json").exists():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    return json.loads((place / "ready.json").read_text())


def _member(ready: Any, name: str, rounds: int, files: Path) -> None:
    """Fetch each order's model and send it back as it is, with a weight."""
    key, certificate = (part.encode() for part in ready["members"][name])
    credentials = grpc.ssl_channel_credentials(ready["root"].encode(), key, certificate)
    node = Node(name, ready["port"], credentials)
    stream, stub = node.attend(patient=True).welcomed(), transfers.BulkStub(node.channel)
    for _ in range(rounds):
        order = _heard(stream, pb.Order)
        parts = _echo(stub, order, files / name)
        statement = node.statement(order.id, parts[0].digest)
        transfers.deliver(stub, order.id, statement, parts, lambda done, total: None)
        _heard(stream, pb.Receipt)
    stream.leave()
    node.close()


def _heard(stream: Session, kind: type) -> Any:
    while not isinstance(message := stream.next(SLOW_MACHINE), kind):
        assert isinstance(message, pb.Order | pb.Receipt | pb.Welcome), message
    return message


def _echo(stub: transfers.BulkStub, order: pb.Order, folder: Path) -> list[transfers.Part]:
    folder.mkdir(exist_ok=True)
    asked = Envelope.decode(_fetched(stub, order.content, folder / "asked").read_bytes())
    model = next(record for _, record in asked.records if isinstance(record, Arrays))
    blob = _fetched(stub, model.blob, folder / "model")
    weight = Values("metrics", (("num-examples", 1),))
    data = Envelope((("arrays", model), ("metrics", weight))).encode()
    (folder / "said").write_bytes(data)
    envelope = transfers.Part(canonical.digest(data), len(data), folder / "said")
    return [envelope, transfers.Part(model.blob, blob.stat().st_size, blob)]


def _fetched(stub: transfers.BulkStub, digest: str, path: Path) -> Path:
    with path.open("wb") as file:
        for data in stub.Fetch(pb.FetchRequest(digest=digest)):
            file.write(data)
    return path


GROWTH = 1.1  # a connection and its threads for each member; nothing that knows the model


def test_l6_flat_memory_with_scripted_members(tmp_path: Path) -> None:
    """Twelve members more cost less than a MB each, whatever the model's size."""
    few, many = peak(tmp_path / "few", 4, 16), peak(tmp_path / "many", 16, 16)
    assert many <= GROWTH * few, (few, many)


@pytest.mark.slow
def test_l6_flat_memory_with_32_scripted_members_at_100_mb(tmp_path: Path) -> None:
    few, many = peak(tmp_path / "few", 4, 100), peak(tmp_path / "many", 32, 100)
    assert few <= 260.0
    assert many <= GROWTH * few, (few, many)


def test_memory_is_given_back_once_nobody_is_asked_for_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(allocator, "trim", lambda: given.append(True))
    monkeypatch.setattr(session, "LET_GO", 1 << 20)
    house = House(tmp_path / "house", NAMES)
    try:
        orders = {name: house.order(name) for name in NAMES}
        house.fleet.dispatch(list(orders.values()))
        for name in NAMES[:2]:
            reply = Reply.good(tmp_path / name, size=LARGE)
            house.node(name).deliver(orders[name].id, reply)
            house.accept(house.arrivals())
        assert not given
        house.fleet.withdraw({orders[NAMES[2]].id: NAMES[2]})
        assert len(given) == 1
        house.fleet.withdraw({})
        assert len(given) == 1  # nothing has come since
    finally:
        house.close()
