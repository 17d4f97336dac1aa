"""Batches: the orders of one operation, and what became of each. Pure: facts in, facts out.

Knows how a batch is written into the journal and how two batches differ; nothing of fleets or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from barnraise.coordinator import events, rounds
from barnraise.coordinator.fleet import Order
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member, order_id
from barnraise.protocols.telling import code_aside

SILENT = "no reply before the batch closed"


@dataclass
class Batch:
    """The orders of one `send_and_receive` ("send") or `push_messages` ("push").

    Owned by the Grid. `orders` is in canonical order, several to one member in the app's sequence.
    `accepted` maps an order to its content's digest, `refused` to (code, reason). `recalled`: it comes
    from the journal, so its replies' bytes must be held against their digests. `gone`: the members of its
    orders that are off the roster by now.
    """

    number: int
    kind: str
    type: str
    orders: dict[str, Order]
    limit: float | None
    sent_at: float = 0.0
    sent_bytes: int = 0
    quorum_at: float | None = None
    accepted: dict[str, str] = field(default_factory=dict)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    received: int = 0
    pulled: set[str] = field(default_factory=set)
    closed: str | None = None
    void: bool = False
    recalled: bool = False
    gone: frozenset[str] = frozenset()

    @property
    def category(self) -> str:
        """`train`, `evaluate` or `query`."""
        return rounds.category_of(self.type)

    def pending(self) -> list[Order]:
        """The orders without a verdict, in canonical order."""
        judged = self.judged()
        return [o for o in self.orders.values() if o.id not in judged]

    def judged(self) -> set[str]:
        return self.accepted.keys() | self.refused.keys()

    def settled(self) -> list[str]:
        """The orders that the app may have replies to, in canonical order.

        For a batch that was pushed and has closed these are all: the silent ones answer with an error.
        """
        if self.kind == "push" and self.closed is not None:
            return list(self.orders)
        judged = self.judged()
        return [order for order in self.orders if order in judged]

    def standing(self) -> rounds.Standing:
        """What the round policy asks about."""
        return rounds.Standing(
            self.category,
            len(self.orders),
            len(self.accepted),
            len(self.refused),
            self.sent_at,
            self.quorum_at,
            self.limit,
            sum(o.member.name in self.gone for o in self.pending()) if self.gone else 0,
        )

    def digest(self) -> Any:
        """What the batch came to, for the digest of a run that names no model."""
        accepted = sorted([self.orders[o].member.name, o, c] for o, c in self.accepted.items())
        return [self.number, accepted]


@dataclass(frozen=True)
class Draft:
    """An order before it has a number: what the app asked for.

    `node_id` is set where the destination is not on the roster; `member` then only bears it as a name.
    """

    member: Member
    type: str
    group: str
    content: str
    ttl: float
    node_id: int | None = None


def number_orders(
    run: str, batch: int, drafts: Sequence[Draft], created: float = 0.0, round: int = 0
) -> list[Order]:
    """The batch's orders in the sequence of `drafts`; `n` counts identical ones (DESIGN §6)."""
    seen: dict[tuple[str, ...], int] = {}
    orders = []
    for d in drafts:
        key = (d.member.name, d.type, d.group, d.content)
        n = seen.get(key, 0)
        seen[key] = n + 1
        id_ = order_id(run, batch, *key, n)
        orders.append(Order(id_, batch, d.member, *key[1:], d.ttl, created, round))
    return orders


def in_canonical_order(orders: Sequence[Order]) -> dict[str, Order]:
    return {o.id: o for o in sorted(orders, key=lambda o: o.member)}


# --- what the journal holds of a batch -------------------------------------------------------------


def sent_body(batch: Batch) -> dict[str, Any]:
    """`batch.sent`: orders grouped by what they carry, so that different content stands out."""
    groups: dict[tuple[str, str, str, float], list[str]] = {}
    for order in batch.orders.values():
        key = (order.type, order.group, order.content, order.ttl)
        groups.setdefault(key, []).append(order.member.name)
    return {
        "batch": batch.number,
        "kind": batch.kind,
        "timeout": batch.limit,
        "orders": [
            {"type": t, "group": g, "content": c, "ttl": ttl, "members": members}
            for (t, g, c, ttl), members in groups.items()
        ],
    }


