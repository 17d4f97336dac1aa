"""What a daemon hands to its worker: where things lie, and each order with the seed for it."""

from __future__ import annotations

from typing import Any

from barnraise.client.node.approval import Approval
from barnraise.client.node.desk import Order
from barnraise.client.node.site import Site
from barnraise.client.node.spool import Spool
from barnraise.protocols.randomness import derive


def first(approved: Approval, site: Site, spool: Spool) -> dict[str, Any]:
    """What the worker is told once."""
    return {
        "run_id": approved.run_id,
        "node_id": site.node_id,
        "node_config": dict(approved.node_config),
        "run_config": dict(approved.run_config),
        "client": approved.client,
        "code": str(approved.code),
        "stores": [str(path) for path in spool.stores()],
        "outgoing": str(spool.outgoing),
        "spares": str(spool.lent.folder),
    }


def order(one: Order, site: Site, spool: Spool) -> dict[str, Any]:
    """An order with its seed: the member's secret, from which that follows, stays in the daemon."""
    return {
        "id": one.id,
        "type": one.type,
        "group": one.group,
        "content": one.content,
        "ttl": one.ttl,
        "created": one.created,
        "seed": derive(site.secret, "order", one.id).hex(),
        "state": spool.kept.state,
        "carry": spool.kept.carry,
        "envelopes": spool.small(one.content, spool.kept.state, spool.kept.carry),
    }
