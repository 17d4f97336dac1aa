"""Joins again and again, killed each time at the next act on the node's directory, then lets it be.

    python enrol_driver.py FOLDER < INVITES

The n-th invite (a line) is joined in FOLDER/n by a child that is killed before its n-th act on the file
system there (an open, a link, a rename, an unlink), and then by one that nobody kills. Prints one JSON
line for each: `{"killed", "before", "after"}`, the directory's files in hex; ends when one was not killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from barnraise.client import enrol
from barnraise.protocols.invite import Invite

ACTS = ("open", "os.link", "os.rename", "os.remove")


def kill_before(nth: int, folder: str) -> None:
    """SIGKILL this process before its `nth` act on a path in `folder`."""
    left = nth

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in ACTS and str(arguments[0]).startswith(folder + "/"):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(hook)


def joined(node: Path, line: str, nth: int | None) -> int:
    """How a child ended that joins: 0, or the number of the signal that killed it."""
    child = os.fork()
    if child == 0:
        if nth is not None:
            kill_before(nth, str(node))
        enrol.join(node, Invite.parse(line))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(node: Path) -> dict[str, str]:
    kept = [p for p in node.iterdir() if not p.name.startswith(".")] if node.exists() else []
    return {p.name: p.read_bytes().hex() for p in kept}


def main() -> None:
    for nth, line in enumerate(sys.stdin):
        node = Path(sys.argv[1]) / str(nth)
        ended = joined(node, line, nth)
        before = contents(node)
        assert joined(node, line, None) == 0
        killed = ended == -signal.SIGKILL
        print(json.dumps({"killed": killed, "before": before, "after": contents(node)}), flush=True)
        if not killed:
            assert ended == 0
            return


main()
