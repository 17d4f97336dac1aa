"""Each member alone, beside the federation: the same charter, the same steps, nobody to average with.

Runs in processes of its own (`python -m barnraise.demo.alone DIR MEMBER …`) beside the federation. Each
member's run is a run like any other: kept, and continued. A process prints one JSON line for each round
that is over.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from barnraise.client.node.sandbox import end_with_parent
from barnraise.protocols.errors import BarnraiseError

AT_ONCE = 2  # members that train alone at the same time
EVALUATIONS = 5  # how often a member alone is measured during the run


class Alone:
    """The processes in which the members train alone. Owned by the demo; threads read their pipes."""

    def __init__(self, home: Path, told: Callable[[str, int], None]) -> None:
        members = sorted(d.name for d in (home / "data").iterdir() if d.is_dir())
        self._parts = [_Part(home, members[i::AT_ONCE], told) for i in range(AT_ONCE)]

    def wait(self) -> None:
        """Until every member is done. Raises A204 with a process's last words if it failed."""
        for part in self._parts:
            part.wait()

    def end(self) -> None:
        """Leave no process behind."""
        for part in self._parts:
            part.end()


class _Part:
    """One process, and the members that train in it one after another."""

    def __init__(self, home: Path, members: list[str], told: Callable[[str, int], None]) -> None:
        self._told = told
        self._path = home / f"alone-{members[0]}.log"
        self._log = self._path.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(home), *members],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGKILL),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            self._told(said["member"], said["round"])

    def wait(self) -> None:
        code = self._process.wait()
        self._reader.join()
        if code != 0:
            words = self._path.read_text(errors="replace").splitlines()[-8:]
            raise BarnraiseError(
                "A204",
                "a member could not train alone",
                "\n".join([f"its process ended with {code}", *words]),
                changed="the federation's own run is kept",
                next="run the same command again: it continues",
            )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._log.close()


@contextmanager
def beside(home: Path, told: Callable[[str, int], None]) -> Iterator[Alone]:
    """Inside, the members train alone in processes of their own; they are gone afterwards."""
    alone = Alone(home, told)
    try:
        yield alone
    finally:
        alone.end()


def charter_alone(text: str, rounds: int) -> str:
    """The federation's charter for a member alone: the plain mean of one, measured now and then."""
    head, _, rest = text.partition("[strategy]")
    tail = rest[rest.index("[rounds]") :]
    every = max(1, rounds // EVALUATIONS)
    return f'{head}[strategy]\nname = "fedavg"\n\n{tail}evaluate_every = {every}\n'


def main(home: Path, members: list[str]) -> None:
    """Train these members of the demo in `home` alone, one after another."""
    from barnraise.builtin import charter_plan
    from barnraise.coordinator import events
    from barnraise.coordinator.simulate import execute

    for member in members:

        def watch(event: events.Event, member: str = member) -> None:
            if isinstance(event, events.Sealed):
                print(json.dumps({"member": member, "round": event.round}), flush=True)  # noqa: T201

        plan = charter_plan(home / "alone.toml", home / "data", {}, trainers=[member])
        execute(plan, home / "alone" / member, watcher=watch)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
