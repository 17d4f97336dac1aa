"""The ServerApp of `deploy/flower`: a charter on one of Flower's engines, with our journal.

Everything comes by Flower's run config; what is missing there is said before anything is touched.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from barnraise.coordinator import events
from barnraise.coordinator.flower_run import Nodes, Work, run_on
from barnraise.protocols.errors import BarnraiseError


@dataclass(frozen=True)
class Settings:
    """The run config's keys. `journal` is a directory of the machine on which the ServerApp runs."""

    charter: Path
    journal: Path
    nodes: Nodes
    seed: int | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings:
        """Raises K111."""
        journal, seed = str(config.get("journal", "")), int(config.get("seed", -1))
        if not Path(journal).is_absolute():
            raise _unset("journal", f"it is {journal!r}", "an absolute path, where the run is kept")
        if (count := int(config.get("nodes", 0))) < 1:
            raise _unset("nodes", f"it is {count}", "with how many nodes the run is opened")
        nodes = Nodes(count, float(config.get("wait", 600.0)))
        charter = _charter(str(config.get("charter", "")))
        return cls(charter, Path(journal), nodes, seed if seed >= 0 else None)


def _charter(name: str) -> Path:
    """An absolute path, or a file of the app itself, whose directory Flower puts first on Python's path."""
    for folder in ("", *sys.path):
        if name and (path := Path(folder) / name).is_file():
            return path.absolute()
    raise _unset(
        "charter", f"there is no file {name!r}", "a path, or a file in the app's directory"
    )


def _unset(key: str, evidence: str, wanted: str) -> BarnraiseError:
    return BarnraiseError(
        "K111",
        f"the Flower app's run config has no usable {key}",
        evidence,
        "nothing was started",
        f"flwr run … -c '{key}=…': {wanted}",
    )


def told(event: events.Event) -> str:
    """One line for Flower's log; "" for what is not worth one there."""
    match event:
        case events.RunOpened():
            word = "goes on" if event.resumed else "is opened"
            return f"run {event.run} of {event.app} {word} with {', '.join(event.members)}"
        case events.BatchClosed():
            counted = f"{len(event.accepted)} accepted"
            others = [f"{m}: {why}" for m, why in {**event.refused, **event.absent}.items()]
            how = "replayed" if event.replayed else f"{event.seconds:.1f} s"
            said = "; ".join([counted, *others])
            return f"batch {event.batch} ({event.type}) closed ({event.reason}, {how}): {said}"
        case events.Sealed():
            return f"round {event.round} sealed: {event.model}"
        case events.Waiting():
            return event.text
        case events.RunClosed():
            return f"the run is finished: {event.path} is {event.model}"
    return ""


def _tell(event: events.Event) -> None:
    if line := told(event):
        sys.stdout.write(f"barnraise: {line}\n")
        sys.stdout.flush()


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the charter; a run that the journal holds is continued."""
    try:
        settings = Settings.of(context.run_config)
        work = Work.of(settings.charter, settings.seed)
        run_on(grid, context.run_id, work, settings.journal, settings.nodes, _tell)
    except BarnraiseError as error:
        sys.stderr.write(f"{error}\n")
        raise
