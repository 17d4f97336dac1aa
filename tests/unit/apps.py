"""Small NumPy apps that the engine's tests run. Nothing in them knows Barnraise."""

from __future__ import annotations

import random

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy


def client_app() -> ClientApp:
    """Trains by a seeded random step, counts its rounds in `Context.state`."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen = context.state.config_records.get("seen", ConfigRecord({"rounds": 0}))
        seen["rounds"] = int(seen["rounds"]) + 1  # type: ignore[arg-type]
        context.state["seen"] = seen
        shift = float(seen["rounds"]) + float(context.node_config["partition-id"])  # type: ignore[arg-type]
        arrays = [
            a + np.float32(shift) * np.random.standard_normal(a.shape).astype(np.float32)
            for a in message.content.array_records["arrays"].to_numpy_ndarrays()
        ]
        metrics = MetricRecord({"num-examples": 10 + int(shift), "noise": random.random()})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "m": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        total = sum(float(a.sum()) for a in message.content["arrays"].to_numpy_ndarrays())  # type: ignore[union-attr]
        metrics = MetricRecord({"num-examples": 3, "sum": total})
        return Message(RecordDict({"m": metrics}), reply_to=message)

    @app.query("name")
    def name(message: Message, context: Context) -> Message:
        config = ConfigRecord({"partition": context.node_config["partition-id"]})
        return Message(RecordDict({"config": config}), reply_to=message)

    return app


def initial() -> ArrayRecord:
    return ArrayRecord([np.ones((3, 4), np.float32), np.zeros(5, np.float32)])


def server_app(strategy: Strategy | None = None) -> ServerApp:
    """FedAvg (or `strategy`) over `rounds` rounds, with noise of the server's own."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        rule = strategy or FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        rule.start(grid, initial(), num_rounds=int(context.run_config.get("rounds", 3)))

    return app
