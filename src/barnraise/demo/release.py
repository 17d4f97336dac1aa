"""The demo's release: its run, published; then verified, a round recomputed, a contribution trained again.

DIR/release/    what anyone could be given
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from barnraise.auditing.retrain import Retrained, Retraining
from barnraise.auditing.seeds import secret_of
from barnraise.cli.verify_work import failed
from barnraise.coordinator.audit.audit import Audit
from barnraise.coordinator.audit.sources import source_of
from barnraise.coordinator.release import source as sources
from barnraise.coordinator.release.make import make
from barnraise.coordinator.release.publish import in_simulation
from barnraise.coordinator.verify.run import verify

FOLDER = "release"
SEED = 0  # of the demo's run: a simulation's is for anyone to know
RETRAINED = 1  # the round of which a contribution is trained again


def publish(home: Path, metrics: Mapping[str, Any]) -> Path:
    """Write the release of the members' run together, if it is not there."""
    out = home / FOLDER
    if not out.exists():
        with sources.opened(home / "together", None) as source:
            make(source, out, lambda opened: in_simulation(source, opened), comparison=metrics)
    return out


def checks(home: Path, out: Path) -> Iterator[tuple[str, str]]:
    """What was checked and what it came to, one after another. Raises what verify and audit raise."""
    found = verify(out)
    if found.faults:
        raise failed(out, found)
    names = ", ".join(found.cosigned)
    yield "verified", f"{len(found.checks)} checks hold; cosigned by {names}"
    with closing(source_of(out)) as source, closing(Audit(source)) as audit:
        yield "audited", _audited(audit)
        member = next(iter(audit.run.members))
        again = _retrained(audit, home, member)
        result = "identical bytes" if again.identical else f"within {again.gap:.2g} of its norm"
        yield "retrained", f"the part of {member} in round {again.number}: {result}"


def _audited(audit: Audit) -> str:
    last = audit.run.rounds[-1].number
    (one,) = audit.recompute(audit.chosen(last))
    return f"round {one.number} from its {one.contributions} contributions: identical bytes"


def _retrained(audit: Audit, home: Path, member: str) -> Retrained:
    secret = secret_of(audit, member, SEED, None)
    data = (home / "data" / member).absolute()
    return Retraining(audit, member, data, secret).run(RETRAINED, lambda one: None)
