"""`barnraise sim`: any Flower app, or a charter, as a federation in this process."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from barnraise.cli import words
from barnraise.cli.config import directory as directory_in
from barnraise.cli.config import overrides as overrides_in
from barnraise.protocols.errors import BarnraiseError

if TYPE_CHECKING:
    from flwr.app import UserConfig

    from barnraise.coordinator.plans import Plan
    from barnraise.coordinator.simulate import Fleets, Outcome

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout; all else on stderr.")
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Show Flower's log, and tracebacks of errors.")
]


def run(
    app: Annotated[Path, typer.Argument(metavar="APP", hidden=True)],
    sites: Annotated[
        int | None, typer.Option("--sites", metavar="N", help="How many members, for an app.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Each member's data, for a charter."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="D", parser=directory_in, help="Where the run is kept."),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "-c", metavar="KEY=VALUE", help="Overrides the app's config; also Flower's 'a=1 b=2'."
        ),
    ] = None,
    processes: Annotated[
        bool,
        typer.Option("--processes", help="Each member a node of its own, over mutual TLS."),
    ] = False,
    port: Annotated[
        int, typer.Option("--port", metavar="P", help="Of the session port. [default: a free one]")
    ] = 0,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Decides every key and random number.")
    ] = 0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> dict[str, Any]:
    """Run a federation on this machine: any Flower app, or a charter.

    APP is a Flower app's directory, with --sites N members;
    or a charter (.toml), whose members are the sub-directories of --data.
    With --dir, the same command again continues a run that was cut short.
    """
    charter = app.is_file() or (app.suffix == ".toml" and not app.is_dir())
    _check_use(app, sites, data, charter)
    from barnraise.cli.watch import watched
    from barnraise.coordinator.simulate import execute

    with watched(directory, verbose, seals=charter) as watcher:
        plan = _plan(app, sites, data, overrides_in(config or []), seed)
        fleets = _processes(port) if processes else None
        outcome = execute(plan, directory, watcher=watcher, fleets=fleets)
    tell(outcome)
    return outcome.as_dict()


def _plan(
    app: Path, sites: int | None, data: Path | None, overrides: UserConfig, seed: int
) -> Plan:
    if data is not None:
        from barnraise.builtin import charter_plan, member_directories
        from barnraise.cli.watch import say
        from barnraise.protocols.charter import Charter

        plan = charter_plan(app, data, overrides, seed)
        if Charter.parse(str(plan.config["charter"])).task.own is None:  # others read as they like
            for member in member_directories(data).values():
                say(*links_left_out(member))
        return plan
    from barnraise.coordinator.plans import app_plan
    from barnraise.protocols.identity import site_names

    assert sites is not None
    return app_plan(app, site_names(sites), overrides, seed)


def links_left_out(directory: Path) -> list[str]:
    """A line if there are any: they lead to what is not in the directory, and nothing is read of them."""
    from barnraise.client.datafiles import left_out

    links = left_out(directory)
    return (
        [f"{directory}: {words.count(links, 'link')} left out, for no link is followed"]
        if links
        else []
    )


def _processes(port: int) -> Fleets:
    from barnraise.processes import Processes

    return Processes(port)


def status(
    directory: Annotated[Path, typer.Argument(metavar="D", hidden=True)],
    as_json: Json = False,
) -> dict[str, Any]:
    """What is going on in the run in D, which another process is running: who is doing what.

    With --json the same as data.
    """
    from barnraise.cli.status import lines, read
    from barnraise.cli.watch import say

    told = read(directory)
    say(*lines(told))
    return told


def replay(
    directory: Annotated[Path, typer.Argument(metavar="D", hidden=True)],
    as_json: Json = False,
    verbose: Verbose = False,
) -> dict[str, Any]:
    """Run a finished run's ServerApp again, with no client: the same model must come out.

    D is the --dir of a finished `barnraise sim run`.
    """
    from barnraise.cli.watch import say, watched

    with watched(directory, verbose, replays=True) as watcher:
        from barnraise.coordinator.simulate import replay as replay_run

        outcome = replay_run(directory, watcher=watcher)
    say(
        f"the same result, in {words.duration(outcome.seconds)}",
        f"digest  {outcome.model}",
    )
    return outcome.as_dict()


def _check_use(app: Path, sites: int | None, data: Path | None, charter: bool) -> None:
    """X102 unless an app comes with --sites and a charter with --data; A101 if it is neither."""
    if app.name == "pyproject.toml":
        raise BarnraiseError(
            "X102",
            f"{app} is not a charter; it describes the app in its directory",
            "an app is given by its directory",
            next=f"barnraise sim run {shlex.quote(str(app.parent))} --sites {sites or 4}",
        )
    fits = (sites is None and data is not None) if charter else (data is None and sites is not None)
    if not fits and not app.exists():
        raise BarnraiseError(
            "A101",
            f"there is no {app}",
            f"it would be looked for at {app.absolute()}",
            next="give the directory of a Flower app, with --sites N, or a charter, with --data DIR",
        )
    if charter and not fits:
        raise BarnraiseError(
            "X102",
            f"{app} is a charter: it takes --data, and no --sites",
            "each sub-directory of --data is one member's data",
            next=f"barnraise sim run {shlex.quote(str(app))} --data {_path(data)}",
        )
    if not fits:
        raise BarnraiseError(
            "X102",
            f"{app} is an app: it takes --sites, and no --data",
            "--sites says how many members to simulate; an app finds its data by itself",
            next=f"barnraise sim run {shlex.quote(str(app))} --sites {sites or 4}",
        )
    if sites is not None and sites < 1:
        raise BarnraiseError(
            "X102", f"{sites} sites are no federation", next="give --sites N, N ≥ 1"
        )


def _path(data: Path | None) -> str:
    return shlex.quote(str(data)) if data is not None else "DIR"


def tell(outcome: Outcome) -> None:
    """How the run ended, where its model is, and what to do next."""
    from barnraise.cli.watch import say

    directory = outcome.directory
    if outcome.finished_before:
        first = f"{directory} was finished before: {_batches(outcome)}, nothing was run again"
    else:
        first = f"finished in {words.duration(outcome.seconds)} · {_batches(outcome)}"
    lines = [first, f"digest  {outcome.model}"]
    if directory is None:
        lines.append("model   not kept: the run had no --dir")
        lines.append("next: the same command with --dir D keeps the run and its model")
    else:
        model = directory / "model.safetensors"
        lines.append(f"model   {model if outcome.named else 'none: the app named no model'}")
        if (directory / "logs").is_dir():
            lines.append(f"logs    {directory / 'logs'}: what went wrong at members, in full")
        lines.append(f"next: barnraise sim replay {shlex.quote(str(directory))}")
    if outcome.fault is not None:
        lines.insert(1, f"WARNING: {outcome.fault}: it is of no use")
    say(*lines)


def _batches(outcome: Outcome) -> str:
    members = words.count(len(outcome.members), "member")
    return f"{words.count(outcome.batches, 'batch')}, {members}"


def verbs() -> typer.Typer:
    """The verbs under `barnraise sim`."""
    group = typer.Typer(no_args_is_help=True, help="Simulate a federation in this process.")
    group.command("run", no_args_is_help=True)(run)
    group.command("replay", no_args_is_help=True)(replay)
    group.command("status", no_args_is_help=True)(status)
    return group
