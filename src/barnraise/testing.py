"""Simulate a federation inside a test: in this process, deterministic, no sockets, no sleeping.

    from barnraise.testing import Federation

    federation = Federation(members=3)
    federation.drop("site-01", round=2)
    run = federation.run(server_app, client_app, {"rounds": 3})
    assert run.rounds[1].absent == {"site-01": "no reply before the batch closed"}

A `round` here is the run's n-th train batch, from 1 on. Python's hash seed
belongs to the process and cannot be fixed from inside it: a ServerApp whose result hangs on the order
of a set of strings is the same each time only under `PYTHONHASHSEED=0`. The first run also settles how
the C library of this process keeps freed memory: 64 MB of it stay with the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from numpy.typing import NDArray

from barnraise.coordinator import events
from barnraise.coordinator.faults import Delay, Drop, Fault, Kill, Poison
from barnraise.coordinator.plans import Plan, app_plan
from barnraise.coordinator.rounds import Policy, category_of
from barnraise.coordinator.simulate import Outcome, execute
from barnraise.protocols import flower, tensors
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import is_name, site_names

__all__ = ["Federation", "Run"]


@dataclass(frozen=True)
class Run:
    """How a simulated run ended.

    `digest` is the final model's SHA-256 (of the safetensors file), `model` its arrays by name (empty
    for an app that names no model), `batches` every closed batch, `rounds` the train batches among
    them, `seals` what the app sealed.
    """

    digest: str
    model: Mapping[str, NDArray[Any]]
    batches: Sequence[events.BatchClosed]
    seals: Sequence[events.Sealed]
    outcome: Outcome

    @property
    def rounds(self) -> Sequence[events.BatchClosed]:
        return [b for b in self.batches if category_of(b.type) == "train"]


@dataclass
class Federation:
    """A federation of simulated members, and what each of them will do wrong.

    `members`: how many (`site-00`, `site-01`, …), or their names. `quorum`, `grace` and `deadline` as
    in a charter's `[rounds]`, in seconds of the simulation's own clock. `seed` decides every key and
    every random number.
    """

    members: int | Sequence[str] = 3
    quorum: int | None = None
    grace: float | None = None
    deadline: float | None = None
    seed: int = 0
    _faults: dict[tuple[str, int], Fault] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The members in canonical order."""
        return site_names(self.members) if isinstance(self.members, int) else sorted(self.members)

    def __post_init__(self) -> None:
        """`ValueError` for a federation that there cannot be."""
        names = self.names
        if not names:
            raise ValueError("a federation has one member at least")
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"{twice[0]!r} is there twice")
        if wrong := [n for n in names if not is_name(n)]:
            raise ValueError(f"{wrong[0]!r} is no name: one is of a-z, 0-9 and inner hyphens")
        if self.quorum is not None and not 1 <= self.quorum <= len(names):
            raise ValueError(f"quorum is {self.quorum}, and there are {len(names)} members")
        for name, value in (("grace", self.grace), ("deadline", self.deadline)):
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is {value} seconds; it must not be negative")

    def drop(self, member: str, *, round: int) -> None:
        """The member's reply in that round never comes."""
        self._plan(member, round, Drop())

    def delay(self, member: str, *, round: int, seconds: float) -> None:
        """The member's reply in that round comes `seconds` after it was asked for."""
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a delay is {seconds} seconds; it must be finite and not negative")
        self._plan(member, round, Delay(seconds))

    def poison(
        self,
        member: str,
        *,
        round: int,
        change: Callable[[RecordDict], RecordDict | None] | None = None,
    ) -> None:
        """The member sends what `change` makes of its reply; without one, NaN in every array."""
        self._plan(member, round, Poison(_checked(change or nan_everywhere, member, round)))

    def kill(self, member: str, *, round: int, times: int = 1) -> None:
        """The member's worker dies over that round's order; the second death answers with an error."""
        if times < 1:
            raise ValueError(f"a worker dies {times} times; it must be once at least")
        self._plan(member, round, Kill(times))

    def run(
        self,
        server: ServerApp,
        client: ClientApp,
        config: UserConfig | None = None,
        *,
        directory: str | Path | None = None,
        replay: bool = False,
    ) -> Run:
        """Run the two apps to their end. With a `directory`, a run that was cut short goes on there.

        With `replay`, a finished run's ServerApp runs again against its record, with no client at all.
        """
        return self.execute(self.plan(server, client, config), directory, replay=replay)

    def plan(self, server: ServerApp, client: ClientApp, config: UserConfig | None = None) -> Plan:
        """The plan of such a run. A directory knows it by its config, members and seed, not by its code."""
        for what, app, kind in (("server", server, ServerApp), ("client", client, ClientApp)):
            if not isinstance(app, kind):
                raise TypeError(f"{what} is a {type(app).__name__}, not a {kind.__name__}")
        flower.check_server_app(server)
        flower.check_client_app(client)
        names = self.names
        members: dict[str, UserConfig] = {
            n: {"partition-id": i, "num-partitions": len(names)} for i, n in enumerate(names)
        }
        return Plan(
            "test",
            {},
            config or {},
            members,
            self.seed,
            lambda copy: server,
            lambda copy: client,
            {"kind": "test"},
            policy=Policy(self.quorum, self.grace, self.deadline),
        )

    def run_directory(
        self,
        app: str | Path,
        config: UserConfig | None = None,
        *,
        directory: str | Path | None = None,
    ) -> Run:
        """Run a Flower app directory as `barnraise sim run` does."""
        return self.execute(app_plan(Path(app), self.names, config or {}, self.seed), directory)

    def execute(self, plan: Plan, directory: str | Path | None, **options: Any) -> Run:
        """Run a plan with this federation's faults; `options` as in `simulate.execute`."""
        seen = _Seen()
        place = Path(directory) if directory is not None else None
        outcome = execute(plan, place, watcher=seen, faults=self, **options)
        return Run(outcome.model, seen.model, seen.batches, seen.seals, outcome)

    def of(self, member: str, round: int, type: str) -> Fault | None:
        """The fault that this member shows now (`coordinator.faults.Faults`)."""
        return self._faults.get((member, round)) if category_of(type) == "train" else None

    def _plan(self, member: str, round: int, fault: Fault) -> None:
        if member not in self.names:
            raise ValueError(f"{member!r} is no member; there are {', '.join(self.names)}")
        if round < 1:
            raise ValueError(f"round is {round}; the first is 1")
        if (planned := self._faults.get((member, round))) is not None:
            raise ValueError(f"{member} has a fault in round {round} already: {planned}")
        self._faults[member, round] = fault


