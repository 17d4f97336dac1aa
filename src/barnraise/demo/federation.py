"""The demo from its directory's point of view: lay it out, run it, say what it came to.

DIR/charter.toml  DIR/data/<member>/  DIR/data/<member>.data.toml  DIR/processing/
DIR/together/  DIR/alone/<member>/
DIR/model.safetensors  DIR/metrics.json  DIR/loss.svg  DIR/sample.txt
"""

from __future__ import annotations

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from barnraise.coordinator import events
from barnraise.demo import report
from barnraise.demo.alone import charter_alone
from barnraise.demo.text import lay_out
from barnraise.protocols.charter import Charter
from barnraise.protocols.errors import BarnraiseError

METRICS = "metrics.json"
_COUNT = re.compile(r"^count = \d+$", re.MULTILINE)


def prepare(home: Path, rounds: int | None) -> Charter:
    """Write the charter and the members' data, if they are not there; the charter that holds.

    Raises D101 if the directory holds a demo of another number of rounds, D105 if it holds something
    else, or cannot be written.
    """
    path = home / "charter.toml"
    if path.exists():
        charter = Charter.read(path)
        if rounds is not None and rounds != charter.rounds.count:
            raise BarnraiseError(
                "D101",
                f"{home} holds a demo of {charter.rounds.count} rounds",
                f"--rounds asks for {rounds}",
                next=f"barnraise demo --dir {home} shows or continues it; give another --dir for {rounds}",
            )
    else:
        _lay_out_charter(home, rounds)
        charter = Charter.read(path)
    lay_out(home / "data")
    return charter


def _lay_out_charter(home: Path, rounds: int | None) -> None:
    if home.is_dir() and any(home.iterdir()):
        raise BarnraiseError(
            "D101",
            f"{home} is not a demo's directory",
            "it is not empty and holds no charter.toml",
            next="give --dir an empty directory, or one that does not exist",
        )
    text = (files("barnraise.demo") / "charter.toml").read_text()
    if rounds is not None:
        text = _COUNT.sub(f"count = {rounds}", text)
    charter = Charter.parse(text)
    home.mkdir(parents=True, exist_ok=True)
    (home / "alone.toml").write_text(charter_alone(text, charter.rounds.count))
    partial = home / "charter.toml.new"
    partial.write_text(text)
    partial.rename(home / "charter.toml")


def finished(home: Path) -> dict[str, Any] | None:
    """What a finished demo came to; None if it is not finished."""
    path = home / METRICS
    if not path.is_file():
        return None
    metrics: dict[str, Any] = json.loads(path.read_text())
    return metrics


def together(home: Path, watcher: events.Watcher) -> None:
    """Train together, each member a node of its own, from where the directory stands."""
    from barnraise.builtin import charter_plan
    from barnraise.coordinator.simulate import execute
    from barnraise.processes import Processes

    plan = charter_plan(home / "charter.toml", home / "data", {})
    execute(plan, home / "together", watcher=watcher, fleets=Processes())


def conclude(home: Path) -> dict[str, Any]:
    """Both are done: write the model and the reports. `metrics.json` comes last."""
    shutil.copyfile(home / "together" / "model.safetensors", home / "model.safetensors")
    metrics = report.measured(home)
    report.write_plot(home / "loss.svg", metrics)
    report.write_sample(home)
    partial = home / f"{METRICS}.new"
    partial.write_text(json.dumps(metrics, indent=1) + "\n")
    partial.rename(home / METRICS)
    return metrics
