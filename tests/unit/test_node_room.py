"""A full disk at a site is waited out, and said; nothing else is."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from barnraise.client.node import node, receipts
from barnraise.client.node.desk import Desk, Order
from barnraise.client.node.kept import Answer, name_of
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.node import Node, Stop
from barnraise.client.node.room import WAITING, Room, when_there_is_room
from barnraise.client.node.spares import LEAST
from barnraise.client.node.spool import Spool
from barnraise.client.node.supervisor import parsed
from barnraise.protocols.canonical import digest
from barnraise.protocols.content import ArrayEntry, Arrays, Envelope


def test_what_finds_no_room_is_tried_again_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    full = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Quota")]
    said: list[tuple[str, int, int]] = []
    waits: list[float] = []

    def write() -> str:
        if full:
            raise full.pop(0)
        return "written"

    assert when_there_is_room(write, lambda *words: said.append(words), waits.append) == "written"
    assert said == [(WAITING, 0, 0)] * 2 and waits == [0.1, 0.2]
    assert capsys.readouterr().err.count("D104") == 1


def test_anything_else_is_raised_at_once() -> None:
    def write() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        when_there_is_room(write, lambda *words: None, lambda seconds: pytest.fail("it waited"))


def test_the_daemon_lets_these_words_through() -> None:
    said = {"said": "progress", "order": "o", "what": WAITING, "done": 0, "total": 0}
    assert vars(parsed(said))["what"] == WAITING


def test_a_receipt_that_finds_no_room_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, kept = [OSError(errno.ENOSPC, "No space left on device")], list[str]()

    def keep(home: Path, run: str, order: str, statement: bytes, proved: Any) -> None:
        if full:
            raise full.pop()
        kept.append(order)

    receipt = {"order": "o", "verdict": "accepted", "reason": ""}
    monkeypatch.setattr(receipts, "opened", lambda *given: receipt)
    monkeypatch.setattr(receipts, "keep", keep)
    monkeypatch.setattr(node.witnessing, "check_receipt", lambda *given: None)
    states, forgotten = list[str](), list[tuple[list[str], str]]()
    log = logging.getLogger("test")
    site = SimpleNamespace(log_key=b"")
    approval = SimpleNamespace(federation="", run="")
    reply = SimpleNamespace(content="", size=0)
    held = SimpleNamespace(
        kept=SimpleNamespace(replies={"o": reply}),
        forget=lambda order: forgotten.append((kept.copy(), order)),
    )
    one = SimpleNamespace(
        _site=site,
        _approval=approval,
        _approved=None,
        _home=tmp_path,
        _spool=held,
        _desk=SimpleNamespace(receipted=lambda order: True),
        _room=Room(tmp_path, Mailbox(), Stop, states.append, log, again=0.0),
        _log=log,
        _settle_at=0.0,
    )
    proved = SimpleNamespace(entry=None, data=b"")
    Node._receipt(cast(Any, one), b"", cast(Any, proved))
    assert forgotten == [(["o"], "o")] and states == ["disk full"]


def test_what_nothing_needs_makes_room_for_what_is_to_be_fetched(tmp_path: Path) -> None:
    """An order that finds no room waits for what lies there, and that must not wait for the order."""
    spool = Spool(tmp_path, "run", remembered=3)
    answered, asked = digest(b"answered"), digest(b"asked")
    reply = b"r" * LEAST
    (spool.outgoing / digest(reply)[7:]).write_bytes(reply)
    text = Envelope((("a", Arrays(digest(reply), (ArrayEntry("w"),))),)).encode().decode()
    named = name_of(text)
    spool.commit(Answer(answered, named, envelopes={named: text}), lambda order, content: {})
    spool.forget(answered)
    (spool.partial / digest(b"begun")[7:]).write_bytes(b"beg")
    (spool.spares.folder / "1").write_bytes(bytes(LEAST))
    desk = Desk("run", (), (), lambda: 0.5)
    desk.attended()
    assert desk.take(Order(asked, "run", 1, 1, "train", "", digest(b"new"), 1.0, 0.0, LEAST)) == ""
    assert desk.next_fetch(0.0) is not None
    room = Room(tmp_path, Mailbox(), Stop, lambda state: None, logging.getLogger("test"))
    room.lacks("no space")
    one = cast(Any, SimpleNamespace(_desk=desk, _room=room, _spool=spool, _untidy=True))
    one._settle_at, one._last_content = float("inf"), {digest(b"old")}
    one._needed = lambda: desk.contents() | one._last_content
    one._make_room = lambda: Node._make_room(one)
    held = [spool.find(digest(reply)), spool.spares.folder / "1"]
    Node._tidy(one)
    assert all(path.exists() for path in held), "something is moved"
    desk.fetch_failed(0.0)
    Node._tidy(one)
    assert not any(path.exists() for path in held) and not list(spool.lent.folder.iterdir())
    assert [path.read_bytes() for path in spool.partial.iterdir()] == [b"beg"]
    assert room.lacking
    assert Spool(tmp_path, "run", remembered=3).kept.done == (answered,)
