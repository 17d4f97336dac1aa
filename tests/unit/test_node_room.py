"""A full disk at a site is waited out, and said; nothing else is."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from barnraise.client.node import node, receipts
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.node import Node, Stop
from barnraise.client.node.room import WAITING, Room, when_there_is_room
from barnraise.client.node.supervisor import parsed


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
