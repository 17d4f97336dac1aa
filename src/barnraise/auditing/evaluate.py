"""A model evaluated on every member's held-out data at hand, and the mean, as the federation takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from barnraise.auditing.handlers import Handlers, elsewhere
from barnraise.builtin import member_directories
from barnraise.client.app import ARRAYS, CONFIG, METRICS, WEIGHT
from barnraise.coordinator.audit.audit import Audit
from barnraise.coordinator.campaign import plain
from barnraise.coordinator.fleet import Order
from barnraise.protocols.identity import Member
from barnraise.strategies.replies import mean_metrics


@dataclass(frozen=True)
class Evaluated:
    """The mean over those members, weighted by their examples, and each member's own."""

    mean: Mapping[str, Any]
    members: Mapping[str, Mapping[str, Any]]


class Evaluator:
    """Evaluates on the data of the run's members under `data`. Raises D201, U110."""

    def __init__(self, audit: Audit, data: Path) -> None:
        self._handlers = Handlers(audit)
        members = audit.run.members
        found = member_directories(data)
        self._data = {members[name]: path for name, path in found.items() if name in members}
        if not self._data:
            why = f"{data} has {', '.join(found)}; the run has {', '.join(members)}"
            raise elsewhere(f"{data} holds no data of a member of the run", why)
        self.lacking = sorted(members.keys() - found.keys())

    def evaluate(self, number: int, model: ArrayRecord) -> Evaluated:
        parts = {m.name: self._of(m, path, number, model) for m, path in self._data.items()}
        weighted = [(metrics, cast(int, metrics[WEIGHT])) for _, metrics in sorted(parts.items())]
        mean = plain(mean_metrics(weighted, WEIGHT))
        return Evaluated(mean, {name: plain(metrics) for name, metrics in parts.items()})

    def _of(self, member: Member, data: Path, number: int, model: ArrayRecord) -> MetricRecord:
        records = RecordDict({ARRAYS: model, CONFIG: ConfigRecord({"server-round": number})})
        order = Order(f"audit {number}", 0, member, "evaluate", "", "", 0.0, 0.0)
        handled = self._handlers.run(order, records, RecordDict(), bytes(32), {"data": str(data)})
        if handled.reply is None:
            raise elsewhere(
                f"the model cannot be evaluated on the data of {member.name}", handled.log
            )
        return handled.reply.metric_records[METRICS]
