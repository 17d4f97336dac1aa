"""One run on an engine of Flower's, with our journal: the same directory, record and resume as in `sim`.

    place = a directory of this machine; the run that it holds is continued, whichever Flower run asks

Nobody signs here, and the record says so: `run.opened` has `unsigned`, members have no key, no charter is
adopted. Which nodes are the run's members is decided once, when it is opened. It knows Flower's grid by
`FlowerFleet` alone, and nothing of torch.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid, ServerApp

from barnraise.coordinator import campaign, events
from barnraise.coordinator.conduct import conduct
from barnraise.coordinator.directory import RunDirectory, opened
from barnraise.coordinator.flower_fleet import LOOK, FlowerFleet, member, name_of, node_of
from barnraise.coordinator.founding import simulated_log_key
from barnraise.coordinator.grid import DurableGrid, Terms
from barnraise.coordinator.holding import hold
from barnraise.coordinator.ledger import utc
from barnraise.coordinator.plans import charter_code, source_kept
from barnraise.coordinator.rounds import Policy
from barnraise.coordinator.runlog import RunLog
from barnraise.protocols import flower, notes
from barnraise.protocols.apps import INIT, Code, app_digest
from barnraise.protocols.charter import Charter, read_text
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors
from barnraise.protocols.invite import log_name
from barnraise.protocols.randomness import commitment, derive, simulation_secret

FEDERATION = "flower"


@dataclass(frozen=True)
class Work:
    """A charter, and what goes with it. `seed`: of a run whose randomness anyone may know; None: secret."""

    charter: Charter
    text: str
    code: Code
    seed: int | None = None

    @classmethod
    def of(cls, path: Path, seed: int | None) -> Work:
        """Raises C101-C106."""
        text = read_text(path)
        charter = Charter.parse(text, str(path))
        return cls(charter, text, charter_code(charter, text, path), seed)

    @property
    def policy(self) -> Policy:
        rounds = self.charter.rounds
        return Policy(rounds.quorum, rounds.grace, rounds.deadline)

    def server(self, app: Path) -> ServerApp:
        """`app` is the directory's copy of the code."""
        return campaign.server_app(app / INIT if self.charter.model.init is not None else None)


@dataclass(frozen=True)
class Ended:
    """`model` is the SHA-256 of `model.safetensors`; `before`: the run had ended already."""

    run: str
    model: str
    members: tuple[str, ...]
    resumed: bool
    before: bool


@dataclass(frozen=True)
class Nodes:
    """How many nodes a run is opened with, and how many seconds they are waited for.

    `clock` and `pause` are the process's own, but for a test.
    """

    count: int
    wait: float
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


def run_on(
    grid: Grid,
    run_id: int,
    work: Work,
    directory: Path,
    nodes: Nodes,
    watcher: events.Watcher = events.nobody,
) -> Ended:
    """Conduct the work on `grid`, or go on where the journal in `directory` ends.

    `run_id` is that of Flower's run, another one at each start; ours follows from the secret. Raises D101,
    D102, D104, D106, K112, K113 and what `conduct` raises.
    """
    with opened(directory) as place, disk_errors(place.root):
        return _OnFlower(grid, run_id, work, place, nodes, watcher).execute()


