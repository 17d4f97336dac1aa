"""The operator's verbs on a federation: `found`, `serve`, `invite`, `members`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from barnraise.cli import lines
from barnraise.cli.asked import ask
from barnraise.cli.config import directory as directory_in
from barnraise.cli.sim import Json, Verbose, Yes
from barnraise.protocols.errors import BarnraiseError

if TYPE_CHECKING:
    from barnraise.coordinator import events
    from barnraise.coordinator.campaigns import Run
    from barnraise.coordinator.federation import Federation
    from barnraise.coordinator.operator import Operator

Directory = Annotated[
    Path,
    typer.Option("--dir", metavar="F", parser=directory_in, help="The federation's directory."),
]
HERE = Path()
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}


def found(
    name: Annotated[str, typer.Argument(metavar="NAME", hidden=True)],
    host: Annotated[
        str, typer.Option("--host", metavar="HOST[:PORT]", help="How members reach this machine.")
    ],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="F", parser=directory_in, help="Where. [default: NAME]"),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="ADDRESS", help="Of this machine. [default: all]"),
    ] = None,
    as_json: Json = False,
) -> dict[str, Any]:
    """Found a federation: its keys, its log, a charter to edit.

    Two ports are used: HOST's PORT (8440) for sessions, and the next one for enrolment.
    """
    from barnraise.cli.watch import say
    from barnraise.coordinator.federation import found as found_in

    root = directory or Path(name)
    said = found_in(root, name, host, listen)
    key = root / "federation" / "ca.key"
    say(
        f"{name} is founded in {root}",
        f"sessions   {said.session}",
        f"enrolment  {said.enrolment}",
        f"charter    {root / 'charter.toml'}: for you to edit",
        f"{key} may be kept elsewhere: without it all works but joining and renewing",
        f"next: barnraise serve {shlex.quote(str(root))}",
    )
    return {
        "ok": True,
        "federation": name,
        "directory": str(root),
        "session": said.session,
        "enrolment": said.enrolment,
        "authority_key": str(key),
    }


def serve(
    directory: Annotated[Path, typer.Argument(metavar="[F]", hidden=True)] = HERE,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="[HOST:]PORT",
            help="Tell /healthz and /metrics there, in plain HTTP; on loopback, unless HOST is given.",
        ),
    ] = None,
    log_format: lines.Format = "text",
    as_json: Json = False,
    verbose: Verbose = False,
) -> dict[str, Any]:
    """Serve the federation in F (default: here) until Ctrl-C; the same command again goes on.

    Members enrol and attend; a run that is open is conducted.
    """
    from barnraise import serving
    from barnraise.__main__ import execute_again
    from barnraise.cli.sizes import of_a_round
    from barnraise.observing import coordinator as observing

    lines.choose(log_format)
    beside = observing.beside(metrics)
    shown = serving.Shown(lambda f, run: _watched(f, run, verbose), _table, beside)
    try:
        told = serving.serve(directory, shown, of_a_round)
    except KeyboardInterrupt:
        return {"ok": True, "directory": str(directory), "stopped": True}
    _tell_end(told)
    return execute_again()


def _tell_end(told: dict[str, Any]) -> None:
    from barnraise.cli.watch import say
    from barnraise.coordinator.endings import after_a_stop

    if (stopped := told.get("stopped")) is not None:
        why = [f"error[{stopped['error']}] {stopped['what']}", *stopped["evidence"].splitlines()]
        say(f"the run {told['run']} has stopped", *(f"  {line}" for line in why))
        say(f"next: {after_a_stop(stopped['error'])}")
    elif told["run"] is not None:
        say(f"the run {told['run']} has ended: {told.get('model', 'aborted')}")


@contextmanager
def _watched(federation: Federation, run: Run, verbose: bool) -> Iterator[events.Watcher]:
    from barnraise.cli.watch import watched
    from barnraise.protocols.agreements import Work
    from barnraise.protocols.apps import BUILT_IN

    work = Work.of((run.root / "charter.toml").read_text(encoding="utf-8"))
    seals = work.component == BUILT_IN
    with watched(run.root, verbose, seals=seals, interrupted=False) as watcher:
        yield watcher


@contextmanager
def _table(operator: Operator) -> Iterator[Callable[[], None]]:
    """The members, drawn anew on a terminal; elsewhere one line at the start."""
    from rich.live import Live
    from rich.text import Text

    from barnraise.cli.tables import members_lines
    from barnraise.cli.watch import console, say

    told = operator.status()
    say(f"{told['federation']} is served at {told['session']} (enrolment {told['enrolment']})")
    out = console()
    if not out.is_terminal or out.is_dumb_terminal or lines.wanted():
        yield _changes(operator)
        return
    with Live(console=out, auto_refresh=False, transient=True) as live:

        def draw() -> None:
            rows = members_lines(operator.members()["members"])
            live.update(Text("\n".join(rows), no_wrap=True), refresh=True)

        yield draw


def _changes(operator: Operator) -> Callable[[], None]:
    """A line whenever a member is in another state than it was."""
    from barnraise.cli.tables import member_line
    from barnraise.cli.watch import say

    told: dict[tuple[str, str], tuple[Any, ...]] = {}

    def draw() -> None:
        for one in operator.members()["members"]:
            who = one["member"], one.get("fingerprint", "")  # a name may be revoked, and join anew
            state = (one["status"], one.get("state"), one.get("detail"))
            if told.get(who) != state:
                told[who] = state
                if lines.wanted():
                    lines.write("info", member_line(one, 0), **one)
                else:
                    say(member_line(one, 0))

    return draw


def invite(
    member: Annotated[str, typer.Argument(metavar="NAME", hidden=True)],
    organisation: Annotated[
        str, typer.Option("--org", metavar="TEXT", help="The institution, in full.")
    ] = "",
    expires: Annotated[
        str, typer.Option("--expires", metavar="72h", help="How long it is good: 30m, 72h, 7d.")
    ] = "72h",
    directory: Directory = HERE,
    as_json: Json = False,
) -> dict[str, Any]:
    """Make an invite for one institution, good once: one line, to be sent to its admin.

    NAME is the institution's short name, such as basel. Who joins with it waits until you have compared
    fingerprints with them: barnraise members confirm NAME.
    """
    from barnraise.cli.watch import say

    told = ask(
        directory, "invite", member=member, organisation=organisation, expires=_seconds(expires)
    )
    if not as_json:
        print(told["invite"])  # noqa: T201
    say(f"send this line to {organisation or member}; it is good once, for {expires}")
    say(f"there: barnraise join INVITE; then here: barnraise members confirm {member}")
    return told


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([mhd])", text)
    if found is None or int(found[1]) == 0:
        raise BarnraiseError(
            "X102", f"--expires {text!r} is no span of time", next="give 30m, 72h or 7d"
        )
    return int(found[1]) * _UNITS[found[2]]


# --- members --------------------------------------------------------------------------------------


def members(
    context: typer.Context, directory: Directory = HERE, as_json: Json = False
) -> dict[str, Any] | None:
    """Who is a member, who waits to be confirmed, and what each is doing."""
    if context.invoked_subcommand is not None:
        return None
    from barnraise.cli.tables import members_lines
    from barnraise.cli.watch import say

    told = ask(directory, "members")
    say(*(members_lines(told["members"]) or ["nobody yet", "next: barnraise invite NAME"]))
    return told


def confirm(
    member: Annotated[str, typer.Argument(metavar="NAME", hidden=True)],
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", metavar="DIGITS", help="As read aloud by the member."),
    ] = None,
    directory: Directory = HERE,
    as_json: Json = False,
) -> dict[str, Any]:
    """Admit who joined as NAME, once you have compared fingerprints with them, by telephone say."""
    from barnraise.cli.watch import say

    if fingerprint is None:
        _compare(directory, member)
    told = ask(directory, "members.confirm", member=member, fingerprint=fingerprint)
    say(f"{member} is a member")
    return told


def _compare(directory: Path, member: str) -> None:
    """Show the fingerprint, and ask; X102 where nobody can be asked."""
    from barnraise.cli.watch import say

    found = {one["member"]: one for one in ask(directory, "members")["members"]}
    here = found.get(member, {}).get("fingerprint")
    if here is None or not sys.stdin.isatty():
        if here is None:
            return
        raise BarnraiseError(
            "X102",
            "the fingerprint was not compared",
            f"the node that enrolled as {member} has {here}",
            "nobody was admitted",
            f'barnraise members confirm {member} --fingerprint "{here}", if that is what {member} reads',
        )
    say(f"the node that enrolled as {member} has the fingerprint", f"    {here}")
    if not typer.confirm("Does the member read the same?", err=True):
        raise BarnraiseError(
            "F116",
            "the fingerprints differ",
            f"here: {here}",
            "the node was not admitted",
            f"barnraise members revoke {member}",
        )


def revoke(
    member: Annotated[str, typer.Argument(metavar="NAME", hidden=True)],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="For the record.")
    ] = "revoked",
    directory: Directory = HERE,
    yes: Yes = False,
    as_json: Json = False,
) -> dict[str, Any]:
    """End a membership at once and for ever; what the member contributed before stays."""
    from barnraise.cli.site import confirm as asks
    from barnraise.cli.watch import say

    asks(f"{member} is no member any more, at once and for ever?", yes=yes)
    told = ask(directory, "members.revoke", member=member, reason=reason)
    say(f"{member} is revoked: its session is cut, and its replies are not taken any more")
    if told["models"]:
        say("its work is in:", *(f"  {line}" for line in told["models"]))
    return told


def members_verbs() -> typer.Typer:
    """The verbs under `barnraise members`."""
    group = typer.Typer(invoke_without_command=True, help="Who is in the federation.")
    group.callback()(members)
    group.command("confirm", no_args_is_help=True)(confirm)
    group.command("revoke", no_args_is_help=True)(revoke)
    return group
