"""The ServerApp: ask the clients about their data, then run the strategy that the config names."""

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp, strategy
from flwr.serverapp.strategy import Strategy

from zoo.data import HELD_OUT, WEIGHT, loss, partition

app = ServerApp()
POLLS = 600


def describe(grid: Grid, nodes: list[int], statistic: str) -> list[ConfigRecord]:
    """The clients' answers to `query.describe`, asked all at once."""
    question = RecordDict({"question": ConfigRecord({"statistic": statistic})})
    orders = [Message(question, node, "query.describe") for node in nodes]
    replies = [r for r in grid.send_and_receive(orders) if r.has_content()]
    return [reply.content.config_records["answer"] for reply in replies]


def seen(grid: Grid, nodes: list[int]) -> dict[int, MetricRecord]:
    """Each client's answer to `query.seen`, pushed and pulled."""
    orders = [Message(RecordDict(), node, "query.seen", group_id="seen") for node in nodes]
    waiting = set(grid.push_messages(orders))
    answers: dict[int, MetricRecord] = {}
    for _ in range(POLLS):
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            if reply.has_content():
                node = reply.metadata.src_node_id
                answers[node] = reply.content.metric_records["metrics"]
        if not waiting:
            break
        time.sleep(0.05)
    return answers


def flowers(name: str, nodes: int) -> Strategy:
    """One of Flower's strategies, by its class name, for so many nodes."""
    some = {"fraction_train": 0.75, "min_train_nodes": 1, "min_evaluate_nodes": 1}
    every = {"min_train_nodes": nodes, "min_evaluate_nodes": nodes}
    common: dict[str, Any] = {"min_available_nodes": nodes}
    robust = {**common, **every, "num_malicious_nodes": max(0, (nodes - 3) // 4)}
    options: dict[str, dict[str, Any]] = {
        "FedProx": {**common, **some, "proximal_mu": 0.1},
        "FedAvgM": {**common, **some, "server_learning_rate": 0.9, "server_momentum": 0.5},
        "FedTrimmedAvg": {**common, **every, "beta": 0.2},
        "QFedAvg": {**common, **some, "client_learning_rate": 0.1},
        "Krum": robust,
        "MultiKrum": {**robust, "num_nodes_to_select": max(1, nodes // 2)},
        "Bulyan": robust,
    }
    cls: Callable[..., Strategy] = getattr(strategy, name)
    return cls(**options.get(name, {**common, **some}))


def wrapped(name: str, nodes: int) -> Strategy:
    """One of Flower's differential-privacy wrappers around its FedAvg."""
    inner = strategy.FedAvg(
        min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes
    )
    cls: Callable[..., Strategy] = getattr(strategy, name)
    if "Adaptive" in name:
        return cls(inner, noise_multiplier=0.05, num_sampled_clients=nodes)
    return cls(inner, noise_multiplier=0.05, clipping_norm=1.0, num_sampled_clients=nodes)


def ours(name: str) -> Strategy:
    """One of Barnraise's, which run on Flower's own engines as well."""
    from barnraise.strategies import DiLoCo, FedAvg

    options: dict[str, Any] = {"fraction_train": 0.75, "min_train_nodes": 1}
    options |= {"min_evaluate_nodes": 1, "min_available_nodes": 1}
    options["seed"] = random.randrange(2**31)
    if name == "barnraise-fedavg":
        return FedAvg(**options)
    return DiLoCo(lr=0.9, momentum=0.3, **options)


def build(name: str, nodes: int) -> Strategy:
    """The strategy called `name`."""
    if name in ("barnraise-fedavg", "barnraise-diloco"):
        return ours(name)
    return wrapped(name, nodes) if name.startswith("Differential") else flowers(name, nodes)


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """The loss on part of the held-out data, chosen anew each round."""
    x, y = partition(HELD_OUT, 64)
    rows = np.random.permutation(len(y))[:48]
    return MetricRecord({"loss": loss(arrays.to_numpy_ndarrays(), x[rows], y[rows])})


@app.main()
def main(grid: Grid, context: Context) -> None:
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(1)
    answers = describe(grid, nodes, random.choice(["mean", "std"]))
    counts = seen(grid, nodes)
    rows = sum(int(a["rows"]) for a in answers)
    spread = float(np.mean([float(a["statistic"]) for a in answers]))
    draw = sum(float(counts[node]["draw"]) for node in sorted(counts))
    print(
        f"{len(nodes)} nodes, {rows} rows, {int(sum(m['message'] for m in counts.values()))} messages"
    )

    initial = [np.random.normal(0, 0.1, len(WEIGHT)).astype(np.float32), np.zeros(1, np.float32)]
    initial[1] += np.float32(random.gauss(0, 0.1) + 0.01 * spread + 0.01 * draw)
    chosen = build(str(context.run_config["strategy"]), len(nodes))
    result = chosen.start(
        grid=grid,
        initial_arrays=ArrayRecord(dict(zip(("weight", "bias"), map(Array, initial), strict=True))),
        num_rounds=int(context.run_config["rounds"]),
        train_config=ConfigRecord({"lr": 0.05}),
        evaluate_fn=evaluate,
    )
    losses = [float(m["loss"]) for m in result.evaluate_metrics_serverapp.values()]
    print("held-out loss " + " ".join(f"{value:.4f}" for value in losses))
