"""The log of a charter's run: what all members signed, its rounds as a history, and all of it checked."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from barnraise.builtin import charter_plan
from barnraise.cli.log_lines import History
from barnraise.coordinator.log import Log
from barnraise.coordinator.log_check import check_log
from barnraise.coordinator.shelf import Shelf
from barnraise.coordinator.simulate import execute
from barnraise.protocols.agreements import Agreement
from barnraise.protocols.entries import Entry

CHARTER = """
name = "flowers"
[task]
name = "classification"
features = 4
classes = 3
hidden = [8]
[training]
steps = 10
batch = 8
[strategy]
name = "fedavg"
[rounds]
count = 2
"""
NAMES = ("basel", "cusco", "delhi", "evora")


def ran(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / "data" / name).mkdir(parents=True)
        x, y = np.eye(4)[np.arange(40) % 3], np.arange(40) % 3
        np.savez(tmp_path / "data" / name / "rows.npz", x=x, y=y)
    (tmp_path / "charter.toml").write_text(CHARTER)
    plan = charter_plan(tmp_path / "charter.toml", tmp_path / "data", {})
    execute(plan, tmp_path / "run")
    return tmp_path / "run"


def test_a_charters_run_is_agreed_on_told_and_checked(tmp_path: Path) -> None:
    place = ran(tmp_path)
    with closing(Log(place / "journal.db")) as log:
        entries = [Entry.decode(data) for _, data in log.entries()]
    opened = next(e.body for e in entries if e.type == "run.opened")
    with closing(Shelf(place / "blobs")) as shelf:
        agreement = Agreement.decode(shelf.read(opened["agreement"]) or b"")
        assert (shelf.read(agreement.charter) or b"").decode() == CHARTER
    assert (agreement.app, agreement.quorum) == (opened["app"]["digest"], 4)
    assert tuple(agreement.members) == NAMES
    signed = [e.body["member"] for e in entries if e.type == "charter.signed"]
    assert tuple(signed) == NAMES
    history = History()
    told = [line for entry in entries for line in history.lines(entry)]
    assert any(line.startswith("Round 0 sealed: the initial model, loss ") for line in told)
    (last,) = [line for line in told if line.startswith("Round 2 sealed: ")]
    assert last.startswith("Round 2 sealed: 4 of 4 members, loss ") and " → " in last
    found = check_log(place)
    assert found.problems == []
    witnesses = "witnessed by basel, cusco, delhi, evora (3 needed)"
    assert found.facts[-1].endswith(witnesses) and found.witnessed == found.entries


def test_who_is_late_is_told_with_how_late(tmp_path: Path) -> None:
    history = History()
    orders = [{"type": "train", "group": "", "content": "c", "members": ["basel", "cusco"]}]
    closed = {"accepted": {"o": "c"}, "set_aside": {}, "absent": [], "void": False}
    facts = [
        ("00:00", "batch.sent", {"run": "r", "batch": 1, "kind": "send", "orders": orders}),
        ("00:10", "reply.accepted", {"run": "r", "batch": 1, "order": "o", "member": "basel"}),
        ("00:20", "batch.closed", {"run": "r", "batch": 1, "reason": "deadline", **closed}),
        ("01:00", "reply.late", {"run": "r", "batch": 1, "order": "p", "member": "cusco"}),
        (
            "01:10",
            "round.sealed",
            {"round": 7, "report": {"before": {"loss": 2.31}, "after": {"loss": 2.19}}},
        ),
    ]
    history._seals = True
    lines = [
        line
        for at, type_, body in facts
        for line in history.lines(Entry(type_, f"2026-01-01T00:{at}Z", body))
    ]
    assert lines == ["Round 7 sealed: 1 of 2 members, loss 2.310 → 2.190; cusco late by 40.0 s"]


def test_a_run_that_was_aborted_is_told_by_itself() -> None:
    """Batches are counted anew in each run: what its third one is does not follow from another's."""
    history = History()
    train = [{"type": "train", "group": "", "content": "c", "members": ["basel"]}]
    evaluate = [{**train[0], "type": "evaluate"}]
    closed = {"accepted": {}, "set_aside": {}, "absent": ["basel"], "void": True}
    opened = {"app": {"name": "f"}, "members": [["basel", "00"]]}
    facts = [
        ("run.opened", {"run": "q", **opened}),
        ("batch.sent", {"run": "q", "batch": 3, "kind": "send", "orders": train}),
        ("run.closed", {"run": "q", "model": "sha256:aa"}),
        ("run.opened", {"run": "r", **opened}),
        ("batch.sent", {"run": "r", "batch": 3, "kind": "send", "orders": evaluate}),
        ("batch.closed", {"run": "r", "batch": 3, "reason": "the run ended", **closed}),
        ("run.closed", {"run": "r", "model": ""}),
    ]
    lines = [
        line
        for type_, body in facts
        for line in history.lines(Entry(type_, "2026-01-01T00:00:00Z", body))
    ]
    assert [line for line in lines if "opened" not in line] == [
        "Run q closed: the model is sha256:aa",
        "Run r closed: without a result",
    ]
