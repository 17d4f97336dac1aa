"""What is going on, as data: the picture that events give, and the file that another process reads."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from barnraise.cli.picture import Picture
from barnraise.cli.status import StatusFile, line, lines, read
from barnraise.coordinator import events
from barnraise.protocols.errors import BarnraiseError

FOUR = ("basel", "geneva", "lausanne", "zurich")
HAPPENED: list[events.Event] = [
    events.RunOpened("0123456789abcdef", "our-app", FOUR, False),
    events.Sealed(2, "sha256:00", {"rounds": 10}),
    events.BatchSent(7, "train", FOUR, 100),
    events.Answered(7, "basel", "accepted", "", 10, 1.0),
    events.MemberState("geneva", "training", "step 31/200", 0.0),
    events.MemberState("zurich", "absent", "", 0.0),
    events.Waiting("batch 7 (train)", FOUR[1:], 0, 2.0, 60.0, "(deadline) without them"),
]


def picture(happened: list[events.Event], times: Iterator[float]) -> Picture:
    made = Picture()
    for event in happened:
        made.see(event, next(times))
    return made


def test_the_same_as_data() -> None:
    told = picture(HAPPENED, count(0.0, 1.0)).as_dict(10.0)
    assert (told["round"], told["rounds"]) == (2, 10)
    assert told["batch"] == {
        "number": 7,
        "type": "train",
        "asked": list(FOUR),
        "answered": {"basel": "accepted"},
        "seconds": 8.0,
    }
    assert told["members"]["geneva"] == {
        "state": "training",
        "detail": "step 31/200",
        "seconds": 6.0,
    }
    assert told["members"]["zurich"]["state"] == "absent"
    assert told["members"]["lausanne"]["state"] == "idle"
    assert told["waiting"] == (
        "batch 7 (train) waits since 6 s for geneva, lausanne, zurich; closes in 56 s (deadline) without them"
    )


def test_a_detail_of_the_same_state_keeps_its_beginning() -> None:
    more = [*HAPPENED, events.MemberState("geneva", "training", "step 32/200", 0.0)]
    told = picture(more, count(0.0, 1.0)).as_dict(10.0)
    assert told["members"]["geneva"] == {
        "state": "training",
        "detail": "step 32/200",
        "seconds": 6.0,
    }


def test_a_closed_batch_is_waited_for_no_longer() -> None:
    closed = events.BatchClosed(7, "train", FOUR, {}, {}, False, "all answered", 10, 1.0)
    made = picture([*HAPPENED, closed], count(0.0, 1.0))
    assert made.lines(9.0) == []
    assert (made.as_dict(9.0)["batch"], made.as_dict(9.0)["waiting"]) == (None, None)


def test_many_members_are_counted_and_the_absent_named() -> None:
    many = tuple(f"site-{i:02}" for i in range(32))
    made = picture(
        [
            events.RunOpened("0", "app", many, False),
            events.BatchSent(1, "train", many, 100),
            *(events.MemberState(m, "training", "", 0.0) for m in many[:30]),
            events.MemberState("site-31", "absent", "", 0.0),
        ],
        count(0.0, 0.0),
    )
    assert made.lines(1.0)[1:] == ["30 training, 1 idle, 1 absent", "absent: site-31"]


def test_another_process_reads_what_the_run_last_said(tmp_path: Path) -> None:
    times = count(0.0, 1.0)
    status = StatusFile(tmp_path, lambda: next(times))
    for event in HAPPENED:
        status(event)
    (tmp_path / "lock").touch()
    told = read(tmp_path)
    assert told["running"] is False
    assert told["members"]["geneva"]["detail"] == "step 31/200"
    assert json.loads(json.dumps(told)) == told
    with (tmp_path / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert read(tmp_path)["running"] is True
    said = lines(told)
    assert said[0].startswith("not running · round 2/10")
    assert any(line.startswith("  geneva    training step 31/200") for line in said)


def test_what_happens_quickly_is_written_a_little_later(tmp_path: Path) -> None:
    now = [0.0]
    status = StatusFile(tmp_path, lambda: now[0])
    status(HAPPENED[0])
    for event in HAPPENED[1:]:
        status(event)
    assert read(tmp_path)["members"].get("geneva", {}).get("detail") != "step 31/200"
    timer = status._timer
    assert timer is not None
    timer.join()
    assert read(tmp_path)["members"]["geneva"]["detail"] == "step 31/200"


def test_a_disk_that_refuses_the_file_ends_no_run(tmp_path: Path) -> None:
    StatusFile(tmp_path / "gone")(HAPPENED[0])


@pytest.mark.parametrize("text", [None, "", "{"])
def test_a_directory_without_a_status_is_d103(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    with pytest.raises(BarnraiseError) as caught:
        read(tmp_path)
    assert caught.value.code == "D103"


def test_a_wait_is_told_by_how_long_it_has_lasted_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing happens while a run waits, so nothing is written: the reader reckons."""
    monkeypatch.setattr("barnraise.cli.status.time.time", lambda: 1000.0)
    told = StatusFile(tmp_path)
    told(events.Waiting("the run", ("ada",), 0, 2.0, None, "it starts then"))
    monkeypatch.setattr("barnraise.cli.status.time.time", lambda: 1600.0)
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = read(tmp_path)
        assert "since 10" in found["waiting"]
        assert line(found) == "running · round 0 · waits for ada"
        assert read(tmp_path, tmp_path / "another")["waits_for"] is None
    found = read(tmp_path)
    assert found["waits_for"] is None and line(found) == "not running · round 0"
