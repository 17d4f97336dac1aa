"""A worker that is several processes: two of torchrun's, with Gloo, on this machine's processor."""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flower_kit import data
from flwr.app import ConfigRecord, RecordDict
from torch import nn

from barnraise.client.app import record_of
from barnraise.client.node.confinement import Confinement
from barnraise.client.node.kept import name_of
from barnraise.client.node.supervisor import Done, Gone, Ready, Said, Worker
from barnraise.client.tasks import load_task
from barnraise.client.training import Inner, train
from barnraise.protocols import flower
from barnraise.protocols.apps import BUILT_IN
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.charter import Charter
from barnraise.protocols.content import Envelope

TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2")
STEPS, BATCH, SEED = 20, 8, b"\x07" * 32
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
        store = BlobStore(self.root / "orders", flat=True)
        text = flower.encode(records, store).encode().decode()
        store.sync()
        about = {"type": "train", "group": "1", "ttl": 60.0, "created": 0.0, "seed": SEED.hex()}
        rest = {"id": f"order-{number}", "content": name_of(text), "state": None, "carry": carry}
        self.worker.send({**about, **rest, "envelopes": {name_of(text): text}})

    def reply(self) -> Envelope:
        done = self.hears(Done)
        return Envelope.decode(done.envelopes[done.content].encode())

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


def start_of(charter: Charter) -> nn.Module:
    torch.manual_seed(0)
    return load_task(charter.task).model()


def by_two(root: Path, rows: Path, text: str) -> dict[str, np.ndarray[Any, Any]]:
    """The weights after one order to a worker of two processes."""
    with worker(root, rows, TORCHRUN, BUILT_IN, {"charter": text}) as bench:
        ready = bench.hears(Ready)
        assert ready.failure == "", bench.log
        assert ready.hindered["network"] == ""
        start = record_of(start_of(Charter.parse(text)))
        bench.order(RecordDict({"arrays": start, "config": ConfigRecord({"server-round": 1})}))
        return bench.arrays()


def by_one(rows: Path, text: str) -> dict[str, np.ndarray[Any, Any]]:
    """The same, as one process does it: this one."""
    charter = Charter.parse(text)
    task, model = load_task(charter.task), start_of(charter)
    with flower.generators_kept():
        flower.seed_generators(SEED)
        train(task, model, task.data(rows).train, charter.training, Inner(), (0.0, 0.5))
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path: Path, apart: None) -> None:
    """The charter's `batch` is each process's; nothing else in it says how many there are."""
    rows = data(tmp_path / "data", 1, rows=200) / "site-00"
    said = [CHARTER.format(steps=STEPS, batch=n, optimizer="adamw") for n in (BATCH, 2 * BATCH)]
    two, one, half = by_two(tmp_path, rows, said[0]), by_one(rows, said[1]), by_one(rows, said[0])
    for name, weights in one.items():
        np.testing.assert_allclose(two[name], weights, rtol=RELATIVE, atol=ABSOLUTE)
        assert not np.allclose(half[name], weights, rtol=RELATIVE, atol=ABSOLUTE)


@pytest.fixture
def apart() -> None:
    """A network namespace, in which alone a worker of several processes has its loopback."""
    look = "from barnraise.client.node import sandbox; print(sandbox.enter_namespaces()['network'])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    if why := done.stdout.strip():
        pytest.skip(f"this machine's kernel allows no network namespace: {why}")


@pytest.fixture
def odd(tmp_path: Path, apart: None) -> Iterator[Callable[[], Bench]]:
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
