"""A release of a federation that is being served: on record, and cosigned by the members that attend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from barnraise.coordinator.campaigns import log_of, runs
from barnraise.coordinator.federation import Federation
from barnraise.coordinator.prover import Cosigned
from barnraise.coordinator.release.publish import on_record, unwitnessed
from barnraise.protocols.agreements import Agreement
from barnraise.protocols.errors import BarnraiseError


@dataclass(frozen=True)
class Said:
    """`release.published`: of which run, the manifest's and the model's digests, the mode."""

    run: str
    manifest: str
    model: str
    contributions: str


def publish(
    federation: Federation,
    said: Said,
    cosigned: Callable[[Mapping[str, str], float], Cosigned],
    patience: float,
) -> bytes:
    """The cosigned checkpoint over this release. Raises F111, G101 for a run that is not finished, G104.

    Its witnesses are the members who are named in the run's agreement.
    """
    found = next((run for run in runs(federation) if run.run == said.run), None)
    log = log_of(federation, found) if found is not None else None
    closed = log.closed() if log is not None else None
    if found is None or log is None or closed is None or closed["model"] != said.model:
        raise BarnraiseError(
            "G101",
            f"the run {said.run} is not finished, or ended in another model",
            f"the release is of the model {said.model}",
            next="barnraise run list",
        )
    if not on_record(log, said.manifest):
        body = asdict(said)
        del body["run"]
        log.write(("release.published", body))
    agreement = Agreement.decode(federation.blobs.read(found.agreement))
    signed = cosigned(agreement.members, patience)
    if signed.note is None:
        raise unwitnessed(federation.name, signed.size, list(signed.names), signed.needed)
    return signed.note
