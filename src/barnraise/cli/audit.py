"""`barnraise audit`: rounds recomputed, a contribution trained again, and what would have been."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from barnraise.cli.config import overrides as overrides_in
from barnraise.cli.sim import Json, Verbose
from barnraise.protocols.errors import BarnraiseError


def audit(
    directory: Annotated[Path, typer.Argument(metavar="DIR", hidden=True)],
    number: Annotated[
        int | None, typer.Option("--round", metavar="N", min=0, help="This round alone.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every round; the default.")] = False,
    run: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Which run. [default: the last]")
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option("--identity", metavar="FILE", help="An auditor's age identity."),
    ] = None,
    member: Annotated[
        str | None,
        typer.Option("--retrain", metavar="MEMBER", help="Train its part of round N again."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="Members' data: to train, or to evaluate on."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help="Of a simulation. [default: the kept one]"),
    ] = None,
    node: Annotated[
        Path | None,
        typer.Option("--node", metavar="DIR", help="The member's own node, for its secret."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="MEMBER", help="Round N had it not contributed."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option("--with-strategy", metavar="NAME", help="Round N by another strategy."),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option("-c", metavar="KEY=VALUE", help="An option of that strategy."),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> dict[str, Any]:
    """Recompute rounds from their contributions: identical bytes, or where they differ.

    DIR is a release, the --dir of a `sim run`, or a federation's directory.
    With --retrain or --data the run's own code is executed here.
    """
    _check_use(number, every, member, data, without, strategy, config)
    from barnraise.cli import audit_work

    with audit_work.opened(directory, run, identity, verbose) as work:
        if member is not None:
            assert number is not None
            assert data is not None
            return work.retrain(member, number, data, seed, node)
        if without or strategy is not None:
            assert number is not None
            chosen = (strategy, overrides_in(config or [])) if strategy is not None else None
            return work.otherwise(number, without or [], chosen, data)
        return work.recompute(number)


def _check_use(
    number: int | None,
    every: bool,
    member: str | None,
    data: Path | None,
    without: list[str] | None,
    strategy: str | None,
    config: list[str] | None,
) -> None:
    """X102 for options that say nothing together."""
    other = bool(without) or strategy is not None
    what = None
    if every and number is not None:
        what = "--all and --round exclude each other"
    elif member is not None and other:
        what = "--retrain goes with neither --without nor --with-strategy"
    elif (member is not None or other) and number is None:
        what = "--round N says which round"
    elif member is not None and data is None:
        what = f"--data PATH says where the data of {member} are"
    elif data is not None and member is None and not other:
        what = "--data goes with --retrain, --without or --with-strategy"
    elif config and strategy is None:
        what = "-c goes with --with-strategy"
    if what is not None:
        raise BarnraiseError("X102", what, next="barnraise audit --help")
