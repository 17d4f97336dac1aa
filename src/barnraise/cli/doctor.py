"""`barnraise doctor`: each line a check, each failure one fix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from barnraise.cli.sim import Json


def doctor(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", hidden=True)] = Path(),
    as_json: Json = False,
) -> dict[str, Any]:
    """Check what this side needs: DIR is a node's directory or a federation's (default: here).

    Exit code 1 if a check fails.
    """
    from barnraise.cli.watch import say
    from barnraise.doctor import federation, machine, node
    from barnraise.protocols.errors import BarnraiseError

    if not directory.is_dir():
        raise BarnraiseError(
            "H108",
            f"there is no directory {directory}",
            next="give a node's directory, or a federation's",
        )
    found = machine.checks(directory)
    if (directory / "federation.toml").exists():
        found += federation.checks(directory)
    elif (directory / "identity.key").exists():
        found += node.checks(directory)
    width = max(len(check.name) for check in found)
    say(*(line for check in found for line in check.lines(width)))
    failed = [check for check in found if not check.ok]
    say("all is well" if not failed else f"{len(failed)} of {len(found)} checks failed")
    return {"ok": not failed, "checks": [check.as_dict() for check in found]}
