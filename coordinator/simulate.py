"""A federation in this process: `sim run`, `sim replay`, and what `barnraise.testing` stands on.

A run is described by a `Plan`; `execute` opens its directory, holds the plan against what the directory
already knows, and conducts the run over a `LocalFleet`.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from flwr.serverapp import ServerApp

from barnraise.coordinator import events
from barnraise.coordinator.conduct import conduct
from barnraise.coordinator.directory import RunDirectory, opened
from barnraise.coordinator.faults import Faults
from barnraise.coordinator.fleet import Fleet
from barnraise.coordinator.grid import DurableGrid, Terms
from barnraise.coordinator.journal import Failpoint, kill_from_environment
from barnraise.coordinator.local import Local, LocalFleet, LocalMember, site_log_in
from barnraise.coordinator.plans import Plan, plan_again
from barnraise.coordinator.runlog import RunLog
from barnraise.protocols import flower
from barnraise.protocols.apps import app_digest
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors
from barnraise.protocols.randomness import commitment

FEDERATION = "sim"
STALL_AFTER = 10  # identical roster calls in a row, with nothing sent between


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `model` is the SHA-256 of `model.safetensors` where the app named a model."""

    run: str
    app: str
    model: str
    members: tuple[str, ...]
    batches: int
    seconds: float
    resumed: bool
    finished_before: bool
    report: Mapping[str, Any]
    directory: Path | None
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same for `--json`."""
        out = asdict(self)
        out["directory"] = str(self.directory) if self.directory else None
        return {"ok": True, **out}


def execute(
    plan: Plan,
    directory: Path | None,
    *,
    watcher: events.Watcher = events.nobody,
    faults: Faults | None = None,
    replay: bool = False,
    failpoint: Failpoint = kill_from_environment,
    fleets: Fleets | None = None,
) -> Outcome:
    """Run the plan in `directory` (None: a temporary one), or replay what is there with no client.

    A run that was cut short goes on where it was; one that is finished is reported, not repeated.
    `fleets` is where the members are: by default in this process, with `faults`.
    """
    fleets = fleets or InProcess(faults)
    with opened(directory, failpoint) as place, disk_errors(place.root):
        return _Execution(plan, place, directory, watcher, fleets, replay).execute()


@dataclass(frozen=True)
class Setting:
    """What a fleet is made for: the plan, its opened directory, its members' keys, who watches."""

    plan: Plan
    place: RunDirectory
    log: RunLog
    members: Sequence[LocalMember]
    watch: events.Watcher

    @property
    def run_id(self) -> int:
        """Flower's."""
        return int(self.plan.run, 16)


class Fleets(Protocol):
    """Where the members of a run are."""

    def check(self, plan: Plan, app: Path) -> None:
        """Raise what would keep every member from running the app, whose copy is at `app`."""
        ...

    def open(self, setting: Setting) -> AbstractContextManager[Fleet]:
        """The fleet, there for as long as the context lasts."""
        ...


@dataclass(frozen=True)
class InProcess:
    """Every member in this process, one handler at a time."""

    faults: Faults | None = None

    def check(self, plan: Plan, app: Path) -> None:
        plan.client(app)

    @contextmanager
    def open(self, setting: Setting) -> Iterator[Fleet]:
        plan, place = setting.plan, setting.place
        fleet = LocalFleet(
            plan.client(place.app),
            setting.members,
            Local(FEDERATION, plan.run, setting.run_id, plan.config),
            place.blobs,
            place.members(),
            faults=self.faults,
            watcher=setting.watch,
            site_log=site_log_in(place.root / "logs"),
        )
        try:
            yield fleet
        finally:
            fleet.close()


