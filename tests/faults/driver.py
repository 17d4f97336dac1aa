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

from barnraise.client.node.sandbox import end_with_parent
from barnraise.coordinator.journal import KILL_AT
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


def run(name: str, directory: Path, calls: list[str] | None = None, rounds: int = ROUNDS) -> Run:
    return Federation(members=2).run(
        SERVERS[name](), apps.client_app(calls), {"rounds": rounds}, directory=directory
    )


def perform(job: dict[str, Any]) -> dict[str, Any]:
    """What the process says of itself: the digest and how it went, or the error's code."""
    place = Path(job["place"])
    calls = Calls(os.open(job["calls"], os.O_WRONLY | os.O_APPEND))
    os.environ[KILL_AT] = job["kill"]
    started = time.monotonic()
    try:
        digest = run(job["app"], place, calls, job["rounds"]).digest
    except BarnraiseError as error:
        return {"error": error.code, "text": str(error)}
    return {"digest": digest, "seconds": time.monotonic() - started}


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
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            forked(json.loads(line), write)
        os.close(write)
        say(json.dumps({"pid": pid}))
        with os.fdopen(read, "rb") as pipe:
            told = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        say(json.dumps({"code": code, **json.loads(told or "{}")}))


if __name__ == "__main__":
    serve()
