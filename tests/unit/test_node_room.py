"""A full disk at a site is waited out, and said; nothing else is."""

from __future__ import annotations

import errno

import pytest

from barnraise.client.node.room import WAITING, when_there_is_room
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
