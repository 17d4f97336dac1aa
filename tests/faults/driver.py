"""Run in a process that is to be killed: one of the unit tests' apps in a directory.

driver.py APP DIRECTORY     prints the digest at the end; `BARNRAISE_KILL_AT` says where it dies
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import apps

from barnraise.testing import Federation, Run

CONFIG = {"rounds": 2}
SERVERS = {"fedavg": apps.server_app, "everything": apps.everything, "sealing": apps.sealing}


def run(name: str, directory: Path | None, calls: list[str] | None = None) -> Run:
    return Federation(members=2).run(
        SERVERS[name](), apps.client_app(calls), CONFIG, directory=directory
    )


if __name__ == "__main__":
    print(run(sys.argv[1], Path(sys.argv[2])).digest)
