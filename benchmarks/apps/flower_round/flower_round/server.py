"""The ServerApp: FedAvg without evaluation; prints the seconds a round, and nothing else.

Flower's own, unless `strategy` is "ours": Barnraise's, which runs on Flower's engines as well.
"""

import time

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy

app = ServerApp()
ARRAYS = 16


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    nodes, rounds = int(config["nodes"]), int(config["rounds"])
    elements = int(float(config["mb"]) * 2**18 / ARRAYS)
    arrays = [
        np.random.default_rng(i).standard_normal(elements, dtype=np.float32) for i in range(ARRAYS)
    ]
    rule = strategy(str(config["strategy"]))(
        fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes
    )
    started = time.perf_counter()
    rule.start(
        grid=grid,
        initial_arrays=ArrayRecord(arrays),
        num_rounds=rounds,
        train_config=ConfigRecord({"distinct": bool(config["distinct"])}),
    )
    print(f"seconds a round: {(time.perf_counter() - started) / rounds:.6f}", flush=True)


def strategy(name: str) -> type[Strategy]:
    if name == "ours":
        from barnraise.strategies import FedAvg as Ours

        return Ours
    return FedAvg