class _OnFlower:
    def __init__(
        self,
        grid: Grid,
        run_id: int,
        work: Work,
        place: RunDirectory,
        nodes: Nodes,
        watcher: events.Watcher,
    ) -> None:
        self._grid, self._run_id, self._work, self._place = grid, run_id, work, place
        self._nodes, self._watch = nodes, watcher
        if len(place.journal) == 0:
            place.forget_start()
        fresh = secrets.token_bytes(32) if work.seed is None else simulation_secret(work.seed)
        self._secret = place.keep_secret(fresh)
        self._run = derive(self._secret, "run", work.charter.name).hex()[:16]
        self._log = RunLog(self._run, place.journal, place.blobs, utc)

    def execute(self) -> Ended:
        recorded = self._recorded()
        names = self._names(recorded)
        closed = self._log.closed()
        before = closed is not None
        if closed is None:
            self._watch(
                events.RunOpened(self._run, self._work.charter.name, names, recorded is not None)
            )
            closed = self._conduct(names)
        if self._place.publishes(closed["model"]) is not True:
            self._place.publish(closed["model"])
        path = self._place.published
        self._watch(events.RunClosed(closed["model"], path, closed["report"]))
        return Ended(self._run, closed["model"], names, recorded is not None, before)

    # --- the record -------------------------------------------------------------------------------

    def _recorded(self) -> Mapping[str, Any] | None:
        """The body of `run.opened`, held against this work; None where nothing was opened yet."""
        for _, entry in self._place.journal.entries():
            if entry.type == "run.opened":
                body = self._log.whole(entry).body
                held = source_kept(self._place.root) or {}
                now = self._body([name for name, _ in body["members"]])
                seeds = (held.get("seed"), self._work.seed)
                hold(body, now, self._place.root, seeds, again=False)
                return body
        return None

    def _names(self, recorded: Mapping[str, Any] | None) -> tuple[str, ...]:
        """The run's members: those on record, or who is connected when it is opened."""
        if recorded is not None:
            names = tuple(name for name, _ in recorded["members"])
            if self._log.closed() is None:
                self._wait(lambda here: bool(here.intersection(map(node_of, names))), names)
            return names
        here = self._wait(lambda here: len(here) >= self._nodes.count, ())
        names = tuple(sorted(map(name_of, here)))
        self._open(names)
        return names

    def _open(self, names: tuple[str, ...]) -> None:
        work, place = self._work, self._place
        place.keep_app(work.code)
        source = {"kind": "charter", "members": names, "trainers": None, "seed": work.seed}
        code = {"config": {"charter": work.text}, "app": app_digest(work.code)}
        place.keep_source(source | code)
        key = simulated_log_key(self._secret).public_key().public_bytes_raw()
        log = notes.verifier_key(log_name(FEDERATION), key)
        founded = {"federation": FEDERATION, "log": log, "authority": ""}
        self._log.open([("federation.founded", founded)], self._body(names))

    def _body(self, names: list[str] | tuple[str, ...]) -> dict[str, Any]:
        work = self._work
        return {
            "run": self._run,
            "federation": FEDERATION,
            "agreement": "",
            "unsigned": True,
            "app": {"name": work.charter.name, "digest": app_digest(work.code)},
            "config": json.dumps({"charter": work.text}),
            "members": [[name, ""] for name in names],
            "policy": asdict(work.policy),
            "seed": commitment(self._secret),
            "versions": {name: version(name) for name in ("barnraise", "flwr", "numpy")},
        }

    # --- the run ----------------------------------------------------------------------------------

    def _wait(
        self, enough: Callable[[frozenset[int]], bool], names: tuple[str, ...]
    ) -> frozenset[int]:
        """Until enough nodes are connected. K113 after the time that they are given."""
        nodes = self._nodes
        fleet = FlowerFleet(self._grid, [], self._place.blobs, clock=nodes.clock)
        started, told = nodes.clock(), False
        while not enough(here := fleet.connected()):
            waited = nodes.clock() - started
            missing = names or (f"{nodes.count - len(here)} more nodes",)
            if waited >= nodes.wait:
                raise _nobody(waited, missing, here)
            if not told:
                left, told = nodes.wait - waited, True
                self._watch(
                    events.Waiting("the run", missing, 0, waited, left, "with an error then")
                )
            nodes.pause(LOOK)
        return here

    def _conduct(self, names: tuple[str, ...]) -> dict[str, Any]:
        work, place = self._work, self._place
        members = [member(name) for name in names]
        fleet = FlowerFleet(
            self._grid,
            members,
            place.blobs,
            {"charter": work.text},
            clock=self._nodes.clock,
            pause=self._nodes.pause,
        )
        terms = Terms(FEDERATION, self._run, self._run_id, work.policy)
        grid = DurableGrid(terms, self._log, place.blobs, fleet, members, self._watch)
        config: dict[str, Any] = {"charter": work.text}
        with flower.roster_is_final():
            conduct(work.server(place.app), grid, config, self._secret, resumable=True)
        closed = self._log.closed()
        assert closed is not None
        return closed


def _nobody(waited: float, missing: tuple[str, ...], here: frozenset[int]) -> BarnraiseError:
    return BarnraiseError(
        "K113",
        f"the run's nodes are not connected, {waited:.0f} s after it was started",
        f"missing: {', '.join(missing)}\nconnected: {', '.join(map(name_of, sorted(here))) or 'nobody'}",
        "what is on record stays",
        next="start those SuperNodes, with the keys that they had, and the same `flwr run` again",
    )
