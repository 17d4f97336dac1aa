"""Run by `test_session_memory` in a process of its own: a coordinator whose members are scripted elsewhere.

scripted_coordinator.py DIRECTORY MEMBERS MEGABYTES ROUNDS

Writes `ready.json` (the port, the authority's certificate, each member's key and certificate), then asks
every member to train, `ROUNDS` times, with our FedAvg. Prints its peak resident memory in MB.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord
from session_kit import House, pair, pem

from barnraise.protocols import files, flower
from barnraise.strategies import FedAvg


def main(root: Path, members: int, megabytes: int, rounds: int) -> None:
    names = [f"m{n:02}" for n in range(members)]
    house = House(root / "house", names, durable=True)
    ready = {
        "port": house.port,
        "root": pem(house.authority.certificate_der).decode(),
        "members": {name: [p.decode() for p in pair(house.authority, name)] for name in names},
    }
    files.replace(root / "ready.json", json.dumps(ready).encode())
    house.fleet.wait_for(names)
    model = ArrayRecord()
    for number in range(4):
        model[str(number)] = Array(np.full(megabytes << 16, number, np.float32))
    with flower.one_copy_arrays():
        rule = FedAvg(fraction_evaluate=0.0, min_train_nodes=members)
        rule.start(house.grid(), model, num_rounds=rounds)
    status = Path("/proc/self/status").read_text().split()
    print(json.dumps(int(status[status.index("VmHWM:") + 1]) / 1024))
    house.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
