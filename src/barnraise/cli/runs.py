"""Runs as an operator sees them: `run plan`, `open`, `watch`, `why`, `close`, `abort`, `list`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from barnraise.cli import words
from barnraise.cli.asked import ask, until
from barnraise.cli.config import words_quoted
from barnraise.cli.operator import HERE, Directory
from barnraise.cli.sim import Json, Yes
from barnraise.protocols.errors import BarnraiseError

WAIT = 20.0  # seconds of one question that waits
OPENS = 60.0  # seconds in which `serve` begins to conduct a run that was opened
_EVERY = 0.5
_BEGINS = "it begins"

App = Annotated[
    Path | None,
    typer.Option("--app", metavar="DIR", help="A Flower app. [default: F's charter.toml]"),
]
Config = Annotated[
    list[str] | None,
    typer.Option("-c", metavar="KEY=VALUE", help="Overrides the app's config."),
]
Quorum = Annotated[
    int | None, typer.Option("--quorum", min=1, help="Of an app: members that must sign.")
]
Grace = Annotated[
    float | None, typer.Option("--grace", help="Of an app: seconds to wait after the quorum.")
]
Deadline = Annotated[
    float | None, typer.Option("--deadline", help="Of an app: seconds after which a batch closes.")
]


def _given(
    directory: Path,
    app: Path | None,
    config: list[str] | None,
    quorum: int | None,
    grace: float | None,
    deadline: float | None,
) -> dict[str, Any]:
    """What describes the run: an app with its options, or the federation's charter."""
    options = {"quorum": quorum, "grace": grace, "deadline": deadline}
    if app is not None:
        text = " ".join(words_quoted(one) for one in config or [])
        return {"app": str(app.absolute()), "config": text, **options}
    if config or any(value is not None for value in options.values()):
        raise BarnraiseError(
            "X102",
            "a charter has no options besides itself",
            "-c, --quorum, --grace and --deadline go with --app",
            next=f"write them into {directory / 'charter.toml'}",
        )
    return {"charter": str((directory / "charter.toml").absolute())}


def plan(
    app: App = None,
    config: Config = None,
    quorum: Quorum = None,
    grace: Grace = None,
    deadline: Deadline = None,
    directory: Directory = HERE,
    as_json: Json = False,
) -> dict[str, Any]:
    """Show who is ready, late or holding back, and what a round would move; nothing is started."""
    from barnraise.cli.tables import plan_lines
    from barnraise.cli.watch import say

    given = _given(directory, app, config, quorum, grace, deadline)
    told = ask(directory, "run.plan", seconds=180, offline=False, **given)
    say(*plan_lines(told))
    return told


def open_(
    app: App = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until enough members have signed.")
    ] = False,
    config: Config = None,
    quorum: Quorum = None,
    grace: Grace = None,
    deadline: Deadline = None,
    directory: Directory = HERE,
    as_json: Json = False,
) -> dict[str, Any]:
    """Open a run: of the charter in F, or of a Flower app. Members are asked first, if they were not.

    It opens once as many members have signed as the agreement demands: `barnraise node approve`, there.
    """
    from barnraise.cli.watch import say

    given = _given(directory, app, config, quorum, grace, deadline)
    told = _opened(directory, given, wait)
    if not until(lambda: _conducted(directory, told["run"]), OPENS):
        raise _not_begun(told["run"])
    say(f"the run {told['run']} is open", "next: barnraise run watch")
    return told


def _opened(directory: Path, given: dict[str, Any], wait: bool) -> dict[str, Any]:
    """The answer of `run.open`, asked again as long as only signatures are missing."""
    from barnraise.cli.watch import say

    said = ""
    while True:
        try:
            seconds = WAIT if wait else 0.0
            return ask(
                directory, "run.open", seconds=WAIT + 60, offline=False, wait=seconds, **given
            )
        except BarnraiseError as error:
            if not wait or error.code != "F110":
                raise
            if error.evidence != said:
                said = error.evidence
                say(f"waiting: {error.what}", *(f"  {line}" for line in said.splitlines()))


def _conducted(directory: Path, run: str) -> bool:
    """Whether the process that conducts the run answers, or the run has ended already."""
    told = ask(directory, "run.list", offline=True)
    found = next(one for one in told["runs"] if one["name"] == run)
    if found["state"] != "open":
        return True
    return bool(ask(directory, "status", offline=True)["run"] == run)


def _not_begun(run: str) -> BarnraiseError:
    return BarnraiseError(
        "F105",
        f"the run {run} is open, and nobody conducts it",
        "the process that was asked to begin anew is not there",
        "the run is on disk, and is conducted as soon as somebody serves",
        "barnraise serve",
    )


def _current(directory: Path, run: str | None) -> dict[str, Any]:
    """The run of this name; without one, that which is open, or else the last."""
    runs = ask(directory, "run.list")["runs"]
    if run is not None:
        found = [one for one in runs if run in (one["name"], one["run"])]
    else:
        found = [one for one in runs if one["state"] == "open"] or runs[-1:]
    if not found:
        raise BarnraiseError(
            "F113",
            f"there is no run {run!r}" if run else "there is no run yet",
            f"there are: {', '.join(one['name'] for one in runs) or 'none'}",
            next="barnraise run list" if runs else "barnraise run open",
        )
    return dict(found[-1])


