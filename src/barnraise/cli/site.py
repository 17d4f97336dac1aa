"""How things stand at a site: asked of the daemon if one runs, else read from the node's directory."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import typer

from barnraise.cli import words
from barnraise.cli.asked import asked
from barnraise.protocols.errors import BarnraiseError

HERE, USUAL = Path(), Path("barnraise-node")
PATIENCE = 5.0  # seconds until a daemon that does not answer is said not to
Said = dict[str, Any]


def home_of(given: Path | None) -> Path:
    """The node's directory: the one given, else this one if it is a node's, else `barnraise-node` here.

    Raises N302.
    """
    home = given or (HERE if (HERE / "identity.key").exists() else USUAL)
    if not (home / "identity.key").exists():
        raise BarnraiseError(
            "N302",
            f"{home} is no node's directory",
            "it has no identity.key" if home.is_dir() else "there is no such directory",
            next="give the --dir that `barnraise join` made",
        )
    return home.absolute()


def tell(home: Path, verb: str) -> Said | None:
    """Ask a running daemon; None if none runs here."""
    answer: Said | None = asked(home, "node", verb, {}, PATIENCE)
    return answer


def status(home: Path) -> Said:
    """Everything that `node status` shows."""
    from barnraise.client.data import kept
    from barnraise.client.keys import Membership
    from barnraise.client.node import consent, leaving

    membership = Membership.read(home)
    nobody = {"running": False, "coordinator": {"asked": [], "signed": {}, "trouble": ""}}
    now = tell(home, "status") or nobody
    approved = consent.consents(home)
    told = {
        "ok": True,
        "directory": str(home),
        "member": membership.member if membership else "",
        "federation": membership.federation if membership else "",
        "coordinator_address": membership.session if membership else "",
        **now,
        "paused": consent.paused(home),
        "proposals": [
            {
                "agreement": one.digest,
                "name": one.name,
                "adopted": one.adopted,
                "approved": one.digest in approved,
            }
            for one in consent.proposals(home)
        ],
        "left": leaving.left(home),
        "data": kept.as_dict(home),
        "used": _used(home),
        "policy": _policy(home),
    }
    return told | {"waits": waits(told, time.time())}


def _policy(home: Path) -> Said:
    from barnraise.client.node import policy_file

    try:
        held = policy_file.read(home)
    except BarnraiseError as error:
        return {"digest": None, "fault": error.evidence}
    return {"digest": held.digest if held else None, "fault": ""}


def _used(home: Path) -> Said:
    """What was used since midnight."""
    from barnraise.client.node.sent import FILE, used_since

    now = datetime.now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    spent = used_since(home / FILE, f"{now:%Y-%m-%d}", midnight.timestamp())
    return {
        "rounds": spent.rounds,
        "processor_seconds": round(spent.processor, 1),
        "gpu_seconds": round(spent.gpu, 1),
        "bytes_out": spent.out,
    }


# --- sentences ----------------------------------------------------------------------------------------


def waits(told: Said, now: float) -> str:
    """For what the site waits, since when, and what happens if nothing changes. One sentence or two."""
    if told["left"]:
        return f"this site left the federation at {told['left'].get('at', '?')}"
    if not told["member"]:
        return "no certificate was given yet: `barnraise join` again, once the operator has confirmed it"
    if not told["running"]:
        return "no node runs here: nothing is learned, worked on or sent until `barnraise node up`"
    for refusal in told.get("refused", {}).values():
        return f"a run is refused, and goes on without this site: {refusal}"
    since = words.duration(max(0.0, now - told.get("since", now)))
    if told.get("held"):
        return f"held back for {since}: {told['held']}; runs go on without this site meanwhile"
    if not told.get("connected"):
        why = f" ({told['cut']})" if told.get("cut") else ""
        return (
            f"not connected to {told['coordinator_address']}{why}; "
            "it is tried again until it is there, and what is ready is kept"
        )
    if told["run"]:
        number = f" of round {told['round']}" if told.get("round") else ""
        return f"at work for the run {told['run']}: {told['state']}{number} for {since}"
    return _idle(told, since)


def _idle(told: Said, since: str) -> str:
    open_ = [one for one in told["proposals"] if not one["approved"]]
    current = {one["agreement"] for one in told["coordinator"]["asked"]}
    asked_ = [one for one in open_ if one["agreement"] in current]
    if asked_:
        one = asked_[-1]
        return (
            f"{one['name']} waits for this site's approval since {one['adopted']}: until then this site "
            f"has no part in it; barnraise node review {one['agreement'][:19]}"
        )
    return (
        f"idle for {since}: no run is open under what this site approved; the node begins by itself "
        "when one is"
    )


def lines(told: Said) -> list[str]:
    """`node status` for a person."""
    used = told["used"]
    who = f"{told['member']} in {told['federation']}" if told["member"] else "of no federation yet"
    head = f"{who} · {'running' if told['running'] else 'not running'}"
    rows = [head, f"  {told['waits']}"]
    for one in told["proposals"]:
        counts = told["coordinator"]["signed"].get(one["agreement"])
        signed = f", signed by {counts[0]}; {counts[1]} must" if counts else ""
        state = "approved" if one["approved"] else "not approved"
        rows.append(f"  {one['name']} {one['agreement'][:19]}… {state}{signed}")
    for one in told["coordinator"]["asked"]:
        if one["fault"]:
            rows.append(f"  {one['name']}: not looked at: {one['fault']}")
    if told["coordinator"]["trouble"]:
        rows.append(f"  proposals: {told['coordinator']['trouble'].splitlines()[0]}")
    if (data := told.get("data")) is not None:
        kind = "open" if data["open"] else "private"
        there = "on record" if data["told"] else "signed, to be carried"
        count = words.count(data["records"], "record")
        rows.append(f"  data {there}: {count}, {kind}, {data['document'][:19]}…")
    for what, why in (told.get("hindered") or {}).items():
        if why:
            rows.append(f"  the code's {what} is not apart from this machine's: {why}")
    if told.get("tries"):
        rows.append(f"  {words.count(told['tries'], 'try')} of the code to get at what it may not")
    rows.append(
        f"  today: {words.count(used['rounds'], 'round')}, {used['processor_seconds'] / 3600:.1f} processor "
        f"hours, {words.size(used['bytes_out'])} out"
    )
    if told["policy"]["fault"]:
        rows.append(f"  policy.toml: {told['policy']['fault'].splitlines()[0]}")
    return rows


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person, unless `--yes` was given; X102 where nobody answers."""
    if yes:
        return
    try:
        agreed = typer.confirm(question)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise BarnraiseError(
            "X102",
            "this asks before it acts, and nobody answered",
            question,
            next="the same command with --yes, once you have read what it shows",
        ) from None
    if not agreed:
        raise click.Abort
