"""Whence a release is made: a federation's directory and one of its runs, or a simulation's.

It reads, also while a run goes on, and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from barnraise.coordinator.log import Log
from barnraise.coordinator.log_check import JOURNAL
from barnraise.coordinator.shelf import Shelf
from barnraise.protocols import files
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError

DESCRIPTION = "federation.toml"


@dataclass(frozen=True)
class Source:
    """`app` holds the copy of the app's code. `simulation`: whoever holds the directory stands for all."""

    root: Path
    log: Log
    shelf: Shelf
    run: str
    app: Path
    simulation: bool

    @property
    def kept(self) -> Path:
        """What is kept of this run's release, so that it can be made again."""
        return self.root / "releases" / self.run


@contextmanager
def opened(root: Path, run: str | None) -> Iterator[Source]:
    """The run called `run` (its name or its id) in `root`, by default the newest that finished.

    Raises L101, D105, D106, F113, G101.
    """
    root = root.absolute()
    with closing(Log(root / JOURNAL)) as log, closing(Shelf(root / "blobs")) as shelf:
        simulation = not (root / DESCRIPTION).exists()
        id_, app = _of_simulation(root, log) if simulation else _of_federation(root, log, run)
        if simulation and run not in (None, id_):
            raise no_such_run(run or "", [id_])
        if log.find(f"run.closed {id_}") is None:
            raise BarnraiseError(
                "G101",
                f"the run {run or id_} is not finished",
                "its log has no run.closed",
                next="let it finish: "
                + ("the same `barnraise sim run` again" if simulation else "barnraise run watch"),
            )
        yield Source(root, log, shelf, id_, app, simulation)


def no_such_run(run: str, known: list[str]) -> BarnraiseError:
    there = ", ".join(known) or "none"
    return BarnraiseError(
        "F113", f"there is no run {run!r}", f"there are: {there}", next="barnraise run list"
    )


def _of_simulation(root: Path, log: Log) -> tuple[str, Path]:
    for _, data in log.entries():
        if b'"type":"run.opened"' in data:
            return str(Entry.decode(data).body["run"]), root / "app"
    raise BarnraiseError(
        "G101",
        f"{root} holds no finished run",
        "its log has no run.opened",
        next="barnraise log show",
    )


def _of_federation(root: Path, log: Log, run: str | None) -> tuple[str, Path]:
    """By name or id; by default the last that was closed and not aborted."""
    known: dict[str, tuple[str, Path]] = {}
    for path in sorted((root / "runs").glob("*/source.json")):
        with files.disk_errors(path):
            id_ = str(json.loads(path.read_bytes())["run"])
        known[path.parent.name] = (id_, path.parent / "app")
    if run is not None:
        for name, found in known.items():
            if run in (name, found[0]):
                return found
        raise no_such_run(run, list(known))
    closed = [(log.find(f"run.closed {found[0]}"), found) for found in known.values()]
    done = [(i, found) for i, found in closed if i is not None and not _aborted(log, i)]
    if not done:
        raise BarnraiseError(
            "G101",
            f"no run of {root} is finished",
            f"its runs: {', '.join(known) or 'none'}",
            next="barnraise run list",
        )
    return max(done)[1]


def _aborted(log: Log, index: int) -> bool:
    body = Entry.decode(log.entry(index)).body
    return bool(body.get("report", {}).get("aborted"))
