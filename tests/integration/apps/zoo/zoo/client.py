"""The ClientApp: stochastic gradient steps with a momentum that stays at the client."""

import random

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from zoo.data import loss, partition

STEPS, BATCH, MOMENTUM = 8, 8, 0.5


def count(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Count this client's messages in its state, and say in the reply which one it was."""
    seen = int(context.state.config_records.get("seen", ConfigRecord({"n": 0}))["n"]) + 1
    context.state["seen"] = ConfigRecord({"n": seen, "last": message.metadata.message_type})
    reply = call_next(message, context)
    if reply.has_content():
        for metrics in reply.content.metric_records.values():
            metrics["message"] = seen
    return reply


def clip(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Flower's own clipping, where the strategy at the server expects it."""
    mods = {
        "DifferentialPrivacyClientSideFixedClipping": fixedclipping_mod,
        "DifferentialPrivacyClientSideAdaptiveClipping": adaptiveclipping_mod,
    }
    mod = mods.get(str(context.run_config["strategy"]))
    return mod(message, context, call_next) if mod else call_next(message, context)


app = ClientApp(mods=[count])


def rows_of(context: Context) -> int:
    return 16 + 5 * int(context.node_config["partition-id"])


def data_of(context: Context) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return partition(int(context.node_config["partition-id"]), rows_of(context))


@app.train(mods=[clip])
def train(message: Message, context: Context) -> Message:
    x, y = data_of(context)
    config = message.content.config_records["config"]
    received = message.content.array_records["arrays"]
    start = received.to_numpy_ndarrays()
    weight, bias = (a.astype(np.float64) for a in start)

    kept = context.state.array_records.get("momentum")
    velocity = kept.to_numpy_ndarrays() if kept else [np.zeros_like(weight), np.zeros_like(bias)]
    turns = int(context.state.config_records.get("turns", ConfigRecord({"n": 0}))["n"])
    rate = float(config["lr"]) / (1 + 0.1 * turns) * random.uniform(0.9, 1.1)
    pull = float(config.get("proximal-mu", 0.0))

    for _ in range(STEPS):
        rows = np.random.choice(len(y), BATCH, replace=False)
        error = x[rows] @ weight + bias - y[rows]
        gradients = [x[rows].T @ error / BATCH, np.array([error.mean()])]
        for a, v, g, origin in zip((weight, bias), velocity, gradients, start, strict=True):
            v *= MOMENTUM
            v += g + pull * (a - origin)
            a -= rate * v

    context.state["momentum"] = ArrayRecord(velocity)
    context.state["turns"] = ConfigRecord({"n": turns + 1})
    trained = [a.astype(old.dtype) for a, old in zip((weight, bias), start, strict=True)]
    metrics = MetricRecord(
        {
            "num-examples": len(y),
            "train_loss": loss(trained, x, y),
            "norms": [float(np.abs(a).max()) for a in trained],
            "turns": turns + 1,
        }
    )
    arrays = ArrayRecord(dict(zip(received, map(Array, trained), strict=True)))
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    x, y = data_of(context)
    model = message.content.array_records["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"num-examples": len(y), "loss": loss(model, x, y)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """How many rows there are, and what the server wants to know of them."""
    _, y = data_of(context)
    asked = message.content.config_records["question"]["statistic"]
    found = ConfigRecord(
        {
            "partition": int(context.node_config["partition-id"]),
            "rows": len(y),
            "statistic": float({"mean": np.mean, "std": np.std}[str(asked)](y)),
            "echo": [str(asked), "café"],
            "bytes": y[:2].tobytes(),
        }
    )
    return Message(RecordDict({"answer": found}), reply_to=message)


@app.query("seen")
def seen(message: Message, context: Context) -> Message:
    """How many messages this client has had, this one included."""
    metrics = MetricRecord({"draw": random.random()})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