Name = Annotated[str | None, typer.Argument(metavar="[RUN]", hidden=True)]


def watch(run: Name = None, directory: Directory = HERE, as_json: Json = False) -> dict[str, Any]:
    """Follow a run until it ends: a line whenever something is different, a live table on a terminal."""
    from rich.live import Live
    from rich.text import Text

    from barnraise.cli import status
    from barnraise.cli.watch import console, say

    name, out = _current(directory, run)["name"], console()
    live = Live(console=out, auto_refresh=False, transient=True) if out.is_terminal else None
    said = ""
    try:
        if live is not None:
            live.start()
        while (one := _current(directory, name))["state"] == "open":
            told = _told(Path(one["directory"]))
            if live is not None:
                text = "\n".join(status.lines(told)) if told else _BEGINS
                live.update(Text(text), refresh=True)
            elif (line := status.line(told) if told else _BEGINS) != said:
                said = line
                say(line)
            threading.Event().wait(_EVERY)
    finally:
        if live is not None:
            live.stop()
    from barnraise.cli.tables import run_line

    say(run_line(one))
    if one["error"]:
        raise _stopped(one)
    return {"ok": True, **one}


def _stopped(one: dict[str, Any]) -> BarnraiseError:
    said = one["error"]
    return BarnraiseError(
        said["error"], said["what"], said["evidence"], said["changed"], said["next"]
    )


def _told(root: Path) -> dict[str, Any] | None:
    """What an open run said of itself, and whether its federation is served; None before it has."""
    from barnraise.cli.status import read

    try:
        return read(root, root.parents[1] / "lock")
    except BarnraiseError:
        return None


def why(run: Name = None, directory: Directory = HERE, as_json: Json = False) -> dict[str, Any]:
    """Say in one sentence what a run waits for, since when, and what happens if nothing changes."""
    from barnraise.cli.watch import say

    one = _current(directory, run)
    sentence = _why(directory, one)
    say(sentence)
    return {"ok": True, "run": one["name"], "state": one["state"], "why": sentence}


def _why(directory: Path, one: dict[str, Any]) -> str:
    from barnraise.coordinator.endings import after_a_stop

    if one["error"]:
        stopped = one["error"]
        return f"{one['name']} stopped: {stopped['what']}; {after_a_stop(stopped['error'])}"
    if one["state"] != "open":
        return f"{one['name']} is {one['state']}"
    if ask(directory, "status")["run"] != one["name"]:
        return f"{one['name']} waits for `barnraise serve`, which is not running"
    if (told := _told(Path(one["directory"]))) is None:
        return f"{one['name']} begins"
    if told["waiting"]:
        return str(told["waiting"])
    batch = told["batch"]
    if batch is None:
        return f"{one['name']} waits for nobody: its app is at work on the coordinator"
    busy = [
        f"{name} {said['state']}"
        for name, said in told["members"].items()
        if name in batch["asked"] and name not in batch["answered"]
    ]
    spent = words.duration(batch["seconds"] + told["age"])
    return f"batch {batch['number']} ({batch['type']}) is out since {spent}: {', '.join(busy)}"


def close(directory: Directory = HERE, as_json: Json = False) -> dict[str, Any]:
    """End the current batch now: it closes with the replies that are in."""
    from barnraise.cli.watch import say

    told = ask(directory, "run.close", offline=False)
    say(f"the open batch of {told['run']} closes as it stands")
    return told


def abort(
    run: Name = None, directory: Directory = HERE, yes: Yes = False, as_json: Json = False
) -> dict[str, Any]:
    """End a run without a result: its last sealed model stays what it was."""
    from barnraise.cli.site import confirm
    from barnraise.cli.watch import say

    one = _current(directory, run)
    if one["state"] == "open":
        confirm(f"the run {one['name']} ends for good, without a result?", yes=yes)
    told = ask(directory, "run.abort", run=run)
    name = told["run"]
    if not until(lambda: _current(directory, name)["state"] != "open", OPENS):
        raise BarnraiseError(
            "F115",
            f"{name} was told to end, and has not yet",
            "its app is at work, and hears of it at its next call",
            "nothing more is sent",
            "barnraise run why",
        )
    say(f"the run {name} is aborted; the model is as it was last sealed")
    return told


def list_(directory: Directory = HERE, as_json: Json = False) -> dict[str, Any]:
    """Every run, and how it stands."""
    from barnraise.cli.tables import run_line
    from barnraise.cli.watch import say

    told = ask(directory, "run.list")
    say(*([run_line(one) for one in told["runs"]] or ["no run yet", "next: barnraise run open"]))
    return told


def verbs() -> typer.Typer:
    """The verbs under `barnraise run`."""
    group = typer.Typer(no_args_is_help=True, help="Open, follow and end a federation's runs.")
    group.command("plan")(plan)
    group.command("open")(open_)
    group.command("watch")(watch)
    group.command("why")(why)
    group.command("close")(close)
    group.command("abort")(abort)
    group.command("list")(list_)
    return group
