"""`barnraise backup`: a federation's directory copied while it is served."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from barnraise.cli.operator import HERE, Directory
from barnraise.cli.sim import Json


def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT", hidden=True)],
    directory: Directory = HERE,
    as_json: Json = False,
) -> dict[str, Any]:
    """Copy the federation to OUT, a new directory, also while it is served: log, blobs, runs and keys.

    On the same file system blobs are linked and take no room. Whoever has OUT has the federation's keys.
    """
    from barnraise.cli import words
    from barnraise.cli.watch import say
    from barnraise.coordinator.backup import back_up

    done = back_up(directory, out)
    say(
        f"{done.federation} is copied to {out}: {words.count(done.entries, 'log entry')}",
        f"{words.count(done.linked, 'blob')} linked, {words.size(done.copied)} copied besides",
        "it holds the federation's keys: keep it as secret as they are",
        f"next: barnraise log check {shlex.quote(str(out))}",
    )
    return {
        "ok": True,
        "federation": done.federation,
        "directory": str(out),
        "entries": done.entries,
        "root": done.root,
        "linked": done.linked,
        "copied_bytes": done.copied,
    }
