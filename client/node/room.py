"""Waiting for room on a site's full disk, and saying so: what is in memory is kept until it can be written.

Used in the worker, whose reply may have taken hours. The daemon's own commits are tried again by its
restart (D104), for they need the disk to say anything at all.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from barnraise.client.node.backoff import delay
from barnraise.protocols.files import FULL

T = TypeVar("T")
WAITING = "waiting for room on a full disk"


def when_there_is_room(
    write: Callable[[], T],
    say: Callable[[str, int, int], None],
    wait: Callable[[float], None] = time.sleep,
) -> T:
    """What `write` returns, once the disk has room for it.

    Each time that it has none is said as progress, and once in the site's log. Whatever else `write`
    raises is raised. Waits as long as it takes: whoever wants to end it ends the process.
    """
    for failures in itertools.count(1):
        try:
            return write()
        except OSError as error:
            if error.errno not in FULL:
                raise
            if failures == 1:
                sys.stderr.write(f"D104: the disk is full ({error}); the reply waits for room\n")
                sys.stderr.flush()
        say(WAITING, 0, 0)
        wait(delay(failures, 1.0))
    raise AssertionError("unreachable")
