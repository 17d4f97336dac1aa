"""How a site leaves its federation: a statement that its identity key signs, kept until it has arrived.

N/leaving.json   the statement, from the moment in which the admin says so; nothing runs any more
N/left.json      the site has left: when, and which models hold its work, as the coordinator told
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from barnraise.client.keys import NodeKeys
from barnraise.client.node.consent import membership_of
from barnraise.protocols import files, statements

LEAVING, LEFT = "leaving.json", "left.json"


def leave(home: Path, at: str) -> None:
    """Say that the site leaves. `at` is the time, RFC 3339. Again is harmless. Raises N115, N116."""
    if (home / LEAVING).exists() or (home / LEFT).exists():
        return
    keys, membership = NodeKeys.open(home), membership_of(home)
    payload = {"federation": membership.federation, "member": membership.member, "at": at}
    signed = statements.sign(keys.identity, membership.member, "leave", payload)
    with files.disk_errors(home):
        files.replace(home / LEAVING, json.dumps({"at": at, "statement": signed}).encode())


def statement(home: Path) -> dict[str, Any] | None:
    """The statement that is still to be carried; None if there is none."""
    try:
        return dict(json.loads((home / LEAVING).read_bytes())["statement"])
    except FileNotFoundError:
        return None


def final(home: Path) -> bool:
    """Whether the site has said that it leaves, be it on record at the coordinator or not."""
    return (home / LEAVING).exists() or (home / LEFT).exists()


def done(home: Path, models: Sequence[str]) -> None:
    """The coordinator has it on record."""
    with files.disk_errors(home):
        said = json.loads((home / LEAVING).read_bytes())
        files.replace(home / LEFT, json.dumps({**said, "models": list(models)}).encode())
        (home / LEAVING).unlink()


def left(home: Path) -> dict[str, Any] | None:
    """When the site left, and which models hold its work; None if it has not."""
    try:
        return dict(json.loads((home / LEFT).read_bytes()))
    except FileNotFoundError:
        return None