Change = Callable[[RecordDict], RecordDict | None]


def _checked(change: Change, member: str, round: int) -> Change:
    """The same, but what goes wrong in it is told as the test's own mistake: X102."""

    def wrong(evidence: str) -> BarnraiseError:
        what = f"the poison of {member} in round {round} cannot be used"
        return BarnraiseError("X102", what, evidence, next="mend `change` in the test")

    def checked(records: RecordDict) -> RecordDict | None:
        try:
            changed = change(records)
        except Exception as error:
            place = flower.place_of(error)
            raise wrong(f"it raised {type(error).__name__}: {error}\nat {place}") from error
        if not isinstance(changed, RecordDict | None):
            raise wrong(f"it returned {type(changed).__name__}, not a RecordDict or None")
        return changed

    return checked


def nan_everywhere(records: RecordDict) -> None:
    """Put NaN into every floating array of `records`."""
    for record in records.array_records.values():
        for key, array in list(record.items()):
            values = array.numpy()
            if values.dtype.kind == "f":
                record[key] = flower.array_of(np.full_like(values, np.nan))


class _Seen:
    """A watcher that remembers, and takes the final model while the directory is still there."""

    def __init__(self) -> None:
        self.batches: list[events.BatchClosed] = []
        self.seals: list[events.Sealed] = []
        self.model: dict[str, NDArray[Any]] = {}

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.BatchClosed):
            self.batches.append(event)
        elif isinstance(event, events.Sealed):
            self.seals.append(event)
        elif isinstance(event, events.RunClosed) and event.path is not None:
            specs = tensors.open_blob(event.path)
            self.model = {name: spec.open(event.path).load() for name, spec in specs.items()}
