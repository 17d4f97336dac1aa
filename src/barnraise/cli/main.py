"""The verbs under one command, and every way in which one of them can end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, TextIO

import click
import typer

from barnraise import __version__
from barnraise.cli import log, node, operator, runs, sim
from barnraise.cli.audit import audit
from barnraise.cli.backup import backup
from barnraise.cli.demo import demo
from barnraise.cli.doctor import doctor
from barnraise.cli.join import join
from barnraise.cli.release import release
from barnraise.cli.report import Report
from barnraise.cli.verify import verify
from barnraise.protocols.errors import BarnraiseError

NAME = "barnraise"
_INTERRUPTED = 130  # what Typer makes of a KeyboardInterrupt that no verb caught


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Institutions train one open model together, each on its own hardware and data, with proof."""


def command() -> click.Command:
    """The command with every verb mounted."""
    app = typer.Typer(
        name=NAME,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.command("demo", rich_help_panel="For everyone")(demo)
    app.command("doctor", rich_help_panel="For everyone")(doctor)
    app.command("join", rich_help_panel="For institutions", no_args_is_help=True)(join)
    app.add_typer(node.verbs(), name="node", rich_help_panel="For institutions")
    for verb in (operator.found, operator.serve, operator.invite):
        app.command(verb.__name__, rich_help_panel="For operators")(verb)
    app.command("backup", rich_help_panel="For operators", no_args_is_help=True)(backup)
    app.add_typer(operator.members_verbs(), name="members", rich_help_panel="For operators")
    app.add_typer(runs.verbs(), name="run", rich_help_panel="For operators")
    app.command("release", rich_help_panel="For operators", no_args_is_help=True)(release)
    app.command("audit", rich_help_panel="For auditors", no_args_is_help=True)(audit)
    app.command("verify", rich_help_panel="For auditors", no_args_is_help=True)(verify)
    app.add_typer(log.verbs(), name="log", rich_help_panel="For auditors")
    app.add_typer(sim.verbs(), name="sim", rich_help_panel="For developers")
    return typer.main.get_command(app)


def run(argv: Sequence[str], stdout: TextIO) -> int:
    """Run one command line; returns the exit code. `stdout` takes what `--json` prints."""
    report = Report.of(argv, stdout)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        result = command().main(list(argv), prog_name=NAME, standalone_mode=False)
        if result == _INTERRUPTED:
            raise KeyboardInterrupt
    except click.exceptions.NoArgsIsHelpError as error:
        return _help_alone(error)
    except click.Abort:
        return report.fail(KeyboardInterrupt())
    except click.ClickException as error:
        return report.fail(_wrong_usage(error))
    except (Exception, KeyboardInterrupt) as error:
        return report.fail(error)
    return result if isinstance(result, int) else report.succeed(result)


def _help_alone(error: click.exceptions.NoArgsIsHelpError) -> int:
    """A group's help is an answer; a verb's is not what was asked for: nothing was checked or done."""
    group = error.ctx is None or isinstance(error.ctx.command, click.Group)
    click.echo(error.format_message(), err=not group)
    return 0 if group else 2


def _wrong_usage(error: click.ClickException) -> BarnraiseError:
    """What click found wrong with the command line, as X102."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else NAME
    usage = " ".join(context.get_usage().split()) if context is not None else ""
    return BarnraiseError("X102", error.format_message(), usage, next=f"{path} --help")
