"""`barnraise serve --metrics ADDRESS`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from barnraise.coordinator.floor import Floor
from barnraise.coordinator.operator import Operator
from barnraise.observing.listen import Told, health_page, listening

Beside = Callable[[Operator, Floor], AbstractContextManager[object]]


def beside(address: str | None) -> Beside:
    """What answers at this address while a federation is served; nothing for None."""

    def at(operator: Operator, floor: Floor) -> AbstractContextManager[object]:
        if address is None:
            return nullcontext()
        from barnraise.coordinator.metrics import Metrics

        metrics = Metrics(operator.federation, operator, floor)

        def healthz() -> Told:
            health = metrics.health()
            return health_page(health.ok, health.as_dict())

        return listening(address, {"/healthz": healthz, "/metrics": lambda: Told(metrics.text())})

    return at
