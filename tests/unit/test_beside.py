"""Two commands that write the same directory: the second says so, and spoils nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from barnraise.coordinator.beside import written_beside
from barnraise.protocols.errors import BarnraiseError


def test_the_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    out, theirs = tmp_path / "out", tmp_path / "out.part"
    (tmp_path / ".out.part" / "left").mkdir(parents=True)
    theirs.mkdir()
    with written_beside(out) as part:
        assert list(part.iterdir()) == []
        (part / "file").write_text("first")
        with pytest.raises(BarnraiseError, match="another command") as raised, written_beside(out):
            pass
        assert raised.value.code == "D102"
        assert (part / "file").read_text() == "first" and not out.exists()
    assert (out / "file").read_text() == "first"
    assert sorted(tmp_path.iterdir()) == [out, theirs]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), written_beside(tmp_path / "out") as part:
        (part / "file").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "theirs").write_text("kept")
    with pytest.raises(OSError), written_beside(out):
        pass
    assert [p.name for p in out.iterdir()] == ["theirs"]
    (out / "theirs").unlink()
    (tmp_path / ".out.part").mkdir(mode=0o755)
    with written_beside(out, private=True):
        pass
    assert out.stat().st_mode & 0o777 == 0o700
