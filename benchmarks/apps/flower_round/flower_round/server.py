"""The ServerApp: FedAvg without evaluation; prints the seconds a round, and nothing else.

Flower's own, and the model made as Flower's examples make it; or, where `strategy` is "ours",
Barnraise's, which runs on Flower's engines as well, and the model made without a second copy of it.
"""

import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy

app = ServerApp()
ARRAYS = 16


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    nodes, rounds = int(config["nodes"]), int(config["rounds"])
    elements = int(float(config["mb"]) * 2**18 / ARRAYS)
    arrays = [made(i, elements) for i in range(ARRAYS)] if config["strategy"] != "ours" else None
    initial = ArrayRecord(arrays) if arrays is not None else one_by_one(elements)
    rule = strategy(str(config["strategy"]))(
        fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes
    )
    started = time.perf_counter()
    rule.start(
        grid=grid,
        initial_arrays=initial,
        num_rounds=rounds,
        train_config=ConfigRecord({"distinct": bool(config["distinct"])}),
    )
    print(f"seconds a round: {(time.perf_counter() - started) / rounds:.6f}", flush=True)


def made(number: int, elements: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(elements, dtype=np.float32)


def one_by_one(elements: int) -> ArrayRecord:
    """The same arrays, without a second copy of the whole model."""
    record = ArrayRecord()
    for number in range(ARRAYS):
        record[str(number)] = Array(made(number, elements))
    return record


def strategy(name: str) -> type[Strategy]:
    if name == "ours":
        from barnraise.strategies import FedAvg as Ours

        return Ours
    return FedAvg
