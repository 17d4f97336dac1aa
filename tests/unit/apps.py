"""Small NumPy apps that the engine's tests run. But for `sealing`, nothing in them knows Barnraise."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy

from barnraise.coordinator.recorder import recorder


def client_app(calls: list[str] | None = None) -> ClientApp:
    """Trains by a seeded random step, counts its rounds in `Context.state`.

    The order that each handler works on is added to `calls`.
    """
    app = ClientApp()
    done = calls if calls is not None else []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        done.append(message.metadata.message_id)
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
        done.append(message.metadata.message_id)
        total = sum(float(a.sum()) for a in message.content["arrays"].to_numpy_ndarrays())  # type: ignore[union-attr]
        metrics = MetricRecord({"num-examples": 3, "sum": total})
        return Message(RecordDict({"m": metrics}), reply_to=message)

    @app.query("name")
    def name(message: Message, context: Context) -> Message:
        done.append(message.metadata.message_id)
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


def mean(replies: Iterable[Message]) -> ArrayRecord:
    """The plain mean of the replies' arrays, with noise from the server's generators."""
    found = [
        m.content.array_records["arrays"].to_numpy_ndarrays() for m in replies if m.has_content()
    ]
    noise = np.float32(np.random.random() + random.random())
    return ArrayRecord(
        [np.mean(arrays, axis=0, dtype=np.float32) + noise for arrays in zip(*found, strict=True)]
    )


def everything() -> ServerApp:
    """Every kind of operation in each round: a push that is pulled late, train, evaluate, a query."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        model = initial()
        for number in range(int(context.run_config.get("rounds", 2))):
            nodes = list(grid.get_node_ids())
            config = ConfigRecord({"round": number})
            ask = RecordDict({"config": config})
            waiting = set(grid.push_messages([Message(ask, n, "query.name") for n in nodes]))
            content = RecordDict({"arrays": model, "config": config})
            model = mean(grid.send_and_receive([Message(content, n, "train") for n in nodes]))
            while waiting:
                for reply in grid.pull_messages(waiting):
                    waiting.discard(reply.metadata.reply_to_message_id)
            content = RecordDict({"arrays": model})
            list(grid.send_and_receive([Message(content, n, "evaluate") for n in nodes[:1]]))

    return app


def sealing(done: list[int] | None = None) -> ServerApp:
    """An app of ours: seals each round with a state of its own and goes on behind the last seal.

    The rounds that it works on are added to `done`.
    """
    app = ServerApp()
    worked = done if done is not None else []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        own = recorder(grid)
        rounds = int(context.run_config.get("rounds", 3))
        nodes = list(grid.get_node_ids())
        seal = own.resume()
        model = seal.model if seal else initial()
        state = (
            seal.state if seal else RecordDict({"speed": ArrayRecord([np.zeros(5, np.float32)])})
        )
        for number in range(seal.round + 1 if seal else 1, rounds + 1):
            worked.append(number)
            nodes = list(grid.get_node_ids())
            content = RecordDict({"arrays": model})
            model = mean(grid.send_and_receive([Message(content, n, "train") for n in nodes]))
            (speed,) = state.array_records["speed"].to_numpy_ndarrays()
            step = np.float32(0.5) * speed + model.to_numpy_ndarrays()[1]
            state = RecordDict({"speed": ArrayRecord([step])})
            own.seal(number, model, state, {"round": number})
        own.finish(model, {"rounds": rounds})

    return app
