"""`barnraise node …`: what an institution's admin sees and decides. A running daemon is told; without one
the same is done in the node's directory, and counts when the node is started.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from barnraise.cli import data, lines, site, words
from barnraise.cli.config import directory as directory_in
from barnraise.cli.sim import Json, Verbose, Yes
from barnraise.cli.site import Said
from barnraise.protocols.errors import BarnraiseError

Dir = Annotated[
    Path | None,
    typer.Option("--dir", metavar="N", parser=directory_in, help="The node's directory."),
]


def _say(*lines: str) -> None:
    from barnraise.cli.watch import say

    say(*lines)


def up(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", hidden=True)] = None,
    health: Annotated[
        str | None,
        typer.Option(
            "--health",
            metavar="[HOST:]PORT",
            help="Tell /healthz and /metrics there, in plain HTTP; on loopback, unless HOST is given.",
        ),
    ] = None,
    log_format: lines.Format = "text",
    as_json: Json = False,
    verbose: Verbose = False,
) -> Said:
    """Run this site's node until Ctrl-C. DIR is what `barnraise join` made.

    What has been begun is kept; started again, the node goes on with it.
    """
    from barnraise.client.node.daemon import run

    home = site.home_of(directory)
    lines.choose(log_format)
    _say(f"the node in {home} starts; barnraise node status --dir {shlex.quote(str(home))}")
    with _health(home, health):
        failed = run(home, loud=True, form=lines.Formatter() if lines.wanted() else None)
    why = {} if failed is None else failed.as_dict()
    return {"ok": failed is None, **why, "directory": str(home)}


def _health(home: Path, address: str | None) -> AbstractContextManager[object]:
    if address is None:
        return nullcontext()
    from barnraise.observing.node import answering

    return answering(home, address)


def status(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", hidden=True)] = None,
    given: Dir = None,
    as_json: Json = False,
) -> Said:
    """What the site does or waits for, since when, and what happens if nothing changes."""
    told = site.status(site.home_of(given or directory))
    _say(*site.lines(told))
    return told


def review(
    name: Annotated[str | None, typer.Argument(metavar="[RUN|AGREEMENT]", hidden=True)] = None,
    given: Dir = None,
    as_json: Json = False,
) -> Said:
    """Show what is to be approved: charter, members, code, and what differs from what was approved.

    Without a name, the newest that is not approved yet.
    """
    from barnraise.cli import reviewing
    from barnraise.client.node.review import review as reviewed

    home = site.home_of(given)
    one = reviewed(home, reviewing.chosen(home, name))
    _say(*reviewing.lines(one))
    return one.as_dict()


def approve(
    name: Annotated[str, typer.Argument(metavar="DIGEST", hidden=True)],
    given: Dir = None,
    as_json: Json = False,
) -> Said:
    """Sign an agreement for this site. From then on its code, and not a byte of another, may run here.

    DIGEST is what `barnraise node review` shows, or its beginning; or a run's name, where policy.toml
    wants each run approved.
    """
    from barnraise.cli import reviewing
    from barnraise.client.node import consent

    home = site.home_of(given)
    if (run := reviewing.waiting_run(home, name)) is not None:
        consent.approve_run(home, run, time.time())
        _say(f"the run {run} is approved")
        result: Said = {"ok": True, "run": run}
    else:
        proposal = consent.named(home, name)
        consent.approve(home, proposal, time.time())
        _say(f"{proposal.name} is approved and signed: {proposal.digest}")
        result = {"ok": True, "agreement": proposal.digest, "app": proposal.agreement.app}
    running = site.tell(home, "look") is not None
    if not running:
        _say("no node runs here: the signature leaves with the next `barnraise node up`")
    return result | {"running": running}


def pause(
    why: Annotated[str, typer.Option("--why", help="What the operator is told.")] = "",
    given: Dir = None,
    as_json: Json = False,
) -> Said:
    """Take up nothing new until `resume`. What was begun is finished and sent; runs go on without it."""
    from barnraise.client.node import consent

    home = site.home_of(given)
    consent.pause(home, why[:300], time.time())
    running = site.tell(home, "look") is not None
    _say("paused; barnraise node resume takes it back")
    return {"ok": True, "paused": consent.paused(home), "running": running}


def resume(given: Dir = None, as_json: Json = False) -> Said:
    """Take up work again after `pause`."""
    from barnraise.client.node import consent

    home = site.home_of(given)
    was = consent.resume(home)
    running = site.tell(home, "look") is not None
    _say("at work again" if was else "it was not paused")
    return {"ok": True, "was_paused": was, "running": running}


def drain(given: Dir = None, as_json: Json = False) -> Said:
    """Have the node finish and send what it has begun, take up nothing new, and end."""
    home = site.home_of(given)
    running = site.tell(home, "drain") is not None
    _say("the node finishes what it has begun, and ends" if running else "no node runs here")
    return {"ok": True, "running": running}


def leave(
    yes: Yes = False,
    given: Dir = None,
    as_json: Json = False,
) -> Said:
    """Leave the federation, for good. Runs go on; what this site has given stays in their models."""
    from barnraise.client.node import leaving
    from barnraise.client.node.consent import membership_of

    home = site.home_of(given)
    membership = membership_of(home)
    site.confirm(f"{membership.member} leaves {membership.federation} for good?", yes=yes)
    leaving.leave(home, datetime.now(UTC).isoformat(timespec="seconds"))
    running = site.tell(home, "look") is not None
    gone = running and _until_left(home)
    left = leaving.left(home)
    if left is not None:
        models = left.get("models") or ["none"]
        _say(f"left {membership.federation}; its work is in: {', '.join(models)}")
    else:
        _say(
            "signed; it is carried to the coordinator "
            + ("as soon as it can be reached" if running else "by the next `barnraise node up`")
        )
    return {"ok": True, "left": left, "running": running and not gone}


def _until_left(home: Path) -> bool:
    from barnraise.cli.asked import until
    from barnraise.client.node import leaving

    return until(lambda: leaving.left(home) is not None, 10.0)


def sent(
    given: Dir = None,
    since: Annotated[
        float, typer.Option("--hours", metavar="H", help="Of the last H hours. [default: all]")
    ] = 0.0,
    as_json: Json = False,
) -> Said:
    """List everything that ever left this site: when, what, digest, bytes, under which approval."""
    from barnraise.client.node.sent import FILE, listed

    home = site.home_of(given)
    rows = list(listed(home / FILE, time.time() - since * 3600 if since > 0 else 0.0))
    for row in rows:
        when = datetime.fromtimestamp(row.at).strftime("%Y-%m-%d %H:%M:%S")
        times = f" x{row.times}" if row.times > 1 else ""
        under = f" under {row.under[:19]}" if row.under else ""
        what = row.what[:19] if row.what.startswith("sha256:") else row.what
        name = f" {row.digest[:19]}" if row.digest else ""
        _say(f"{when}  {row.kind} {what}{name}  {words.size(row.bytes)}{times}{under}")
    total = sum(row.bytes for row in rows)
    _say(f"{len(rows)} in all, {words.size(total)}")
    return {"ok": True, "sent": [row.as_dict() for row in rows], "bytes": total}


# --- the policy ---------------------------------------------------------------------------------------


def policy_show(given: Dir = None, as_json: Json = False) -> Said:
    """Show policy.toml, and whether it is one."""
    from barnraise.client.node import policy_file

    home = site.home_of(given)
    path = policy_file.make(home)
    text = path.read_text(encoding="utf-8", errors="replace")
    _say(*text.splitlines())
    policy = policy_file.parse(text.encode(), path)
    return {"ok": True, "path": str(path), "digest": policy.digest, "policy": policy.model_dump()}


def policy_edit(given: Dir = None, as_json: Json = False) -> Said:
    """Edit policy.toml with $EDITOR. It is checked before it counts; a node that runs holds to it at once."""
    from barnraise.client.node import policy_file
    from barnraise.protocols import files

    home = site.home_of(given)
    path = policy_file.make(home)
    draft = path.with_name(f"{path.name}.draft")
    data = _edited((draft if draft.is_file() else path).read_bytes())
    try:
        policy = policy_file.parse(data, path)
    except BarnraiseError as error:
        with files.disk_errors(home):
            files.replace(draft, data)
        error.what = "what was written is no policy"
        error.changed = (
            f"{path} is as it was; what was written is in {draft}, where the next edit begins"
        )
        raise
    with files.disk_errors(home):
        files.replace(path, data)
        draft.unlink(missing_ok=True)
    running = site.tell(home, "look") is not None
    _say(f"{path} is in force: {policy.digest}")
    return {"ok": True, "path": str(path), "digest": policy.digest, "running": running}


def _edited(data: bytes) -> bytes:
    """What the editor leaves of the data."""
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="barnraise-") as folder:
        draft = Path(folder) / "policy.toml"
        draft.write_bytes(data)
        try:
            ended = subprocess.run([*editor, str(draft)], check=False).returncode
        except OSError as error:
            raise BarnraiseError(
                "X102", f"there is no editor {editor[0]}", str(error), next="set EDITOR to one"
            ) from None
        if ended != 0:
            raise BarnraiseError(
                "X103", "the editor gave up", f"{editor[0]} ended with {ended}", next="edit again"
            )
        return draft.read_bytes()


def verbs() -> typer.Typer:
    """`barnraise node …`."""
    app = typer.Typer(help="This site's node: run it, approve, hold back, see what left.")
    app.command("up")(up)
    app.command("status")(status)
    app.command("review")(review)
    app.command("approve", no_args_is_help=True)(approve)
    app.command("pause")(pause)
    app.command("resume")(resume)
    app.command("drain")(drain)
    app.command("leave")(leave)
    app.command("sent")(sent)
    policy = typer.Typer(help="What this site allows.", no_args_is_help=True)
    policy.command("show")(policy_show)
    policy.command("edit")(policy_edit)
    app.add_typer(policy, name="policy")
    app.add_typer(data.verbs(), name="data")
    return app
