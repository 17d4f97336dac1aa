"""Our strategies on a Grid that is not ours: as little as Flower's own class asks, and none of our extras."""

from __future__ import annotations

import contextlib
import io
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from barnraise.strategies import DiLoCo, FedAvg
from barnraise.testing import Federation

ZOO = Path(__file__).parent / "apps" / "zoo"


class PlainGrid(Grid):
    """Runs each handler when its message is sent; replies come back last node first."""

    def __init__(self, app: ClientApp, nodes: int, config: dict[str, Any]) -> None:
        self._app, self._sent = app, 0
        self._waiting: dict[str, Message] = {}
        self._contexts = {
            1000 - 7 * n: Context(
                1,
                1000 - 7 * n,
                {"partition-id": n, "num-partitions": nodes},
                RecordDict(),
                dict(config),
            )
            for n in range(nodes)
        }

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            self._sent += 1
            ids.append(str(self._sent))
            message.metadata.__dict__["_message_id"] = ids[-1]
            context = self._contexts[message.metadata.dst_node_id]
            self._waiting[ids[-1]] = self._app(message, context)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._waiting.pop(i) for i in sorted(message_ids, reverse=True)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))


@pytest.fixture(autouse=True)
def server_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Message()` asks flwr who sends; Flower's own engines tell it as well."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.mark.parametrize("strategy", ["barnraise-fedavg", "barnraise-diloco", "FedAvg"])
def test_the_zoo_runs_on_it(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ZOO), *sys.path])
    from zoo.client import app as client  # type: ignore[import-not-found]
    from zoo.server import app as server  # type: ignore[import-not-found]

    random.seed(1)
    np.random.seed(1)
    config = {"strategy": strategy, "rounds": 4}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        server(PlainGrid(client, 7, config), Context(1, 1, {}, RecordDict(), config))
    first, second = printed.getvalue().splitlines()
    losses = [float(word) for word in second.removeprefix("held-out loss ").split()]
    assert first == "7 nodes, 217 rows, 14 messages"
    assert losses[-1] < losses[0] / 10


def deterministic_client() -> ClientApp:
    """Moves every weight by an amount that only its partition decides."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])  # type: ignore[arg-type]
        received = message.content.array_records["arrays"]
        arrays = {
            key: Array(a.numpy() * np.float32(0.9) + np.float32(0.1 * number))
            for key, a in received.items()
        }
        metrics = MetricRecord({"num-examples": 3 + number})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "m": metrics}), reply_to=message)

    return app


@pytest.mark.parametrize("kind", [FedAvg, DiLoCo])
def test_the_same_bytes_as_on_ours(kind: type[FedAvg] | type[DiLoCo]) -> None:
    """L1: neither the order of arrival nor the engine is in the result."""
    rng = np.random.default_rng(0)
    start = {"w": rng.standard_normal((40, 3), np.float32), "b": rng.standard_normal(5, np.float32)}

    def train_on(grid: Grid) -> ArrayRecord:
        rule = kind(fraction_evaluate=0.0, min_train_nodes=5, min_available_nodes=5)
        initial = ArrayRecord({key: Array(a) for key, a in start.items()})
        result = rule.start(grid, initial, num_rounds=3, train_config=ConfigRecord({"lr": 1.0}))
        return result.arrays

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        train_on(grid)

    theirs = train_on(PlainGrid(deterministic_client(), 5, {}))
    ours = Federation(5).run(server, deterministic_client()).model
    assert set(ours) == set(theirs) == {"w", "b"}
    for key in ours:
        assert ours[key].tobytes() == theirs[key].numpy().tobytes()
        assert not np.array_equal(ours[key], start[key])