def closed_body(
    policy: rounds.Policy, batch: Batch, reason: str, aside: Mapping[str, str]
) -> dict[str, Any]:
    """`batch.closed`: the set, the reason, who was set aside and who was silent."""
    counted = {o: c for o, c in batch.accepted.items() if o not in aside}
    return {
        "batch": batch.number,
        "reason": reason,
        "accepted": counted,
        "set_aside": dict(aside),
        "absent": sorted(o.member.name for o in batch.pending()),
        "void": batch.kind == "send" and rounds.is_void(policy, batch.category, len(counted)),
    }


def close(batch: Batch, body: Mapping[str, Any]) -> None:
    """Apply a `batch.closed` to its batch: set replies aside, mark it closed."""
    for order, reason in body["set_aside"].items():
        batch.accepted.pop(order, None)
        batch.refused[order] = (code_aside(reason), reason)
    batch.closed, batch.void = body["reason"], body["void"]


# --- saying it to people -----------------------------------------------------------------------------


def describe(batch: Batch) -> str:
    """A batch in one line."""
    orders = list(batch.orders.values())
    contents = sorted({o.content[:19] for o in orders})
    types = ", ".join(sorted({o.type for o in orders}))
    members = ", ".join(o.member.name for o in orders)
    line = f"{batch.kind} {types} to {members}; content {', '.join(contents)}"
    groups = sorted({o.group for o in orders if o.group})
    return line + (f"; group {', '.join(groups)}" if groups else "")


def differences(recorded: Batch, now: Batch) -> str:
    """In what two batches differ, of the things that make an operation the same (DESIGN §6)."""
    parts = []
    if recorded.kind != now.kind:
        parts.append("send or push")
    for what, of in (
        ("destination", lambda o: o.member.name),
        ("type", lambda o: (o.member.name, o.type)),
        ("group", lambda o: (o.member.name, o.group)),
        ("content", lambda o: (o.member.name, o.content)),
    ):
        before, after = (sorted(map(of, b.orders.values())) for b in (recorded, now))
        if before != after:
            parts.append(what)
    return " and ".join(parts) or "the number of the batch"


def diverged(what: str, recorded: str, now: str, differs: str = "") -> BarnraiseError:
    """R101: the app does something else than the journal says it did."""
    return BarnraiseError(
        "R101",
        f"the app diverged from its journal at {what}",
        f"recorded: {recorded}\nnow:      {now}" + (f"\ndiffers:  {differs}" if differs else ""),
        changed="the journal is as it was; nothing was sent",
        next="make the app deterministic (no clock, no unseeded randomness, no global state), or "
        "start in a new directory",
    )


NAMED = 8  # more members than these are counted


def waiting(
    policy: rounds.Policy, batch: Batch, decision: rounds.Decision, now: float
) -> events.Waiting:
    """For whom a batch waits, since when, and what happens if nothing changes (law L10)."""
    pending = [o.member.name for o in batch.pending()]
    waited = now - batch.sent_at
    left = None if decision.until is None else decision.until - now
    names, more = tuple(pending[:NAMED]), max(0, len(pending) - NAMED)
    then = _then(policy, batch, decision)
    what = f"batch {batch.number} ({batch.type})"
    return events.Waiting(what, names, more, waited, left, then)


def _then(policy: rounds.Policy, batch: Batch, decision: rounds.Decision) -> str:
    """What happens if nothing changes."""
    if decision.until is None:
        return "nothing limits the wait"
    if not rounds.is_void(policy, batch.category, len(batch.accepted)):
        return f"({decision.then}) without them"
    lacking = (policy.quorum or 0) - len(batch.accepted)
    void = f"void unless {lacking} more are accepted: the model then stays as it is"
    return f"({decision.then}), {void}"


def closed_event(batch: Batch, seconds: float, *, replayed: bool) -> events.BatchClosed:
    names = {o: order.member.name for o, order in batch.orders.items()}
    return events.BatchClosed(
        batch.number,
        batch.type,
        tuple(names[o] for o in batch.orders if o in batch.accepted),
        {names[o]: f"{code}: {why}" for o, (code, why) in batch.refused.items()},
        {o.member.name: SILENT for o in batch.pending()},
        batch.void,
        batch.closed or "",
        batch.received,
        seconds,
        replayed,
    )


def sent_event(batch: Batch, *, replayed: bool) -> events.BatchSent:
    names = tuple(o.member.name for o in batch.orders.values())
    return events.BatchSent(batch.number, batch.type, names, batch.sent_bytes, replayed=replayed)
