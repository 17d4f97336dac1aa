"""The roster as one app sees it: the members admitted to the run, call by call.

A change is an entry with the ordinal of the call since the last operation, so a replay shows the app the
same roster at the same call. A broken connection changes nothing here; join, pause, leave and revoke do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from barnraise.coordinator.events import Waiting
from barnraise.coordinator.runlog import Cursor
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member

UNANSWERED = 4  # identical calls in a row, nothing sent between, that are no longer sampling
ASKS = "it sends nothing until they are there; admit more, or lower its min_available_nodes"


class Roster:
    """Owned by the Grid. `names` is what the app was shown last, in canonical order."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = {m.name: m for m in members}
        self._by_node = {m.node_id: m.name for m in members}
        self.names: list[str] = []
        self._calls = 0
        self._same = 0
        self._since = 0.0

    def name_of(self, node_id: int) -> str | None:
        """The name of the member with this node id, on the roster or not."""
        return self._by_node.get(node_id)

    def holds(self, name: str | None) -> bool:
        """Whether this member may be asked; before the first call every member of the run may."""
        return name in (self.names or self.members)

    def node_ids(self) -> list[int]:
        return [self.members[name].node_id for name in self.names]

    def asked(self) -> None:
        """The app asks for the roster."""
        self._calls += 1
        self._same += 1

    def did(self) -> None:
        """An operation is complete: calls are counted anew."""
        self._calls = self._same = 0

    def show(self, names: Sequence[str]) -> None:
        self.names, self._same = list(names), 1

    def recorded(self, cursor: Cursor, operations: int) -> list[str] | None:
        """The roster that the journal holds for this very call, if it changed there."""
        entry = cursor.upcoming()
        if entry is None or entry.type != "roster.seen":
            return None
        if (entry.body["operations"], entry.body["call"]) != (operations, self._calls):
            return None
        return list(cursor.take().body["members"])

    def body(self, names: Sequence[str], operations: int) -> dict[str, Any]:
        """`roster.seen`."""
        return {"operations": operations, "call": self._calls, "members": list(names)}

    def waits(self, now: float) -> Waiting | None:
        """What is said when the app asks again and again and sends nothing: once in each wait (L10)."""
        if self._same == 1:
            self._since = now
        if self._same != UNANSWERED:
            return None
        here = f"more members than the {len(self.names)} admitted"
        return Waiting("the ServerApp", (here,), 0, now - self._since, None, ASKS)

    def check_stall(self, limit: int | None) -> None:
        """A202 at the `limit`-th identical call with no operation between."""
        if limit is None or self._same < limit:
            return
        raise BarnraiseError(
            "A202",
            f"the ServerApp waits for more members than the {len(self.names)} there are",
            f"it asked for the roster {self._same} times in a row and sent nothing: "
            + ", ".join(self.names),
            next="give more sites (--sites N), or lower the strategy's min_available_nodes",
        )
