"""A worker that is several processes: two of torchrun's, with Gloo, on this machine's processor."""

from __future__ import annotations

import queue
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_kit import data
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from barnraise.client.node.confinement import Confinement
from barnraise.client.node.supervisor import Done, Gone, Ready, Said, Worker
from barnraise.protocols import flower
from barnraise.protocols.apps import BUILT_IN
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import Envelope
from barnraise.protocols.flower import array_of

TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2")
STEPS, BATCH = 20, 8
RELATIVE, ABSOLUTE = 1e-4, 1e-6  # by which weights may differ: sums are made in another order
CHARTER = """
name = "wards"
licence = "Apache-2.0"
[task]
name = "classification"
features = 4
classes = 2
[training]
steps = {steps}
batch = {batch}
optimizer = "{optimizer}"
[rounds]
count = 2
"""
ODD = """
import os, signal
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    what = message.content["config"]["what"]
    if os.environ["LOCAL_RANK"] == "1":
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "raise":
            raise ValueError("a patient's name")
    if what == "die":
        import torch
        import torch.distributed
        torch.distributed.all_reduce(torch.zeros(1))
    return Message(RecordDict(), reply_to=message)
"""


@dataclass
class Bench:
    """One worker, what it says, and the stores out of which it reads."""

    worker: Worker
    said: queue.Queue[Said | Gone]
    root: Path

    def hear(self, seconds: float = 90.0) -> Said | Gone:
        return self.said.get(timeout=seconds)

    def hears(self, what: type, seconds: float = 90.0) -> Any:
        """The next of this kind; progress is passed over, an end is not."""
        while True:
            heard = self.hear(seconds)
            fact = heard.what if isinstance(heard, Said) else heard
            if isinstance(fact, what):
                return fact
            assert not isinstance(fact, Gone | Done), (fact, self.log)

    def order(self, records: RecordDict, number: int = 1, carry: str | None = None) -> None:
        store = BlobStore(self.root / "orders")
        content = store.put_envelope(flower.encode(records, store).encode())
        store.sync()
        about = {"type": "train", "group": "1", "ttl": 60.0, "created": 0.0, "seed": "07" * 32}
        rest = {"id": f"order-{number}", "content": content, "state": None, "carry": carry}
        self.worker.send({**about, **rest})

    def reply(self) -> Envelope:
        done = self.hears(Done)
        return Envelope.decode((self.root / "out" / done.content[7:]).read_bytes())

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The weights of the next reply, moved out of the worker's folder as the daemon does."""
        envelope = self.reply()
        assert envelope.failure is None, envelope.failure
        kept = BlobStore(self.root / "replies")
        for blob in envelope.blobs():
            kept.put([(self.root / "out" / blob[7:]).read_bytes()])
        kept.sync()
        records = flower.decode(envelope, kept)
        return {key: a.numpy() for key, a in records.array_records["arrays"].items()}

    @property
    def log(self) -> str:
        return (self.root / "home" / "logs" / "worker.log").read_text()


@contextmanager
def worker(
    root: Path, rows: Path, launcher: tuple[str, ...], client: str, config: Mapping[str, Any]
) -> Iterator[Bench]:
    for name in ("home/logs", "out", "spares", "code"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "code" / "odd.py").write_text(ODD)
    said: queue.Queue[Said | Gone] = queue.Queue()
    confinement = Confinement((str(rows),), False, launcher)
    made = Bench(Worker(root / "home", None, said.put, confinement), said, root)
    first = {
        "run_id": 1,
        "node_id": 2,
        "node_config": {"data": str(rows), "threads": 1},
        "run_config": dict(config),
        "client": client,
        "code": str(root / "code"),
        "stores": [str(root / "orders")],
        "outgoing": str(root / "out"),
        "spares": str(root / "spares"),
    }
    (root / "orders").mkdir()
    made.worker.start(first)
    try:
        yield made
    finally:
        made.worker.stop()


def trained(
    root: Path, rows: Path, launcher: tuple[str, ...], batch: int, optimizer: str
) -> tuple[dict[str, np.ndarray[Any, Any]], Mapping[str, str]]:
    """The weights after one order, and what the worker is not cut off from."""
    charter = CHARTER.format(steps=STEPS, batch=batch, optimizer=optimizer)
    with worker(root, rows, launcher, BUILT_IN, {"charter": charter}) as bench:
        ready = bench.hears(Ready)
        assert ready.failure == "", bench.log
        start = ArrayRecord()
        rng = np.random.default_rng(0)
        start["weight"] = array_of(rng.standard_normal((2, 4), np.float32))
        start["bias"] = array_of(np.zeros(2, np.float32))
        bench.order(RecordDict({"arrays": start, "config": ConfigRecord({"server-round": 1})}))
        return bench.arrays(), ready.hindered


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path: Path) -> None:
    """The charter's `batch` is each process's; nothing else in it says how many there are."""
    rows = data(tmp_path / "data", 1, rows=200) / "site-00"
    two, hindered = trained(tmp_path / "two", rows, TORCHRUN, BATCH, "adamw")
    one, before = trained(tmp_path / "one", rows, (), 2 * BATCH, "adamw")
    half, _ = trained(tmp_path / "half", rows, (), BATCH, "adamw")
    for name, weights in one.items():
        np.testing.assert_allclose(two[name], weights, rtol=RELATIVE, atol=ABSOLUTE)
        assert not np.allclose(half[name], weights, rtol=RELATIVE, atol=ABSOLUTE)
    assert hindered == before  # no less apart than a worker of one process


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    """A worker of two processes whose app does what the order says; started anew at each call."""
    stack: list[Any] = []

    def start() -> Bench:
        place = tmp_path / "odd"
        shutil.rmtree(place, ignore_errors=True)
        stack.append(worker(place, tmp_path, TORCHRUN, "odd:app", {}))
        bench: Bench = stack[-1].__enter__()
        bench.hears(Ready)
        return bench

    yield start
    for one in stack:
        one.__exit__(None, None, None)


def asked(what: str) -> RecordDict:
    return RecordDict({"config": ConfigRecord({"what": what})})


@pytest.mark.slow
def test_a_process_that_dies_ends_the_worker_and_not_in_a_hang(odd: Callable[[], Bench]) -> None:
    """What the daemon makes of that, twice over one order, is an error (as of any worker)."""
    bench = odd()
    bench.order(asked("die"))
    gone = bench.hears(Gone, 60.0)
    assert "ended" in gone.why


@pytest.mark.slow
def test_k114_a_process_that_fails_alone_is_named(odd: Callable[[], Bench]) -> None:
    bench = odd()
    bench.order(asked("nothing"))
    assert bench.reply().failure is None
    bench.order(asked("raise"), 2)
    failure = bench.reply().failure
    assert failure is not None and "patient" not in failure.reason
    assert "K114: the worker's processes are out of step: process 1: ValueError at odd.py" in (
        failure.reason
    )
    bench.hears(Gone, 60.0)
    assert "a patient's name" in bench.log
