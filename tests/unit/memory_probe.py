"""Run by `test_laws` in a process of its own: one federation, and how much memory it took at most.

memory_probe.py MEMBERS ROUNDS MEGABYTES     prints the peak resident set over the start, in MB
"""

from __future__ import annotations

import resource
import sys

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from barnraise.strategies import FedAvg
from barnraise.testing import Federation


def apps(size: int) -> tuple[ServerApp, ClientApp]:
    server, client = ServerApp(), ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        shift = np.float32(int(context.node_config["partition-id"]))
        arrays = [a + shift for a in message.content.array_records["arrays"].to_numpy_ndarrays()]
        content = RecordDict({"arrays": ArrayRecord(arrays)})
        content["m"] = MetricRecord({"num-examples": 1})
        return Message(content, reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        model = ArrayRecord([np.zeros(size // 16, np.float32) for _ in range(4)])
        FedAvg(fraction_evaluate=0.0, threads=2).start(
            grid, model, num_rounds=int(context.run_config["rounds"])
        )

    return server, client


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    members, rounds, megabytes = map(int, sys.argv[1:4])
    Federation(members=2).run(*apps(1 << 16), {"rounds": 1})  # what is imported on first use
    before = peak()
    Federation(members=members).run(*apps(megabytes << 20), {"rounds": rounds})
    print(f"{peak() - before:.1f}")
