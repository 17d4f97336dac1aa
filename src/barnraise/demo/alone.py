"""Each member alone, beside the federation: the same charter, the same steps, nobody to average with.

Runs in a process of its own (`python -m barnraise.demo.alone DIR`), one member after another, so that
it shares no time with the federation. Each member's run is a run like any other: kept, and continued.
It prints one JSON line for each round that is over.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from barnraise.protocols.errors import BarnraiseError

EVALUATIONS = 5  # how often a member alone is measured during the run
_PR_SET_PDEATHSIG = 1


class Alone:
    """The process in which the members train alone. Owned by the demo; its thread reads the pipe."""

    def __init__(self, home: Path, told: Callable[[str, int], None]) -> None:
        self._home, self._told = home, told
        self._log = (home / "alone.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(home)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            self._told(said["member"], said["round"])

    def wait(self) -> None:
        """Until every member is done. Raises A204 with the process's last words if it failed."""
        code = self._process.wait()
        self._reader.join()
        if code != 0:
            words = (self._home / "alone.log").read_text(errors="replace").splitlines()[-8:]
            raise BarnraiseError(
                "A204",
                "a member could not train alone",
                "\n".join([f"its process ended with {code}", *words]),
                changed="the federation's own run is kept",
                next="run the same command again: it continues",
            )

    def end(self) -> None:
        """Leave no process behind."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._log.close()


@contextmanager
def beside(home: Path, told: Callable[[str, int], None]) -> Iterator[Alone]:
    """Inside, the members train alone in a process of their own; it is gone afterwards."""
    alone = Alone(home, told)
    try:
        yield alone
    finally:
        alone.end()


def die_with_parent() -> None:
    """In a child, before it executes: it is killed when its parent dies (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def charter_alone(text: str, rounds: int) -> str:
    """The federation's charter for a member alone: the plain mean of one, measured now and then."""
    head, _, rest = text.partition("[strategy]")
    tail = rest[rest.index("[rounds]") :]
    every = max(1, rounds // EVALUATIONS)
    return f'{head}[strategy]\nname = "fedavg"\n\n{tail}evaluate_every = {every}\n'


def main(home: Path) -> None:
    """Train every member of the demo in `home` alone, one after another."""
    from barnraise.builtin import charter_plan, member_directories
    from barnraise.coordinator import events
    from barnraise.coordinator.simulate import execute

    for member in member_directories(home / "data"):

        def watch(event: events.Event, member: str = member) -> None:
            if isinstance(event, events.Sealed):
                print(json.dumps({"member": member, "round": event.round}), flush=True)  # noqa: T201

        plan = charter_plan(home / "alone.toml", home / "data", {}, trainers=[member])
        execute(plan, home / "alone" / member, watcher=watch)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
