"""Runs the unit tests' apps in processes that are to be killed.

driver.py     reads jobs (`kills.Job` as JSON, one a line) and forks a process for each: it says the
              process's id, and when that has ended, how: {"code", …what it said}

A fork costs no import, so a kill costs a tenth of a second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import apps
import numpy as np

from barnraise.builtin import charter_plan
from barnraise.client.node.sandbox import end_with_parent
from barnraise.coordinator.journal import KILL_AT, Failpoint, kill_from_environment
from barnraise.coordinator.plans import Plan
from barnraise.protocols.errors import BarnraiseError
from barnraise.testing import Federation, Run

ROUNDS = 2
SERVERS = {"fedavg": apps.server_app, "everything": apps.everything, "sealing": apps.sealing}


class Calls(list[str]):
    """The orders that handlers worked on, each written down before it is handled."""

    def __init__(self, file: int) -> None:
        super().__init__()
        self._file = file

    def append(self, order: str) -> None:
        os.write(self._file, f"{order}\n".encode())
        super().append(order)


class Campaign:
    """The built-in app: a charter of so many rounds over two members' rows, beside the directory."""

    CHARTER = """
name = "flowers"
[task]
name = "classification"
features = 4
classes = 3
hidden = [8]
[training]
steps = 2
batch = 8
lr = 0.02
[strategy]
name = "diloco"
lr = 0.9
momentum = 0.4
[rounds]
"""

    @classmethod
    def plan(cls, home: Path, rounds: int) -> Plan:
        charter = home / "charter.toml"
        charter.write_text(f"{cls.CHARTER}count = {rounds}\n")
        for i, name in enumerate(("basel", "zurich")):
            rows = np.random.default_rng(i)
            (home / "data" / name).mkdir(parents=True, exist_ok=True)
            x, y = rows.standard_normal((40, 4)), rows.integers(0, 3, 40)
            np.savez(home / "data" / name / "rows.npz", x=x, y=y)
        return charter_plan(charter, home / "data", {})


def run(
    name: str,
    directory: Path,
    calls: list[str] | None = None,
    rounds: int = ROUNDS,
    failpoint: Failpoint = kill_from_environment,
) -> Run:
    federation = Federation(members=2)
    if name == "campaign":
        plan = Campaign.plan(directory.parent, rounds)
    else:
        plan = federation.plan(SERVERS[name](), apps.client_app(calls), {"rounds": rounds})
    return federation.execute(plan, directory, failpoint=failpoint)


def perform(job: dict[str, Any]) -> dict[str, Any]:
    """What the process says of itself: the digest and how it went, or the error's code.

    `seconds` of the whole, and `resumed`: seconds of CPU until it first wrote into the journal.
    """
    os.environ[KILL_AT] = job["kill"]
    wrote: list[float] = []

    def failpoint(moment: str, index: int) -> None:
        wrote.append(time.process_time())
        kill_from_environment(moment, index)

    calls = Calls(os.open(job["calls"], os.O_WRONLY | os.O_APPEND))
    started, cpu = time.monotonic(), time.process_time()
    try:
        digest = run(job["app"], Path(job["place"]), calls, job["rounds"], failpoint).digest
    except BarnraiseError as error:
        return {"error": error.code, "text": str(error)}
    seconds = time.monotonic() - started
    return {"digest": digest, "seconds": seconds, "resumed": wrote[0] - cpu if wrote else 0.0}


def forked(job: dict[str, Any], write: int) -> None:
    """The process of one job. Never returns."""
    code = 1
    try:
        end_with_parent(signal.SIGKILL)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.write(write, json.dumps(perform(job)).encode())
        code = 0
    finally:
        os._exit(code)


def serve() -> None:
    say = partial(print, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if job["app"] == "campaign":
            import torch  # once, and not in every process

            torch.set_num_threads(1)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            forked(job, write)
        os.close(write)
        say(json.dumps({"pid": pid}))
        with os.fdopen(read, "rb") as pipe:
            told = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        say(json.dumps({"code": code, **json.loads(told or "{}")}))


if __name__ == "__main__":
    serve()
