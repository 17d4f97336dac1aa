"""`barnraise node up --health ADDRESS`: what the node's own socket tells, for machines.

It tells no address, no path, no digest and nothing of the data: states, counts of today, and the sentence
that `barnraise node status` shows, as far as it names nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from barnraise.cli import site, words
from barnraise.observing.listen import Told, health_page, listening
from barnraise.protocols.errors import BarnraiseError

PREFIX = "barnraise_node_"


def judge(told: Mapping[str, Any], now: float) -> tuple[bool, str]:
    """Whether the node attends, and in a sentence what it does. To hold back is the site's own right."""
    since = words.duration(max(0.0, now - told.get("since", now)))
    if told["left"]:
        return False, "this site has left the federation"
    if not told["running"]:
        return False, "the node has not begun to attend, or ends"
    if not told.get("connected"):
        return False, "not connected to the coordinator; it is tried again until it is there"
    if told.get("held"):
        return True, f"held back for {since}"
    if told.get("draining"):
        return True, "draining: it finishes what was begun, and ends"
    if told.get("run"):
        return True, f"at work: {told['state']} for {since}"
    return True, f"idle for {since}"


class Metrics(Collector):
    """May be asked from any thread; it only asks the node's own socket."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def healthz(self) -> Told:
        try:
            told = site.status(self._home)
            ok, why = judge(told, time.time())
        except BarnraiseError as error:
            ok, why, told = False, f"{error.code}: {error.what.replace(str(self._home), 'N')}", {}
        said = {"ok": ok, "why": why, "state": told.get("state"), "round": told.get("round")}
        return health_page(ok, said)

    def metrics(self) -> Told:
        return Told(generate_latest(self._registry))

    def describe(self) -> list[Metric]:
        """Nothing: so that nothing is read before it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        told = site.status(self._home)
        yield _gauge("build_info", "Barnraise's version.", 1, {"version": version("barnraise")})
        yield _gauge("connected", "Whether it attends.", int(bool(told.get("connected"))))
        yield _gauge("held", "Whether the site holds back.", int(bool(told.get("held"))))
        state = {"state": str(told.get("state") or "absent")}
        yield _gauge("state", "What it does now.", 1, state)
        yield _gauge("round", "The round that it works for, else 0.", told.get("round") or 0)
        yield _gauge("tries", "Tries of the code to get at what it may not.", told.get("tries", 0))
        for key, value in told["used"].items():
            yield _gauge(f"today_{key}", f"{key.replace('_', ' ')} since midnight.", value)
        if (end := _certificate_end(self._home)) is not None:
            yield _gauge("certificate_end_seconds", "When the certificate ends, since 1970.", end)


def _certificate_end(home: Path) -> float | None:
    from barnraise.client import enrol

    try:
        return enrol.expires(home)
    except BarnraiseError:
        return None


def _gauge(name: str, text: str, value: float, labels: Mapping[str, str] | None = None) -> Metric:
    labels = labels or {}
    family = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def answering(home: Path, address: str) -> AbstractContextManager[int]:
    """Inside, the node in `home` is told of at this address. Raises N118, X102."""
    metrics = Metrics(home)
    return listening(address, {"/healthz": metrics.healthz, "/metrics": metrics.metrics})
