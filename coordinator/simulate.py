"""A federation in this process: `sim run`, `sim replay`, and what `barnraise.testing` stands on.

A run is described by a `Plan`; `execute` opens its directory, holds the plan against what the directory
already knows, and conducts the run over a `LocalFleet`.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from flwr.serverapp import ServerApp

from barnraise.coordinator import events
from barnraise.coordinator.conduct import conduct
from barnraise.coordinator.directory import RunDirectory, opened
from barnraise.coordinator.endings import say_what_is_kept
from barnraise.coordinator.evidence import StoredEvidence
from barnraise.coordinator.faults import Faults
from barnraise.coordinator.fleet import Fleet
from barnraise.coordinator.founding import Founding, simulated_log_key
from barnraise.coordinator.grid import DurableGrid, Terms
from barnraise.coordinator.holding import hold
from barnraise.coordinator.journal import Failpoint, kill_from_environment
from barnraise.coordinator.local import Local, LocalFleet, LocalMember, site_log_in
from barnraise.coordinator.log import Log
from barnraise.coordinator.plans import Plan, plan_again, source_kept
from barnraise.coordinator.runlog import RunLog
from barnraise.coordinator.witnesses import cosign_all
from barnraise.protocols import allocator, flower
from barnraise.protocols.apps import app_digest, code_kept
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors
from barnraise.protocols.identity import SIMULATED
from barnraise.protocols.randomness import commitment, derive

FEDERATION = SIMULATED
KEPT_FREE = 64 << 20  # bytes of memory that are not given back between handlers
STALL_AFTER = 10  # identical roster calls in a row, with nothing sent between


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `model` is the SHA-256 of `model.safetensors` where the app named a model.

    `problems` is what went wrong at members and in the directory, and was got over; `fault` is what
    makes the final model useless, or None.
    """

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
    named: bool
    fault: str | None

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
    `fleets` is where the members are: by default in this process, with `faults`. What the app wrote or
    left in the working directory is its own affair: `directory` is taken from where this was called.
    """
    fleets = fleets or InProcess(faults)
    try:
        with (
            opened(directory, failpoint, to_read=replay) as place,
            disk_errors(place.root),
        ):
            return _Execution(plan, place, directory, watcher, fleets, replay).execute()
    except BarnraiseError as error:
        if not replay:
            say_what_is_kept(error, directory)
        raise


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
    """Every member in this process, one handler at a time.

    What handlers free stays with the process from then on (`allocator.settle`): each would else touch a
    model's worth of memory anew.
    """

    faults: Faults | None = None

    def check(self, plan: Plan, app: Path) -> None:
        plan.client(app)

    @contextmanager
    def open(self, setting: Setting) -> Iterator[Fleet]:
        plan, place = setting.plan, setting.place
        allocator.settle(KEPT_FREE)
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
            key = simulated_log_key(plan.secret)
            with closing(Log(place.journal.path, key, FEDERATION)) as log:
                setting.watch(cosign_all(log, setting.members))
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
        if replay:
            place.journal.check()
        elif len(place.journal) == 0:
            place.forget_start()
        self.members = [
            LocalMember.simulated(plan.secret, name, config)
            for name, config in plan.members.items()
        ]
        self.log = RunLog(plan.run, place.journal, place.blobs, _utc)
        charter = str(plan.config["charter"]) if plan.source["kind"] == "charter" else None
        code = app_digest(plan.code)
        self.founding = Founding(FEDERATION, plan.secret, self.members, code, charter)

    def execute(self) -> Outcome:
        started = time.monotonic()
        resumed = self._open_run()
        closed = self._finished() if self.replay else self.log.closed()
        before = closed is not None and not self.replay
        if not before:
            names = tuple(self.plan.members)
            self.watch(events.RunOpened(self.plan.run, self.plan.name, names, resumed))
            self._conduct()
            closed = self.log.closed()
        assert closed is not None
        if closed["named"] and not self.replay:
            self._publish(closed["model"])
        self._tell_end(closed)
        return self._outcome(closed, started, resumed=resumed, finished_before=before)

    def _unfinished(self) -> BarnraiseError:
        return BarnraiseError(
            "R103",
            f"{self.place.root} holds a run that is not finished",
            f"its journal has {len(self.place.journal)} entries and no run.closed",
            next="run the command that started it again: it continues; "
            "if it ended in an error, it ends in the same until that is mended",
        )

    def _finished(self) -> dict[str, Any]:
        """How the run was closed. R103 unless it was; D106 unless its model is still what it was."""
        closed = self.log.closed()
        if closed is None:
            raise self._unfinished()
        if closed["named"]:
            self.place.blobs.check(closed["model"])
            if self.place.publishes(closed["model"]) is False:
                raise BarnraiseError(
                    "D106",
                    f"{self.place.published} is not the run's model",
                    f"its SHA-256 is not {closed['model']}",
                    next="run the command that made it again: it writes the file anew",
                )
        return closed

    def _publish(self, model: str) -> None:
        """The final model's file; a run killed between its last entry and this one still gets it."""
        holds = self.place.publishes(model)
        if not holds:
            self.place.publish(model)
        if holds is False:
            self.problems.append(
                f"{self.place.published.name} was not the run's model; it was written again"
            )

    def _tell_end(self, closed: Mapping[str, Any]) -> None:
        path = self.place.blobs.path(closed["model"]) if closed["named"] else None
        self.watch(events.RunClosed(closed["model"], path, closed["report"]))

    def watch(self, event: events.Event) -> None:
        """Keep what went wrong for the outcome, and pass the event on."""
        if isinstance(event, events.BatchClosed):
            where = f"batch {event.batch} ({event.type})"
            self.problems += [f"{where}: {m}: {why}" for m, why in event.refused.items()]
            self.problems += [f"{where}: {m}: {why}" for m, why in event.absent.items()]
        elif isinstance(event, events.Sealed) and (why := event.report.get("why")):
            self.problems.append(f"round {event.round}: {why}")
        elif isinstance(event, events.Witnessed) and event.missing:
            named = ", ".join(event.missing)
            self.problems.append(f"the log's end ({event.size} entries) is not cosigned by {named}")
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
                conduct(server, grid, plan.config, plan.secret, resumable=not self.replay)

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
            closed["named"],
            self._fault(closed),
        )

    def _fault(self, closed: Mapping[str, Any]) -> str | None:
        """What makes the final model useless."""
        if not closed["named"]:
            return None
        name = StoredEvidence(self.place.blobs).nonfinite(closed["model"])
        return f"the final model holds NaN or infinity in {name}" if name is not None else None

    # --- what the directory knows ----------------------------------------------------------------

    def _open_run(self) -> bool:
        """Put the run on record, or hold the plan against the record. True if it was there.

        An app that cannot be loaded is not put on record: mended, it may use the same directory.
        """
        body = self._opened_body()
        for _, entry in self.place.journal.entries():
            if entry.type == "run.opened":
                self._hold(self.log.whole(entry).body, body)
                return True
        if self.replay:
            raise self._unfinished()
        if self.plan.stating is not None:
            self.founding = replace(self.founding, data=self.plan.stating())
        self.place.keep_secret(self.plan.secret)
        self.place.keep_app(self.plan.code)
        self.place.keep_source(self._source())
        self._server = self.plan.server(self.place.app)
        self.fleets.check(self.plan, self.place.app)
        self.founding.keep(self.place.blobs)
        self.log.open(self.founding.facts(), body)
        return False

    def _hold(self, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """D101 or D106 unless the directory's run is the plan's; what is damaged beside it, mended."""
        held = source_kept(self.place.root)
        seeds = (held.get("seed") if held is not None else None, self.plan.seed)
        hold(recorded, now, self.place.root, seeds, again=self.plan.again)
        self._check_secret()
        if self.replay:
            return
        self.place.keep_secret(self.plan.secret)
        if app_digest(code_kept(self.place.app)) != recorded["app"]["digest"]:
            self.place.keep_app(self.plan.code)
            self.problems.append(
                "the directory's copy of the app was damaged; it was written again"
            )
        if held != (source := self._source()):
            self.place.keep_source(source)
            if held is None:
                self.problems.append("source.json was damaged; it was written again")

    def _check_secret(self) -> None:
        path = self.place.root / "secret"
        if path.exists() and path.read_bytes() != self.plan.secret:
            raise BarnraiseError(
                "D106",
                f"{path} is damaged",
                "it is not what the run's record is committed to",
                next=f"remove {path}: it follows from the seed, and is made anew",
            )

    def _source(self) -> dict[str, Any]:
        plan = self.plan
        code = app_digest(plan.code)
        return {**plan.source, "config": dict(plan.config), "seed": plan.seed, "app": code}

    def _opened_body(self) -> dict[str, Any]:
        plan = self.plan
        body: dict[str, Any] = {
            "run": plan.run,
            "federation": FEDERATION,
            "agreement": self.founding.agreed,
            "app": {"name": plan.name, "digest": app_digest(plan.code)},
            "config": json.dumps(plan.config, sort_keys=True),
            "members": [[m.member.name, m.member.public_key.hex()] for m in self.members],
            "policy": asdict(plan.policy),
            "seed": commitment(plan.secret),
            "versions": {name: version(name) for name in ("barnraise", "flwr", "numpy")},
        }
        return body | self._data() if plan.data is not None and self.place.durable else body

    def _data(self) -> dict[str, Any]:
        """Which data each member has: keyed by the secret, since the record may be read by others."""
        assert self.plan.data is not None
        secret, digests = self.plan.secret, self.plan.data()
        return {"data": {m: derive(secret, "data", m, d).hex() for m, d in digests.items()}}


def _utc() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# --- replay ------------------------------------------------------------------------------------------


def replay(directory: Path, *, watcher: events.Watcher = events.nobody) -> Outcome:
    """`sim replay D`: run the ServerApp of a finished run again, with no client at all."""
    return execute(plan_again(directory), directory, watcher=watcher, replay=True)
