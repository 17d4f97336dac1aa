"""`barnraise verify`: a release held against its manifest, its log and its signatures; needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from barnraise.cli.log import Json


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A release's directory.")],
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="FILE", help="Keys that you know: a trust.toml."),
    ] = None,
    as_json: Json = False,
) -> dict[str, Any]:
    """Check every byte of a release: digests, signatures, log, witnesses; and say what it cannot know."""
    from barnraise.cli import verify_work

    return verify_work.verify(directory, policy)
