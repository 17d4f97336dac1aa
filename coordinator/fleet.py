"""The fleet: whoever carries orders to members and brings their replies back.

`LocalFleet` runs ClientApps in this process. The Grid knows fleets by this page alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from barnraise.protocols.flower import Header
from barnraise.protocols.identity import Member

SIZE_FACTOR, SIZE_FLOOR = 4, 64 << 20
T = TypeVar("T")


def reply_cap(size: int, most: int | None = None) -> int:
    """How many bytes a reply to an order of `size` bytes may have: `most`, where the run says."""
    return most or SIZE_FACTOR * size + SIZE_FLOOR


@dataclass(frozen=True)
class Order:
    """One message to one member. `content` is the digest of its envelope, a blob in the store.

    `round` counts the run's train batches, this one included. `cap` is how many bytes a reply may have,
    envelope and blobs; 0 where nobody has said (`reply_cap` then does). Neither is part of the identity.
    """

    id: str
    batch: int
    member: Member
    type: str
    group: str
    content: str
    ttl: float
    created: float
    round: int = 0
    cap: int = 0

    def header(self, run_id: int) -> Header:
        return Header(
            run_id, self.id, self.member.node_id, self.type, self.group, self.ttl, self.created
        )


@dataclass(frozen=True)
class Delivery:
    """What a member handed in for an order. Its envelope and blobs are in the store, unsynced.

    `member` is who delivered, as the fleet knows it (never as the reply claims). `size` counts the
    envelope and the blobs in bytes; `at` is the fleet's clock. `statement` is None on unsigned fleets.
    `parts` are the digests that it brought, or had from us with an order; None where nobody said so.
    """

    order: str
    member: str
    content: str
    size: int
    statement: Mapping[str, Any] | None
    at: float
    parts: frozenset[str] | None = None


@dataclass(frozen=True)
class Receipt:
    """The coordinator's word that a verdict is on disk; only then may a node forget its reply."""

    order: str
    verdict: str
    reason: str
    entry: str


class Fleet(Protocol):
    """`signed`: whether replies must carry their member's statement."""

    signed: bool

    def roster(self) -> Sequence[Member]:
        """The members admitted to the run, in canonical order."""
        ...

    def now(self) -> float:
        """Seconds of coordinator-up time; a simulation's clock may jump."""
        ...

    def dispatch(self, orders: Sequence[Order]) -> None:
        """Send the orders. The same order again is the same order: nothing is done twice."""
        ...

    def withdraw(self, orders: Mapping[str, str]) -> None:
        """The batches of these orders (order -> member) closed without a reply to them.

        They need not be told again; a reply may still come, and is late then. The Grid says so once when
        it goes live, of what earlier processes closed, and from then on at each close.
        """
        ...

    def arrivals(self, until: float | None) -> Sequence[Delivery]:
        """The next deliveries; waits for one until `until` (None: without end).

        Empty when that has passed, or when the roster has changed.
        """
        ...

    def acknowledge(self, receipts: Sequence[Receipt]) -> None: ...

    def patiently(self, act: Callable[[], T], /) -> T:
        """Do what the record needs written; a fleet that serves others waits for room on a full disk."""
        ...

    def close(self) -> None: ...