class _Execution:
    def __init__(
        self,
        plan: Plan,
        place: RunDirectory,
        directory: Path | None,
        watcher: events.Watcher,
        fleets: Fleets,
        replay: bool,
    ) -> None:
        self.plan, self.place, self.directory = plan, place, directory
        self.fleets, self.replay = fleets, replay
        self.problems: list[str] = []
        self._watcher = watcher
        self._server: ServerApp | None = None
        if len(place.journal) == 0:
            place.forget_start()
        elif replay:
            place.journal.check()
        self.secret = place.keep_secret(plan.secret)
        self.members = [
            LocalMember.simulated(self.secret, name, config)
            for name, config in plan.members.items()
        ]
        self.log = RunLog(plan.run, place.journal, place.blobs, _utc)

    def execute(self) -> Outcome:
        started = time.monotonic()
        resumed = self._open_run()
        closed = self.log.closed()
        if closed is not None and not self.replay:
            self._publish(closed)
            self._tell_end(closed)
            return self._outcome(closed, started, resumed=True, finished_before=True)
        if closed is None and self.replay:
            raise BarnraiseError(
                "R103",
                f"{self.place.root} holds a run that is not finished",
                f"its journal has {len(self.place.journal)} entries and no run.closed",
                next="run the command that started it again: it continues",
            )
        self.watch(
            events.RunOpened(self.plan.run, self.plan.name, tuple(self.plan.members), resumed)
        )
        self._conduct()
        closed = self.log.closed()
        assert closed is not None
        self._publish(closed)
        self._tell_end(closed)
        return self._outcome(closed, started, resumed=resumed, finished_before=False)

    def _publish(self, closed: Mapping[str, Any]) -> None:
        """The final model's file; a run killed between its last entry and this one still gets it."""
        if closed["named"] and not self.replay and not self.place.published.is_file():
            self.place.publish(closed["model"])

    def _tell_end(self, closed: Mapping[str, Any]) -> None:
        path = self.place.blobs.path(closed["model"]) if closed["named"] else None
        self.watch(events.RunClosed(closed["model"], path, closed["report"]))

    def watch(self, event: events.Event) -> None:
        """Keep what went wrong for the outcome, and pass the event on."""
        if isinstance(event, events.BatchClosed):
            where = f"batch {event.batch} ({event.type})"
            self.problems += [f"{where}: {m}: {why}" for m, why in event.refused.items()]
            self.problems += [f"{where}: {m}: {why}" for m, why in event.absent.items()]
        self._watcher(event)

    def _conduct(self) -> None:
        plan = self.plan
        server = self._server or plan.server(self.place.app)
        setting = Setting(plan, self.place, self.log, self.members, self.watch)
        terms = Terms(
            FEDERATION,
            plan.run,
            setting.run_id,
            plan.policy,
            mixed_replies=plan.mixed_replies,
            stall_after=STALL_AFTER,
        )
        with nullcontext() if self.replay else self.fleets.open(setting) as fleet:
            members = sorted(m.member for m in self.members)
            grid = DurableGrid(terms, self.log, self.place.blobs, fleet, members, self.watch)
            with flower.roster_is_final():
                conduct(server, grid, plan.config, self.secret, resumable=not self.replay)

    def _outcome(
        self, closed: Mapping[str, Any], started: float, *, resumed: bool, finished_before: bool
    ) -> Outcome:
        batches = sum(1 for _, e in self.log.read() if e.type == "batch.sent")
        return Outcome(
            self.plan.run,
            app_digest(self.plan.code),
            closed["model"],
            tuple(self.plan.members),
            batches,
            time.monotonic() - started,
            resumed,
            finished_before,
            closed["report"],
            self.directory,
            tuple(self.problems),
        )

    # --- what the directory knows ----------------------------------------------------------------

    def _open_run(self) -> bool:
        """Put the run on record, or hold the plan against the record. True if it was there.

        An app that cannot be loaded is not put on record: mended, it may use the same directory.
        """
        body = self._opened_body()
        for _, entry in self.place.journal.entries():
            if entry.type == "run.opened":
                _hold(self.log.whole(entry).body, body, self.place.root)
                return True
        self.place.keep_app(self.plan.code)
        source = {**self.plan.source, "config": self.plan.config, "seed": self.plan.seed}
        (self.place.root / "source.json").write_text(json.dumps(source, indent=1))
        self._server = self.plan.server(self.place.app)
        self.fleets.check(self.plan, self.place.app)
        self.log.write(("run.opened", body))
        return False

    def _opened_body(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "run": plan.run,
            "federation": FEDERATION,
            "app": {"name": plan.name, "digest": app_digest(plan.code)},
            "config": json.dumps(plan.config, sort_keys=True),
            "members": [[m.member.name, m.member.public_key.hex()] for m in self.members],
            "policy": asdict(plan.policy),
            "seed": commitment(plan.secret),
            "versions": {name: version(name) for name in ("barnraise", "flwr", "numpy")},
        }


def _hold(recorded: Mapping[str, Any], now: Mapping[str, Any], root: Path) -> None:
    """D101 unless the directory's run is the one that is asked for."""
    differences = [
        f"{key}: the directory has {_short(recorded[key])}, this command {_short(now[key])}"
        for key in ("app", "config", "members", "policy", "seed")
        if recorded[key] != now[key]
    ]
    if differences:
        raise BarnraiseError(
            "D101",
            f"{root} belongs to another run",
            "\n".join(differences),
            next="give another --dir, or the app and options with which this one was started",
        )


def _short(value: Any) -> str:
    if isinstance(value, dict) and "digest" in value:
        return f"{value['name']} {value['digest']}"
    if isinstance(value, list):
        return f"{len(value)} members ({', '.join(name for name, _ in value[:8])})"
    return str(value)


def _utc() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# --- replay ------------------------------------------------------------------------------------------


def replay(directory: Path, *, watcher: events.Watcher = events.nobody) -> Outcome:
    """`sim replay D`: run the ServerApp of a finished run again, with no client at all."""
    return execute(plan_again(directory), directory, watcher=watcher, replay=True)
