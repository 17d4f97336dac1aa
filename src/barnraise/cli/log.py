"""`barnraise log`: a federation's log as a history, proofs of its entries, and all of it checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout; all else on stderr.")
]
Where = Annotated[
    Path, typer.Argument(metavar="[DIR]", help="A federation's directory, or a run's.")
]
HERE = Path()


def show(
    directory: Where = HERE,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="N|TIME", help="From entry N, or from that time on."),
    ] = None,
    as_json: Json = False,
) -> dict[str, Any]:
    """What happened, as a history of rounds: who enrolled, signed, was refused or late.

    With --json every entry in full.
    """
    from barnraise.cli import log_work

    return log_work.show(directory, since, as_json)


def prove(
    entry: Annotated[
        str, typer.Argument(metavar="ENTRY", help="Its index, its digest, or an order's id.")
    ],
    directory: Where = HERE,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where to write it. [default: stdout]"),
    ] = None,
    as_json: Json = False,
) -> dict[str, Any]:
    """Prove that an entry is in the log: a tlog-proof@v1, which anyone can check offline."""
    from barnraise.cli import log_work

    return log_work.prove(entry, directory, output, as_json)


def check(
    target: Annotated[
        Path, typer.Argument(metavar="[DIR|FILE]", help="A directory, or a tlog-proof.")
    ] = HERE,
    entry: Annotated[
        Path | None, typer.Option("--entry", metavar="FILE", help="The entry that a FILE proves.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="VKEY", help="The log's key, for a FILE.")
    ] = None,
    as_json: Json = False,
) -> dict[str, Any]:
    """Recompute everything in a log: hashes, signatures, rules, blobs, cosignatures.

    Or check one proof: barnraise log check FILE --entry FILE --key VKEY.
    """
    from barnraise.cli import log_work

    return log_work.check(target, entry, key)


def verbs() -> typer.Typer:
    """The verbs under `barnraise log`."""
    group = typer.Typer(no_args_is_help=True, help="Read, prove and check a federation's log.")
    group.command("show")(show)
    group.command("prove", no_args_is_help=True)(prove)
    group.command("check")(check)
    return group
