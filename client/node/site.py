"""Who a node is, and what it may be told on its own machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from barnraise.client.node.witness import Witness
from barnraise.protocols.errors import BarnraiseError


@dataclass(frozen=True)
class Site:
    """Who this node is: what of the member's keys the daemon works with."""

    member: str
    node_id: int
    secret: bytes
    log_key: bytes
    sign: Callable[[Mapping[str, str]], Mapping[str, Any]]
    connect: Callable[[], grpc.Channel]
    witness: Witness


@dataclass(frozen=True)
class Stop:
    """The node is to end."""


@dataclass(frozen=True)
class Look:
    """The admin has changed something: an approval, the policy, a pause."""


def revoked(member: str, federation: str, text: str) -> BarnraiseError:
    """N105, as the coordinator told it."""
    return BarnraiseError(
        "N105",
        f"{member} is no longer a member of {federation}",
        text,
        "nothing more was sent",
        next="ask the federation's operator",
    )


def check_admitted(why: str, member: str, federation: str) -> None:
    """N105 if a session ended because the coordinator, which TLS has proved, admits this member no more."""
    if why.startswith("PERMISSION_DENIED: N201"):
        raise revoked(member, federation, why)
