"""A full disk at a node: said to the site and to the coordinator's operator, and waited for.

The daemon keeps its session meanwhile; what it hears lies in its mailbox until there is room. A worker that
cannot write its reply ends with `DISK_FULL`: that is no death, and the order is worked on again later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from barnraise.client.node.mailbox import Mailbox
from barnraise.protocols import files
from barnraise.protocols.errors import BarnraiseError

STATE = "disk full"
DISK_FULL = 78  # the exit status of a worker that could not write what it had made
AGAIN = 1.0  # seconds until what a full disk refused is tried again
T = TypeVar("T")


def is_full(error: BaseException) -> bool:
    if isinstance(error, BarnraiseError):
        return error.code == "D104"
    return isinstance(error, OSError) and error.errno in files.FULL


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
                if not is_full(error):
                    raise
                self.lacks(error.evidence)
                self._say(STATE)
                if self._mail.hold(self._again, self._stop):
                    raise
                continue
            self.found()
            return done
