"""`barnraise release`: a finished run as a directory that anyone can check."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from barnraise.cli.operator import HERE, Directory
from barnraise.cli.sim import Json
from barnraise.protocols.errors import BarnraiseError

if TYPE_CHECKING:
    from barnraise.coordinator.release.make import Released
    from barnraise.coordinator.release.publish import Publisher
    from barnraise.coordinator.release.source import Source
    from barnraise.protocols.release import Manifest

WITNESSED = 60.0  # seconds in which a quorum of nodes must have cosigned


def release(
    out: Annotated[Path, typer.Argument(metavar="OUT", hidden=True)],
    directory: Directory = HERE,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="NAME", help="Which run. [default: the last finished]"),
    ] = None,
    comparison: Annotated[
        Path | None,
        typer.Option("--comparison", metavar="FILE", help="Together against alone, as JSON."),
    ] = None,
    as_json: Json = False,
) -> dict[str, Any]:
    """Write a finished run's release to the new directory OUT: model, charter, log, proof, documents.

    --dir is a federation's directory, or that of a `sim run`. The release waits until a quorum of members
    has cosigned it; a federation must be served for that.
    """
    from barnraise.coordinator.release import source as sources

    compared = _comparison(comparison)
    with sources.opened(directory, run) as source:
        done = write(source, out, publisher(source), compared)
    _tell(done)
    return {
        "ok": True,
        "directory": str(done.root),
        "federation": done.manifest.federation,
        "run": done.manifest.run,
        "manifest": done.manifest.digest,
        "model": done.manifest.model,
        "contributions": done.manifest.contributions,
        "files": len(done.manifest.files),
        "log": done.manifest.log,
        "signed": bool(done.manifest.signer),
    }


def write(
    source: Source,
    out: Path,
    publisher: Callable[[Mapping[str, Any]], Publisher],
    comparison: Mapping[str, Any] | None,
) -> Released:
    """Write it, with a bar on a terminal."""
    from barnraise.coordinator.release.make import make
    from barnraise.protocols.files import disk_errors

    with disk_errors(out), _bar("writing") as told:
        return make(source, out, publisher, comparison=comparison, told=told)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar in bytes, on a terminal alone."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from barnraise.cli.watch import console

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(
        *columns, console=console(), transient=True, disable=not console().is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def publisher(source: Source) -> Callable[[Mapping[str, Any]], Publisher]:
    """How this directory's releases come into the log."""
    from barnraise.coordinator.release.publish import in_simulation

    def of(opened: Mapping[str, Any]) -> Publisher:
        return in_simulation(source, opened) if source.simulation else _by_server(source)

    return of


def _by_server(source: Source) -> Publisher:
    """Whoever serves the federation appends, and asks the members that attend to cosign."""
    from barnraise.cli.asked import ask
    from barnraise.cli.watch import say
    from barnraise.coordinator.release.publish import body_of

    def publish(manifest: Manifest) -> bytes:
        say(_waits(ask(source.root, "members")["members"]))
        said = {"run": manifest.run, "patience": WITNESSED, **body_of(manifest)}
        try:
            answer = ask(
                source.root, "release.publish", seconds=WITNESSED + 30, offline=False, **said
            )
        except KeyboardInterrupt:
            raise BarnraiseError(
                "X103",
                "interrupted while members cosign",
                changed="the log names the release, which nobody can take back; OUT was not written",
                next="the same command again: it goes on with what is cosigned by then",
            ) from None
        return base64.b64decode(answer["checkpoint"])

    return publish


def _waits(members: Sequence[Mapping[str, Any]]) -> str:
    """For whom a release waits, how long, and what happens then."""
    there = [one["member"] for one in members if one.get("state", "absent") != "absent"]
    absent = [one["member"] for one in members if one["status"] == "member"]
    absent = [name for name in absent if name not in there]
    return (
        f"waits {WITNESSED:.0f} s at most for a quorum of the run's members to cosign it, and ends with G104"
        f" without; attending: {', '.join(there) or 'nobody'}; absent: {', '.join(absent) or 'nobody'}"
    )


def _comparison(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict) or not {"together", "alone"} <= found.keys():
            raise ValueError("it is no object with together and alone")
    except (OSError, ValueError) as error:
        raise BarnraiseError(
            "X102",
            f"--comparison {path} cannot be used",
            str(error),
            next="give what `barnraise demo` writes as metrics.json, or leave it out",
        ) from None
    return found


def _tell(done: Released) -> None:
    from barnraise.cli import words
    from barnraise.cli.watch import say
    from barnraise.protocols import notes

    made = done.manifest
    lines = notes.open_checkpoint(done.checkpoint, made.log).lines
    size = sum(size for size, _ in made.files.values())
    say(
        f"{done.facts.title}: {words.count(len(made.files), 'file')}, {words.size(size)}, in {done.root}",
        f"model          {made.model}",
        f"contributions  {made.contributions}: {MEANING[made.contributions]}",
        f"cosigned by    {', '.join(map(notes.line_name, lines))}",
        f"log key        {made.log}",
    )
    if not made.signer:
        say("model.sig was not made: it needs `pip install 'barnraise[release]'`")
    say(f"next: barnraise verify {shlex.quote(str(done.root))}")


MEANING = {
    "open": "anyone can recompute every round",
    "auditors": "those whom the charter names can recompute every round",
    "sealed": "nobody else can recompute the rounds",
}
