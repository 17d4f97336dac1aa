"""Every run's log ends witnessed: by members in this process, and by members that are nodes."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from barnraise.coordinator import events
from barnraise.coordinator.log import Log
from barnraise.coordinator.plans import app_plan
from barnraise.coordinator.simulate import Fleets, execute
from barnraise.processes import Processes
from barnraise.protocols import notes
from barnraise.protocols.identity import site_names
from barnraise.protocols.tlog_proof import TlogProof
from barnraise.protocols.witnessing import quorum

APP = Path(__file__).parents[2] / "benchmarks" / "apps" / "flower_round"
SITES = site_names(3)


@pytest.mark.parametrize("fleets", [None, Processes()], ids=["in process", "nodes"])
def test_the_logs_end_is_cosigned_by_every_member(tmp_path: Path, fleets: Fleets | None) -> None:
    heard: list[events.Event] = []
    plan = app_plan(APP, SITES, {"nodes": 3, "rounds": 2, "mb": 0.01}, 0)
    outcome = execute(plan, tmp_path / "d", watcher=heard.append, fleets=fleets)
    assert outcome.problems == ()
    with closing(Log(tmp_path / "d" / "journal.db")) as log:
        keys = {m: bytes.fromhex(k) for m, k in opened(log)["members"]}
        log.expect(keys, quorum(len(keys)))
        note, size = log.witnessed(), log.size()
        last = json.loads(log.entry(size - 1))
    assert note is not None
    assert last["type"] == "run.closed"
    found = [e for e in heard if isinstance(e, events.Witnessed)]
    assert found == [events.Witnessed(size, tuple(SITES), ())]
    text = note.decode().partition("\n\n")[0] + "\n"
    checkpoint = notes.Checkpoint.parse(text)
    lines = [line for line in note.decode().splitlines() if line.startswith("\u2014 site")]
    for line in lines:
        name = notes.line_name(line)
        notes.check_cosignature(line, name, keys[name], checkpoint)
    assert (len(lines), checkpoint.size) == (3, size)
    if fleets is not None:
        check_receipts(tmp_path / "d" / "nodes")


def opened(log: Log) -> dict[str, list[list[str]]]:
    entries = [json.loads(data) for _, data in log.entries()]
    (body,) = [entry["body"] for entry in entries if entry["type"] == "run.opened"]
    return body  # type: ignore[no-any-return]


def check_receipts(nodes: Path) -> None:
    """Each member can prove each of its contributions with what lies in its own directory."""
    for name in SITES:
        key = json.loads((nodes / name / "federation.json").read_text())["log_key"]
        proofs = sorted((nodes / name / "receipts").glob("*/*.tlog-proof"))
        assert len(proofs) == 2
        for path in proofs:
            entry = path.with_suffix(".json").read_bytes()
            TlogProof.decode(path.read_bytes()).check(entry, key)
            said = json.loads(entry)
            assert (said["type"], said["body"]["member"]) == ("reply.accepted", name)
