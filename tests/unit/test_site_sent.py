"""What left the site is on record: replies one by one, the rest counted; and what was used."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from barnraise.client.node.policy import Spent
from barnraise.client.node.sent import FILE, LONGEST, ROOM, Sent, Under, listed, used_since
from barnraise.protocols.errors import BarnraiseError

UNDER = Under("r1", "sha256:" + "a" * 64, "sha256:" + "b" * 64)
ORDER, CONTENT = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[Sent]:
    made = Sent(tmp_path / FILE)
    yield made
    made.close()


def test_a_reply_is_on_record_when_the_call_returns(tmp_path: Path, sent: Sent) -> None:
    sent.reply(ORDER, CONTENT, 1000, UNDER, 5.0, metrics={"loss": 2.5})
    (row,) = listed(tmp_path / FILE)
    assert (row.kind, row.what, row.digest, row.bytes, row.times) == (
        "reply",
        ORDER,
        CONTENT,
        1000,
        1,
    )
    assert (row.run, row.under, row.policy) == (UNDER.run, UNDER.approval, UNDER.policy)
    assert row.detail == {"metrics": {"loss": 2.5}}
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_a_reply_that_leaves_again_is_the_same_row(tmp_path: Path, sent: Sent) -> None:
    sent.reply(ORDER, CONTENT, 1000, UNDER, 5.0)
    sent.reply(ORDER, CONTENT, 1000, UNDER, 9.0)
    sent.reply(ORDER, "sha256:" + "3" * 64, 40, UNDER, 9.5, error=True)
    first, second = listed(tmp_path / FILE)
    assert (first.times, first.at, first.last) == (2, 5.0, 9.0)
    assert (second.kind, second.times) == ("error", 1)
    assert sent.spent("1970-01-01", 0.0).out == 1040


def test_what_is_said_in_a_session_is_counted_under_what_it_was_said(
    tmp_path: Path, sent: Sent
) -> None:
    sent.said("hello", "", 80, 1.0)
    sent.under(UNDER)
    for n in range(100):
        sent.said("progress", ORDER, 60, 2.0 + n, done=n)
    assert list(listed(tmp_path / FILE)) == []
    sent.flush()
    hello, progress = listed(tmp_path / FILE)
    assert hello.run == ""
    assert (progress.run, progress.times, progress.bytes) == ("r1", 100, 6000)
    assert (progress.at, progress.last, progress.detail) == (2.0, 101.0, {"done": 99})


def test_what_is_said_is_counted_in_bounded_memory(tmp_path: Path, sent: Sent) -> None:
    for n in range(ROOM + 1000):
        sent.said("state", f"state {n}", 1, 1.0)
    sent.flush()
    rows = list(listed(tmp_path / FILE))
    assert len(rows) == ROOM + 1
    assert sum(row.bytes for row in rows) == ROOM + 1000


def test_use_adds_up_by_day(sent: Sent) -> None:
    sent.use("2026-03-04", rounds=1)
    sent.use("2026-03-04", processor=30.5, gpu=2.0)
    sent.use("2026-03-05", rounds=1)
    assert sent.spent("2026-03-04", 0.0) == Spent(1, 30.5, 2.0, 0)
    assert sent.spent("2026-03-06", 0.0) == Spent()


def test_bytes_out_count_from_midnight(sent: Sent) -> None:
    sent.reply(ORDER, CONTENT, 1000, UNDER, 99.0)
    sent.reply(CONTENT, ORDER, 10, UNDER, 100.0)
    assert sent.spent("1970-01-01", 100.0).out == 10


def test_nothing_leaves_where_nothing_can_be_written_down(tmp_path: Path, sent: Sent) -> None:
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("drop table sent")
    other.close()
    with pytest.raises(BarnraiseError) as caught:
        sent.reply(ORDER, CONTENT, 1, UNDER, 1.0)
    assert caught.value.code == "N320"


def test_a_full_disk_is_said_to_be_one_and_nothing_that_was_counted_is_forgotten(
    tmp_path: Path, sent: Sent
) -> None:
    """The node waits for room then, as with everything else that it writes."""
    (pages,) = sent._db.execute("pragma page_count").fetchone()
    sent._db.execute(f"pragma max_page_count = {pages}")
    full = []
    for n in range(3):
        sent.said("state", "idle", 10, float(n))
        sent.use("1970-01-01", rounds=1, processor=0.5)
        with pytest.raises(BarnraiseError) as caught:
            sent.reply(ORDER, CONTENT, 1, UNDER, 9.0, text="x" * (LONGEST - 100))
        full.append(caught.value.code)
    assert full == ["D104"] * 3
    sent._db.execute(f"pragma max_page_count = {pages + 100}")
    sent.reply(ORDER, CONTENT, 1, UNDER, 9.0)
    said, reply = listed(tmp_path / FILE)
    assert (said.kind, said.at, said.last, said.bytes, said.times) == ("state", 0.0, 2.0, 30, 3)
    assert (reply.kind, reply.times) == ("reply", 1)
    assert used_since(tmp_path / FILE, "1970-01-01", 0.0) == Spent(3, 1.5, out=1)


def test_a_damaged_record_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(BarnraiseError) as caught:
        list(listed(tmp_path / FILE))
    assert caught.value.code == "N321"
    with pytest.raises(BarnraiseError) as caught:
        Sent(tmp_path / FILE)
    assert caught.value.code == "N320"
    assert list(listed(tmp_path / "nowhere")) == []
