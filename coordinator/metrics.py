"""What a served federation tells a monitoring system: `/healthz` and `/metrics`.

What the log can say is folded from it (`counts`), so it survives restarts; who attends, the disk and the
bytes of orders are of this process. Only names, numbers and states that members know of each other anyway
stand in it. Who listens for the questions is elsewhere.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from barnraise.coordinator.counts import Counts
from barnraise.coordinator.federation import Federation
from barnraise.coordinator.floor import Floor
from barnraise.coordinator.ledger import MEMBER
from barnraise.coordinator.operator import Answer, Operator
from barnraise.coordinator.room import HEADROOM, free_of
from barnraise.coordinator.shelf import Shelf
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError

PREFIX = "barnraise_"


@dataclass(frozen=True)
class Health:
    """Whether the federation is served as it should be, and in one sentence why, or why not."""

    ok: bool
    why: str
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "why": self.why, **self.facts}


def judge(status: Answer, entries: int, free: int) -> Health:
    """The health of a federation of which this is known; `free` bytes are left on its disk."""
    attending = sum(one.get("state", "absent") != "absent" for one in status["members"])
    run = status["run"]
    facts = {"federation": status["federation"], "run": run, "entries": entries}
    if free < HEADROOM:
        why = (
            f"the disk has {free} bytes free and needs {HEADROOM}: replies wait with their members"
        )
        return Health(False, why, facts)
    what = f"the run {run} is open" if run else "no run is open"
    count = sum(one["status"] == MEMBER for one in status["members"])
    return Health(True, f"served; {what}; {attending} of {count} members attend", facts)


class Metrics(Collector):
    """May be asked from any thread; `_lock` guards the fold."""

    def __init__(self, federation: Federation, operator: Operator, floor: Floor) -> None:
        self._federation, self._operator, self._floor = federation, operator, floor
        self._lock = threading.Lock()
        self._counts, self._next = Counts(), 0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def health(self) -> Health:
        """Of this moment; what cannot be read is why not."""
        try:
            status = self._operator.status()
            return judge(status, self._federation.log.size(), free_of(self._federation.root))
        except BarnraiseError as error:
            return Health(False, f"{error.code}: {error.what}", {"error": error.code})
        except OSError as error:
            return Health(False, error.strerror or str(error), {})

    def text(self) -> bytes:
        """Prometheus' text format. Raises D105, D106 where the log cannot be read."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: so that nothing is read before it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            self._catch_up()
            yield from _of_the_log(self._counts, self._operator.wall())
        yield from self._of_now()

    def _catch_up(self) -> None:
        log = self._federation.log
        with closing(Shelf(self._federation.root / "blobs")) as shelf:
            for index, data in log.entries(self._next):
                self._counts.see(_whole(Entry.decode(data), shelf))
                self._next = index + 1

    def _of_now(self) -> Iterator[Metric]:
        told = self._operator.status()
        members = [one for one in told["members"] if one["status"] == MEMBER]
        yield _gauge("build_info", "Barnraise's version.", {"version": version("barnraise")}, 1)
        yield _gauge(
            "run_open", "Whether a run is conducted now.", {}, int(told["run"] is not None)
        )
        yield _counted(
            GaugeMetricFamily, "members", "Members by what their nodes do.", "state",
            Counter(one.get("state", "absent") for one in members),
        )  # fmt: skip
        ends = {one["member"]: one["certificate"] for one in members if one.get("certificate")}
        yield _counted(
            GaugeMetricFamily, "member_certificate_end_seconds",
            "When a member's newest certificate ends, in seconds since 1970.", "member", ends,
        )  # fmt: skip
        sent = CounterMetricFamily(
            f"{PREFIX}sent_bytes", "Bytes that orders carried, since this process began."
        )
        sent.add_metric([], self._floor.sent_bytes)
        yield sent
        free = free_of(self._federation.root)
        yield _gauge("disk_free_bytes", "Room on the federation's disk.", {}, free)


def _whole(entry: Entry, shelf: Shelf) -> Entry:
    """The entry with its body, read back from a blob if it was too large for the log."""
    if set(entry.body) != {"run", "blob"}:
        return entry
    data = shelf.read(entry.body["blob"])
    return entry if data is None else Entry(entry.type, entry.time, json.loads(data))


def _of_the_log(counts: Counts, now: float) -> Iterator[Metric]:
    total = CounterMetricFamily
    for name, text, label, values in (
        ("log_entries", "Entries of the log by type.", "type", counts.entries),
        ("runs_closed", "Runs that ended, by how.", "how", counts.runs),
        ("replies", "Replies by verdict.", "verdict", counts.replies),
        ("replies_not_taken", "Replies that were not taken, by code.", "code", counts.not_taken),
        ("phase_seconds", "Seconds of runs by what they went to.", "phase", counts.seconds),
    ):
        yield _counted(total, name, text, label, values)
    batches = total(f"{PREFIX}batches_closed", "Batches that were closed.", labels=["type", "void"])
    for (type_, void), count in sorted(counts.batches.items()):
        batches.add_metric([type_, str(void).lower()], count)
    yield batches
    for name, text, value in (
        ("rounds_sealed", "Rounds that were sealed.", counts.rounds),
        ("received_bytes", "Bytes of replies that were judged.", counts.received),
    ):
        family = total(f"{PREFIX}{name}", text)
        family.add_metric([], value)
        yield family
    missing = sum(batch.missing for batch in counts.open.values())
    since = min((batch.since for batch in counts.open.values()), default=now)
    yield _gauge("batch_missing_replies", "Replies that open batches wait for.", {}, missing)
    yield _gauge("batch_open_seconds", "Age of the oldest open batch.", {}, max(0.0, now - since))


def _counted(kind: Any, name: str, text: str, label: str, values: Any) -> Metric:
    family: Metric = kind(f"{PREFIX}{name}", text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)  # type: ignore[attr-defined]
    return family


def _gauge(name: str, text: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
