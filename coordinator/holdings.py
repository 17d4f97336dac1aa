"""Which models hold a member's work: told when it leaves or is revoked. Read from the journal."""

from __future__ import annotations

from barnraise.coordinator.campaigns import runs
from barnraise.coordinator.federation import Federation
from barnraise.coordinator.runlog import RunLog


def holdings(federation: Federation, member: str) -> list[str]:
    """One line for each run in which a train batch holds a contribution of this member.

    `neighbours-1: rounds 1, 2, 4; the model sha256:…`, the model being the run's last so far.
    """
    lines, names = [], {run.run: run.name for run in runs(federation)}
    for run in federation.ledger.read().runs:
        rounds, model = _work(federation, run, member)
        if rounds:
            counted = ", ".join(map(str, rounds))
            lines.append(
                f"{names.get(run, run)}: rounds {counted}; the model {model or 'is not sealed yet'}"
            )
    return lines


def _work(federation: Federation, run: str, member: str) -> tuple[list[int], str]:
    """The rounds (train batches, counted) that hold the member's work, and the run's last model."""
    log = RunLog(run, federation.journal, federation.blobs, lambda: "")
    round_of: dict[int, int] = {}
    rounds, model = list[int](), ""
    for _, entry in log.read():
        body = entry.body
        if entry.type == "batch.sent" and any(
            o["type"].partition(".")[0] == "train" for o in body["orders"]
        ):
            round_of[body["batch"]] = len(round_of) + 1
        elif entry.type == "reply.accepted" and body["member"] == member:
            if body["batch"] in round_of:
                rounds.append(round_of[body["batch"]])
        elif entry.type in ("round.sealed", "run.closed"):
            model = body["model"]
    return rounds, model
