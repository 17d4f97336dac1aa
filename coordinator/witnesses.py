"""Members who live in this process cosign the log when their run has ended; nodes do so by themselves.

So that a simulation's directory is witnessed like a federation's. The keys are the members' own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from barnraise.coordinator import events
from barnraise.coordinator.local import LocalMember
from barnraise.coordinator.log import Log
from barnraise.protocols import notes
from barnraise.protocols.notes import Checkpoint
from barnraise.protocols.witnessing import quorum


def cosign_all(
    log: Log, members: Sequence[LocalMember], wall: Callable[[], float] = time.time
) -> events.Witnessed:
    """Keep every member's cosignature of the log as it stands."""
    names = tuple(sorted(m.member.name for m in members))
    log.expect({m.member.name: m.member.public_key for m in members}, quorum(len(members)))
    size = log.size()
    root = log.root(size)
    checkpoint = Checkpoint(log.origin, size, root)
    for member in members:
        line = notes.cosign(member.key, member.member.name, checkpoint, int(wall()))
        log.keep_cosignature(size, root, member.member.name, line)
    return events.Witnessed(size, names, ())
