"""What of a data directory is read, and what is left out of it."""

from __future__ import annotations

from pathlib import Path

from barnraise.cli.sim import links_left_out
from barnraise.client.datafiles import data_files


def test_links_are_not_followed_and_are_counted(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    (data / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "b.txt").write_text("b")
    (data / "a.txt").write_text("a")
    assert links_left_out(data) == []
    (data / "b.txt").symlink_to(elsewhere / "b.txt")
    (data / "sub" / "folder").symlink_to(elsewhere)
    (data / ".hidden").symlink_to(elsewhere)
    assert list(data_files(data)) == [data / "a.txt"]
    assert links_left_out(data) == [f"{data}: 2 links left out, for no link is followed"]
