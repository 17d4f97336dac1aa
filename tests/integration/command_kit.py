"""The real command, its environment, and a small ServerApp, for the tests of this folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

COMMAND = Path(sys.executable).parent / "barnraise"

SERVER = """
import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
    print("the app says hello")
    nodes = len(list(grid.get_node_ids()))
    rule = FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=nodes)
    model = ArrayRecord({"w": Array(np.ones((3, 4), np.float32)), "b": Array(np.ones(2, np.float32))})
    rule.start(grid, model, num_rounds=context.run_config["rounds"])
"""


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would change how the command shows itself."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    return {**kept, **more}
