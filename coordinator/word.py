"""The operator's word to a run that goes on: close the batch that is open, leave a member out, end the run.

Said in any thread; heeded in the Grid's, at its next look. `Fleet.stir` makes it look.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from barnraise.coordinator.rounds import Decision
from barnraise.protocols.errors import BarnraiseError


def aborted() -> BarnraiseError:
    return BarnraiseError(
        "F115",
        "the operator aborted the run",
        changed="what was accepted is on record; the model stays as it was",
    )


class Word:
    """Nothing was said, at first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._close = self._abort = False
        self._excluded: set[str] = set()

    def close(self) -> None:
        """Close the open batch as it stands."""
        with self._lock:
            self._close = True

    def abort(self) -> None:
        """End the run."""
        with self._lock:
            self._abort = True

    def exclude(self, member: str) -> None:
        """Leave out what this member, which was revoked, has given to a batch that is still open."""
        with self._lock:
            self._excluded.add(member)

    def excluded(self, members: Iterable[str]) -> set[str]:
        """Which of these are to be left out."""
        with self._lock:
            return self._excluded.intersection(members)

    @property
    def aborted(self) -> bool:
        with self._lock:
            return self._abort

    def check(self) -> None:
        """Raises F115 if the run is to end."""
        if self.aborted:
            raise aborted()

    def closes(self) -> bool:
        """Whether to close what is open; asked once, it is done."""
        with self._lock:
            said, self._close = self._close, False
            return said

    def heeded(self, decision: Decision) -> Decision:
        """The policy's decision, unless the operator has said otherwise. Raises F115."""
        self.check()
        if self.closes() and not decision.close:
            return Decision(True, "closed by the operator")
        return decision
