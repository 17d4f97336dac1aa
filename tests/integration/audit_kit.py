"""Small runs of a charter for the audit's tests: honest ones, and ones whose coordinator lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from barnraise.builtin import charter_plan
from barnraise.coordinator.audit.audit import Audit
from barnraise.coordinator.audit.contents import Identity
from barnraise.coordinator.audit.sources import source_of
from barnraise.coordinator.campaign import Campaign
from barnraise.coordinator.faults import Fault
from barnraise.coordinator.simulate import InProcess, execute
from barnraise.protocols.charter import Charter
from barnraise.protocols.flower import array_of

CHARTER = """
name = "flowers"
[task]
name = "classification"
features = 4
classes = 3
hidden = {hidden}
[training]
steps = 4
batch = 8
lr = 0.02
warmup = {warmup}
{training}
[rounds]
count = 2
{rounds}
[strategy]
{strategy}
{more}
"""
MEMBERS = ("basel", "bern", "geneva", "lugano", "zurich")


@dataclass(frozen=True)
class Wrong:
    """What members do wrong, by (member, round)."""

    what: Mapping[tuple[str, int], Fault]

    def of(self, member: str, round: int, type: str) -> Fault | None:
        return self.what.get((member, round)) if type == "train" else None


def write_data(root: Path, members: Sequence[str] = MEMBERS) -> Path:
    """A directory for each member."""
    for i, name in enumerate(members):
        rng = np.random.default_rng(i)
        y = rng.integers(0, 3, 40)
        x = np.eye(4)[y] * 3 + rng.standard_normal((40, 4))
        (root / name).mkdir(parents=True)
        np.savez(root / name / "rows.npz", x=x, y=y)
    return root


def write_charter(path: Path, **parts: str) -> Path:
    text = CHARTER.replace("{hidden}", parts.get("hidden", "[8]"))
    text = text.replace("{warmup}", parts.get("warmup", "2"))
    for part in ("training", "rounds", "strategy", "more"):
        text = text.replace("{" + part + "}", parts.get(part, ""))
    path.write_text(text)
    return path


def conducted(
    directory: Path,
    data: Path,
    *,
    faults: Mapping[tuple[str, int], Fault] | None = None,
    campaign: type[Campaign] | None = None,
    **parts: str,
) -> Path:
    """The directory of a finished run; with `campaign` its coordinator is that one."""
    charter = write_charter(directory.with_suffix(".toml"), **parts)
    plan = charter_plan(charter, data, {})
    if campaign is not None:
        plan = replace(plan, server=lambda copy: _server(campaign))
    execute(plan, directory, fleets=InProcess(Wrong(faults or {})))
    return directory


def _server(campaign: type[Campaign]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        campaign(Charter.parse(str(context.run_config["charter"])), grid, None, None).run()

    return app


@contextmanager
def audited(directory: Path, identity: Path | None = None) -> Iterator[Audit]:
    key = Identity(identity) if identity is not None else None
    with (
        closing(source_of(directory)) as source,
        closing(Audit(source, identity=key)) as audit,
    ):
        yield audit


def recomputed(
    directory: Path, number: int | None = None, identity: Path | None = None
) -> list[int]:
    """The rounds that follow, to the byte."""
    with audited(directory, identity) as audit:
        return [one.number for one in audit.recompute(audit.chosen(number))]


def moved(record: ArrayRecord, name: str, by: float) -> ArrayRecord:
    """The same arrays, but for the first element of one."""
    out = ArrayRecord()
    for key, array in record.items():
        values = array.numpy().copy()
        if key == name:
            values.reshape(-1)[0] += by
        out[key] = array_of(values)
    return out


# --- coordinators that lie in round 2 -----------------------------------------------------------------


class OtherModel(Campaign):
    """Seals a model that does not follow."""

    def _seal(self, number: int, model: ArrayRecord, report: Mapping[str, Any]) -> None:
        super()._seal(number, moved(model, "2.bias", 0.25) if number == 2 else model, report)


class OtherState(Campaign):
    """Seals the right model with another state."""

    def _seal(self, number: int, model: ArrayRecord, report: Mapping[str, Any]) -> None:
        if number == 2:
            (name, held), *_ = self.rule.state().items()
            assert isinstance(held, ArrayRecord)
            self.rule.load(RecordDict({name: moved(held, "2.bias", 1.0)}))
        super()._seal(number, model, report)


class OtherReport(Campaign):
    """Reports a better loss than the members' replies give."""

    def _seal(self, number: int, model: ArrayRecord, report: Mapping[str, Any]) -> None:
        if number == 2:
            report = {**report, "after": {**report["after"], "loss": 0.125}}
        super()._seal(number, model, report)


class OtherDecision(Campaign):
    """Puts on record that another member was selected."""

    def _seal(self, number: int, model: ArrayRecord, report: Mapping[str, Any]) -> None:
        if number == 2:
            selected = report["decision"]["selected"]
            other = next(name for name in MEMBERS if name not in selected)
            report = {**report, "decision": {"selected": [other]}}
        super()._seal(number, model, report)


class OtherBase(Campaign):
    """Has members train another model than the one that was sealed."""

    def _round(self, before: Any) -> Any:
        if before.round == 1:
            before = replace(before, model=moved(before.model, "2.bias", 1.0))
        return super()._round(before)
