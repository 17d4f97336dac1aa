"""`barnraise join`: an institution's node comes by its keys and its certificate."""

from __future__ import annotations

import random
import shlex
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from barnraise.cli.config import directory as directory_in
from barnraise.cli.sim import Json
from barnraise.protocols.errors import BarnraiseError

LONGEST = 3.0  # seconds between two questions whether the operator has confirmed


def join(
    invite: Annotated[str, typer.Argument(metavar="INVITE", hidden=True)],
    directory: Annotated[
        Path,
        typer.Option("--dir", metavar="N", parser=directory_in, help="Where the node is kept."),
    ] = Path("barnraise-node"),
    as_json: Json = False,
) -> dict[str, Any]:
    """Join a federation: make this site's keys, here, and get a certificate.

    INVITE is the line that the federation's operator sent, or a file that holds it. The keys never leave
    N. Read the fingerprint aloud to the operator, who admits this site if it is the same there.
    """
    from barnraise.cli.watch import say
    from barnraise.client.keys import Membership, NodeKeys
    from barnraise.client.node import policy_file
    from barnraise.protocols.invite import Invite, spoken

    parsed = Invite.parse(_line(invite))
    if (directory / "federation.toml").exists():
        raise BarnraiseError(
            "D101",
            f"{directory} is in use for something else than a node",
            "it holds the federation itself",
            next="give a directory that is empty, or does not exist",
        )
    keys = NodeKeys.open(directory)
    fingerprint = spoken(keys.public_key, parsed.log_key)
    new = Membership.read(directory) is None
    if new:
        say(
            f"{parsed.member} joins {parsed.federation}; read this to its operator:",
            f"    {fingerprint}",
        )
    _enrol(directory, parsed)
    policy_file.make(directory)
    say(
        f"{parsed.member} is a member of {parsed.federation}; its node is in {directory}",
        f"next: barnraise node up {shlex.quote(str(directory))}",
    )
    return {
        "ok": True,
        "federation": parsed.federation,
        "member": parsed.member,
        "fingerprint": fingerprint,
        "directory": str(directory),
        "new": new,
    }


def _line(text: str) -> str:
    """The invite itself, or what the file of this name holds."""
    if text.startswith("barnraise1_"):
        return text
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BarnraiseError(
            "N101",
            "the invite cannot be used",
            f"it does not begin with 'barnraise1_', and as a file it cannot be read: {why}",
            next="give the whole line that the operator sent, or the path of the file that holds it",
        ) from None


def _enrol(directory: Path, invite: Any) -> None:
    """Enrol; while the operator has not confirmed the fingerprint, ask again."""
    from barnraise.cli.watch import say
    from barnraise.client import enrol

    started, told = time.monotonic(), False
    while True:
        try:
            enrol.join(directory, invite)
            return
        except BarnraiseError as error:
            if error.code != "N120":
                raise
        if not told:
            told = True
            say("waiting for the operator to confirm it; Ctrl-C loses nothing: join again")
        waited = time.monotonic() - started
        threading.Event().wait(min(LONGEST, 0.2 + waited / 10) * (0.8 + random.random() / 5))
