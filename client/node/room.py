"""A full disk at a node: said to the site and to the coordinator's operator, and waited for.

The daemon keeps its session meanwhile; what it hears lies in its mailbox until there is room. A worker keeps
its reply, which may have taken hours, in memory until it can be written.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from barnraise.client.node.backoff import delay
from barnraise.client.node.mailbox import Mailbox
from barnraise.protocols import files
from barnraise.protocols.errors import BarnraiseError

STATE = "disk full"
WAITING = "waiting for room on a full disk"  # what a worker says that cannot write its reply
AGAIN = 1.0  # seconds until what a full disk refused is tried again
T = TypeVar("T")


class Room:
    """Owned by the daemon's main thread. `say` tells the coordinator the node's state."""

    def __init__(
        self,
        folder: Path,
        mail: Mailbox,
        stop: type,
        say: Callable[[str], None],
        log: logging.Logger,
        again: float = AGAIN,
    ) -> None:
        self._folder, self._mail, self._stop = folder, mail, stop
        self._say, self._log, self._again = say, log, again
        self.lacking = False

    def lacks(self, why: object) -> None:
        """The disk is full; said once, until there is room."""
        if not self.lacking:
            self._log.warning("the disk of %s is full; waiting for room (%s)", self._folder, why)
        self.lacking = True

    def found(self) -> None:
        """Something could be written."""
        if self.lacking:
            self._log.info("there is room on the disk of %s again", self._folder)
        self.lacking = False

    def patiently(self, act: Callable[[], T]) -> T:
        """What `act` returns, tried again while the disk is full. D104 if the node is to end meanwhile."""
        while True:
            try:
                with files.disk_errors(self._folder):
                    done = act()
            except BarnraiseError as error:
                if not files.is_full(error):
                    raise
                self.lacks(error.evidence)
                self._say(STATE)
                if self._mail.hold(self._again, self._stop):
                    raise
                continue
            self.found()
            return done


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
            if error.errno not in files.FULL:
                raise
            if failures == 1:
                sys.stderr.write(f"D104: the disk is full ({error}); the reply waits for room\n")
                sys.stderr.flush()
        say(WAITING, 0, 0)
        wait(delay(failures, 1.0))
    raise AssertionError("unreachable")
