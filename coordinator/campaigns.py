"""A federation's runs as they lie on disk, and how one is conducted under the agreement that members signed.

    F/runs/<name>/source.json  secret  app/  status.json  error.json  model.safetensors

`source.json` is written last: where it is, the run is to be conducted until the journal says that it is
closed. `error.json` says why it stopped; it holds up no other run, and goes on when it is opened again.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr.serverapp import ServerApp

from barnraise.coordinator import campaign, events
from barnraise.coordinator.batches import closed_body
from barnraise.coordinator.conduct import conduct
from barnraise.coordinator.directory import RunDirectory
from barnraise.coordinator.federation import Federation
from barnraise.coordinator.grid import DurableGrid, Terms
from barnraise.coordinator.ledger import MEMBER, REVOKED, utc
from barnraise.coordinator.proposals import Proposal, proposal
from barnraise.coordinator.rounds import Policy
from barnraise.coordinator.runlog import RunLog, left_open
from barnraise.coordinator.session import SessionFleet
from barnraise.coordinator.word import Word, aborted
from barnraise.protocols import files, flower
from barnraise.protocols.apps import BUILT_IN, CHARTER, INIT, app_digest, code_kept
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member
from barnraise.protocols.randomness import commitment, derive

STALL_AFTER = 10  # identical roster calls in a row, with nothing sent between
OPEN, FAILED, FINISHED, ABORTED = "open", "failed", "finished", "aborted"


@dataclass(frozen=True)
class Run:
    """A run's directory and what it is of: its name, its id, its agreement, its app's and charter's."""

    root: Path
    name: str
    run: str
    agreement: str

    @classmethod
    def read(cls, root: Path) -> Run:
        """Raises D106."""
        try:
            said = json.loads((root / "source.json").read_bytes())
            return cls(root, root.name, str(said["run"]), str(said["agreement"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise files.damaged(f"the run in {root} is damaged", str(error)) from None

    @property
    def run_id(self) -> int:
        """Flower's."""
        return int(self.run, 16)

    def error(self) -> dict[str, Any] | None:
        """Why it stopped, if it did."""
        path = self.root / "error.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def stopped(self, error: BarnraiseError) -> None:
        """Put on disk why it stopped; it is no open run from now on."""
        files.replace(self.root / "error.json", json.dumps(error.as_dict(), indent=1).encode())

    def again(self) -> None:
        """It is open again."""
        (self.root / "error.json").unlink(missing_ok=True)


def runs(federation: Federation) -> list[Run]:
    """Every run of the federation, by age."""
    found = [Run.read(p.parent) for p in (federation.root / "runs").glob("*/source.json")]
    return sorted(found, key=lambda run: (run.root / "source.json").stat().st_mtime_ns)


def named(federation: Federation, name: str) -> Run:
    """Raises F113."""
    for run in runs(federation):
        if name in (run.name, run.run):
            return run
    raise BarnraiseError(
        "F113",
        f"there is no run {name!r}",
        f"there are: {', '.join(run.name for run in runs(federation)) or 'none'}",
        next="barnraise run list",
    )


def state_of(federation: Federation, run: Run) -> str:
    """`open`, `failed`, `finished` or `aborted`."""
    closed = log_of(federation, run).closed()
    if closed is not None:
        return ABORTED if closed["report"].get("aborted") else FINISHED
    error = run.error()
    if error is None:
        return OPEN
    return ABORTED if error["error"] == "F115" else FAILED


def open_run(federation: Federation) -> Run | None:
    """The run that is to be conducted now."""
    return next((r for r in runs(federation) if state_of(federation, r) == OPEN), None)


def log_of(federation: Federation, run: Run) -> RunLog:
    return RunLog(run.run, federation.journal, federation.blobs, utc)


# --- opening ------------------------------------------------------------------------------------


def admitted(federation: Federation, one: Proposal) -> list[Member]:
    """The members that signed and are members still, in canonical order."""
    standing = federation.ledger.read()
    signed = standing.agreements[one.digest].signed
    return sorted(
        one.agreement.member(name)
        for name in signed
        if (known := standing.members.get(name)) is not None
        and known.status == MEMBER
        and known.key == one.agreement.members[name]
    )


def check_signed(federation: Federation, one: Proposal) -> None:
    """F110 unless so many members have signed as the agreement demands."""
    signed = [member.name for member in admitted(federation, one)]
    if len(signed) >= one.agreement.quorum:
        return
    missing = sorted(set(one.agreement.members) - set(signed))
    raise BarnraiseError(
        "F110",
        f"{len(signed)} of the {one.agreement.quorum} members that must sign have signed",
        f"agreement {one.digest}\n"
        f"signed: {', '.join(signed) or 'nobody'}\nnot yet: {', '.join(missing)}",
        "no run was opened; the members are asked",
        "the same command with --wait, or again when they have run `barnraise node approve`",
    )


def run_is_open(name: str) -> BarnraiseError:
    return BarnraiseError(
        "F111",
        f"the run {name} is open",
        "a federation conducts one run at a time",
        next="barnraise run why",
    )


def create(federation: Federation, one: Proposal) -> Run:
    """The directory of a new run, or the one of this agreement that stopped. Raises F110, F111."""
    check_signed(federation, one)
    if (current := open_run(federation)) is not None:
        raise run_is_open(current.name)
    for run in runs(federation):
        if run.agreement == one.digest and state_of(federation, run) == FAILED:
            run.again()
            return run
    folder = federation.root / "runs"
    taken = {path.name for path in folder.iterdir() if (path / "source.json").exists()}
    number = next(n for n in range(1, len(taken) + 2) if f"{one.name}-{n}" not in taken)
    return _create(federation, one, folder / f"{one.name}-{number}")


def _create(federation: Federation, one: Proposal, root: Path) -> Run:
    with files.disk_errors(root):
        root.mkdir(exist_ok=True)
        place = place_of(federation, root)
        secret = place.keep_secret(secrets.token_bytes(32))
        place.keep_app(code_kept(one.app))
        files.replace(root / "charter.toml", one.text.read_bytes())
        files.fsync(root.parent)
        run = derive(secret, "run", root.name).hex()[:16]
        place.keep_source({"kind": "served", "run": run, "agreement": one.digest})
    return Run.read(root)


def place_of(federation: Federation, root: Path) -> RunDirectory:
    return RunDirectory(root, True, federation.journal, federation.blobs)


# --- conducting ---------------------------------------------------------------------------------

FleetOf = Callable[["Conduct"], AbstractContextManager[SessionFleet]]


class Conduct:
    """One run, from where it is to its end. `word` is the operator's; `watch` hears what happens."""

    def __init__(self, federation: Federation, run: Run, watch: events.Watcher) -> None:
        self.federation, self.run, self.watch = federation, run, watch
        self.proposal = proposal(federation, run.agreement)
        self.work = self.proposal.work
        self.place = place_of(federation, run.root)
        self.log = log_of(federation, run)
        self.word = Word()
        for known in federation.ledger.read().members.values():
            if known.status == REVOKED:
                self.word.exclude(known.name)
        self.app = self.proposal.agreement.app
        self.opened = self._opened()

    @property
    def members(self) -> list[Member]:
        """Those with which the run was, or will be, opened."""
        if self.opened is not None:
            return [Member(name, bytes.fromhex(key)) for name, key in self.opened["members"]]
        return admitted(self.federation, self.proposal)

    def _opened(self) -> dict[str, Any] | None:
        found = self.log.last("run.opened")
        return found[1] if found else None

    def conduct(self, fleet_of: FleetOf) -> dict[str, Any]:
        """Until the run is closed: the body of `run.closed`. Raises what stopped it."""
        server, mixed = self._server()
        resumed = self.opened is not None
        members = self.members
        if self.opened is None:
            self.log.write(("run.opened", self._body(members)))
            self.opened = self._opened()
        elif commitment(self.place.secret) != self.opened["seed"]:
            what = "it is not the one to which the run's first entry is committed"
            raise files.damaged(f"{self.place.root / 'secret'} is damaged", what)
        names = tuple(m.name for m in members)
        self.watch(events.RunOpened(self.run.run, self.run.name, names, resumed))
        policy = Policy(self.work.quorum, self.work.grace, self.work.deadline)
        terms = Terms(
            self.federation.name,
            self.run.run,
            self.run.run_id,
            policy,
            mixed_replies=mixed,
            stall_after=STALL_AFTER,
            word=self.word,
        )
        try:
            with fleet_of(self) as fleet, flower.roster_is_final():
                self._run(
                    server,
                    DurableGrid(terms, self.log, self.federation.blobs, fleet, members, self.watch),
                )
        except BarnraiseError as error:
            if error.code != "F115":
                raise
            abort(self.run, self.log)
        return self._ended()

    def _run(self, server: ServerApp, grid: DurableGrid) -> None:
        secret = self.place.secret
        try:
            conduct(server, grid, dict(self.work.config), secret, resumable=True)
        except BarnraiseError as error:
            if error.code == "F115" and grid.live:
                grid.close_open_batches()
            raise

    def _ended(self) -> dict[str, Any]:
        """Publish the model, and tell of it."""
        closed = self.log.closed()
        assert closed is not None
        path = self.place.publish(closed["model"]) if closed["named"] else None
        self.watch(events.RunClosed(closed["model"], path, closed["report"]))
        return closed

    def _server(self) -> tuple[ServerApp, bool]:
        """The ServerApp, from the directory's own copy of what was agreed on; and whether its members'
        replies may differ. Raises A103, D106."""
        copy = self.place.app
        if app_digest(code_kept(copy)) != self.app:
            raise files.damaged(f"{copy} is not the app that was agreed on", f"agreed: {self.app}")
        if self.work.component == BUILT_IN:
            init = copy / INIT if (copy / INIT).exists() else None
            assert (copy / CHARTER).exists()
            return campaign.server_app(init), False
        project = flower.project(copy, {})
        sys.path.insert(0, str(copy))
        return flower.load_server_app(project.server, copy), project.mixed_replies

    def _body(self, members: list[Member]) -> Mapping[str, Any]:
        policy = Policy(self.work.quorum, self.work.grace, self.work.deadline)
        return {
            "federation": self.federation.name,
            "agreement": self.run.agreement,
            "app": {"name": self.work.name, "digest": self.app},
            "config": json.dumps(dict(self.work.config), sort_keys=True),
            "members": [[m.name, m.public_key.hex()] for m in members],
            "policy": asdict(policy),
            "seed": commitment(self.place.secret),
            "versions": {name: version(name) for name in ("barnraise", "flwr", "numpy")},
        }


def abort(run: Run, log: RunLog) -> None:
    """Put on record that the run ended without a result: its model is the last that was sealed.

    Batches that are open still, as when the process was killed, are closed as they stand. Of a run that
    stopped before it was on record nothing is put there.
    """
    opened = log.journal.find(f"run.opened {log.run}")
    if opened is None:
        run.stopped(aborted())
        return
    seal = log.last("round.sealed")
    model = seal[1]["model"] if seal else ""
    report = {"aborted": True, "round": seal[1]["round"] if seal else 0}
    policy = Policy(**log.whole(opened[1]).body["policy"])
    closings = [
        ("batch.closed", closed_body(policy, batch, "the run ended", {}))
        for batch in left_open(log)
    ]
    ended = {"model": model, "named": bool(seal), "report": report}
    log.write(*closings, ("run.closed", ended))


def listed(federation: Federation) -> Iterator[dict[str, Any]]:
    """Each run as `run list` has it."""
    for run in runs(federation):
        closed = log_of(federation, run).closed()
        error = run.error()
        yield {
            "name": run.name,
            "run": run.run,
            "agreement": run.agreement,
            "state": state_of(federation, run),
            "opened": federation.ledger.read().runs.get(run.run),
            "model": closed["model"] if closed else None,
            "directory": str(run.root),
            "error": error if closed is None else None,
        }
