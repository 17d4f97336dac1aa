"""The round policy: when a batch closes, and why. Pure; time is an argument (seconds, any origin).

Without a policy a batch waits for every order, or for its `timeout` or TTL, as Flower does. Quorum
binds `train` alone; grace and deadline bind `train` and `evaluate`; a `query` knows neither.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """A charter's `[rounds]`. `quorum` counts accepted replies; `grace` and `deadline` are seconds:
    after the quorum is reached, and after the batch was sent."""

    quorum: int | None = None
    grace: float | None = None
    deadline: float | None = None


@dataclass(frozen=True)
class Standing:
    """A batch as it stands: how many orders, how many accepted, how many refused, and when.

    `gone` counts the orders without an answer whose member is off the roster: nobody waits for them.
    """

    category: str
    sent: int
    accepted: int
    refused: int
    sent_at: float
    quorum_at: float | None
    limit: float | None
    gone: int = 0


@dataclass(frozen=True)
class Decision:
    """Whether to close, and why; if not, what is waited for, until when at most, and why then."""

    close: bool
    reason: str
    until: float | None = None
    then: str = ""


def category_of(message_type: str) -> str:
    """`train`, `evaluate` or `query`."""
    return message_type.partition(".")[0]


def quorum_reached(policy: Policy, standing: Standing) -> bool:
    return policy.quorum is not None and standing.accepted >= policy.quorum


def is_void(policy: Policy, category: str, accepted: int) -> bool:
    """A train batch below quorum keeps the model as it is."""
    return category == "train" and policy.quorum is not None and accepted < policy.quorum


def decide(policy: Policy, standing: Standing, now: float) -> Decision:
    """Close when all have answered, or at quorum + grace, or at the deadline, whichever is first."""
    missing = standing.sent - standing.accepted - standing.refused - standing.gone
    if missing == 0:
        return Decision(True, "all still admitted answered" if standing.gone else "all answered")
    limits: list[tuple[float, str]] = []
    if standing.limit is not None:
        limits.append((standing.sent_at + standing.limit, "timeout"))
    if standing.category != "query":
        if policy.deadline is not None:
            limits.append((standing.sent_at + policy.deadline, "deadline"))
        if policy.grace is not None and standing.quorum_at is not None:
            limits.append((standing.quorum_at + policy.grace, "quorum and grace"))
    due = min(limits, default=None)
    if due is not None and now >= due[0]:
        return Decision(True, due[1])
    until, then = due or (None, "")
    return Decision(False, f"{missing} of {standing.sent} have not answered", until, then)
