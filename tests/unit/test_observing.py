"""What monitoring is told: a log in numbers, health with its reason, JSON lines."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from barnraise.cli import lines
from barnraise.coordinator import events
from barnraise.coordinator.counts import Counts
from barnraise.coordinator.metrics import judge
from barnraise.coordinator.room import HEADROOM
from barnraise.observing import node
from barnraise.observing.listen import place_of
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError


def entry(second: float, type_: str, **body: Any) -> Entry:
    return Entry(type_, f"2026-03-04T05:06:{second:09.6f}Z", {"run": "r", **body})


def orders(type_: str, *members: str) -> list[dict[str, Any]]:
    return [{"type": type_, "members": list(members), "content": "sha256:", "group": "", "ttl": 1}]


ROUND = [
    entry(0, "run.opened"),
    entry(1, "batch.sent", batch=1, orders=orders("train", "ada", "bob", "eve")),
    entry(4, "reply.accepted", batch=1, member="ada", bytes=100),
    entry(5, "reply.refused", batch=1, member="bob", bytes=7, code="M106"),
]
REST = [
    entry(11, "batch.closed", batch=1, void=False, set_aside={}),
    entry(12, "reply.late", batch=1, member="eve", bytes=3, code="M110"),
    entry(13, "batch.sent", batch=2, orders=orders("evaluate", "ada")),
    entry(15, "batch.closed", batch=2, void=True, set_aside={"sha256:": "odd"}),
    entry(16, "round.sealed", round=1),
    entry(18, "run.closed", report={}),
]


def counted(*entries: Entry) -> Counts:
    counts = Counts()
    for one in entries:
        counts.see(one)
    return counts


def test_an_open_batch_says_how_many_are_missing_and_since_when() -> None:
    (batch,) = counted(*ROUND).open.values()
    assert (batch.type, batch.missing) == ("train", 1)
    assert batch.since == 1772600761.0


def test_a_log_in_numbers() -> None:
    counts = counted(*ROUND, *REST)
    assert counts.rounds == 1 and counts.open == {}
    assert counts.received == 110
    assert counts.replies == {"accepted": 1, "refused": 1, "late": 1}
    assert counts.not_taken == {"M106": 1, "M110": 1, "M109": 1}
    assert counts.batches == {("train", False): 1, ("evaluate", True): 1}
    assert counts.runs == {"finished": 1}


def test_all_seconds_of_a_run_are_told_once() -> None:
    seconds = counted(*ROUND, *REST).seconds
    assert seconds == {"other": 6.0, "train": 10.0, "evaluate": 2.0}
    assert sum(seconds.values()) == 18


def test_a_clock_that_went_back_takes_no_seconds_away() -> None:
    counts = counted(*ROUND, entry(0.5, "batch.closed", batch=1, void=False, set_aside={}))
    assert counts.seconds == {"other": 1.0, "train": 0.0}


def test_the_fold_may_stop_anywhere_and_go_on() -> None:
    counts = counted(*ROUND)
    for one in REST:
        counts.see(one)
    assert counts == counted(*ROUND, *REST)


STATUS = {
    "federation": "neighbours",
    "run": "neighbours-1",
    "members": [
        {"member": "ada", "status": "member", "state": "training"},
        {"member": "bob", "status": "member", "state": "absent"},
        {"member": "eve", "status": "invited"},
    ],
}


def test_health_says_why() -> None:
    well, full = judge(STATUS, 9, HEADROOM), judge(STATUS, 9, HEADROOM - 1)
    assert well.ok
    assert well.why == "served; the run neighbours-1 is open; 1 of 2 members attend"
    assert not full.ok and "bytes free" in full.why


@pytest.mark.parametrize(
    ("told", "ok", "why"),
    [
        ({}, True, "idle for 12.0 s"),
        ({"run": "r", "state": "training"}, True, "at work: training for 12.0 s"),
        ({"held": "the ward needs the machine"}, True, "held back for 12.0 s"),
        ({"draining": True}, True, "draining: it finishes what was begun, and ends"),
        ({"connected": False, "cut": "10.0.0.7"}, False, "not connected to the coordinator; it is"),
        ({"running": False}, False, "the node has not begun to attend, or ends"),
        ({"left": {"at": "now"}}, False, "this site has left the federation"),
    ],
)
def test_a_nodes_health_says_what_it_does_and_nothing_private(
    told: dict[str, Any], ok: bool, why: str
) -> None:
    usual = {"left": None, "running": True, "connected": True, "since": 88.0, "run": ""}
    found, said = node.judge({**usual, **told}, 100.0)
    assert (found, said.startswith(why)) == (ok, True), said
    assert "ward" not in said and "10.0" not in said


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:9464", ("::1", 9464)),
        (":9", ("127.0.0.1", 9)),
    ],
)
def test_an_address_is_on_loopback_unless_it_says_otherwise(
    address: str, place: tuple[str, int]
) -> None:
    assert place_of(address) == place


@pytest.mark.parametrize("address", ["", "x", "host:", "::1:9464", "1:99999", "a:-1", "²"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BarnraiseError) as error:
        place_of(address)
    assert error.value.code == "X102"


# --- JSON lines -----------------------------------------------------------------------------------


def test_every_event_is_one_object_with_time_level_and_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    watcher = lines.Events()
    happened: list[events.Event] = [
        events.RunOpened("r", "tiny", ("ada",), False),
        events.BatchSent(1, "train", ("ada",), 9),
        events.Progress("ada", "training step", 1, 2),
        events.MemberState("ada", "training", "step 1", 0.0),
        events.MemberState("ada", "training", "step 2", 0.0),
        events.Answered(1, "ada", "refused", "M106", 5, 1.0),
        events.BatchClosed(1, "train", (), {"ada": "M106"}, {}, True, "all answered", 5, 1.0),
        events.Waiting("batch 1", ("ada",), 0, 3.0, None, "nothing limits the wait"),
        events.DiskFull(Path("f"), 1, 2),
        events.Sealed(1, "sha256:"),
        events.RunClosed("sha256:", None),
        events.Witnessed(3, ("ada",), ()),
    ]
    for event in happened:
        watcher(event)
    told = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert [one["event"] for one in told] == [
        *("RunOpened", "BatchSent", "MemberState", "Answered", "BatchClosed", "Waiting"),
        *("DiskFull", "Sealed", "RunClosed", "Witnessed"),
    ]
    assert all(list(one)[:3] == ["time", "level", "what"] for one in told)
    assert [one["level"] for one in told].count("warning") == 3
    assert told[5]["what"] == "batch 1 waits since 3 s for ada; nothing limits the wait"


def test_a_log_record_is_one_object_whatever_is_in_it() -> None:
    record = logging.LogRecord("node", logging.WARNING, "f", 1, "a\n%s", ('"b"',), None)
    told = json.loads(text := lines.Formatter().format(record))
    assert "\n" not in text
    assert (told["level"], told["what"], told["logger"]) == ("warning", 'a\n"b"', "node")


def test_a_form_that_there_is_not_is_refused() -> None:
    with pytest.raises(BarnraiseError) as error:
        lines.choose("xml")
    assert error.value.code == "X102"


def test_no_code_is_told_of_where_nothing_was_set_aside() -> None:
    counts = Counts()
    for one in [*ROUND[:2], REST[0]]:
        counts.see(one)
    assert not counts.not_taken
