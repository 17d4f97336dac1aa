"""A file that is replaced all the time: whole at any time, and no file is made for it after the first two."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from barnraise.protocols import swap as swapping
from barnraise.protocols.swap import swap


def test_what_is_there_is_what_was_written_last(tmp_path: Path) -> None:
    path = tmp_path / "current.json"
    for data in (b"one", b"a longer one", b"", b"two"):
        swap(path, data)
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o600
    assert {p.name for p in tmp_path.iterdir()} <= {"current.json", ".current.json.spare"}


def test_the_same_two_files_serve_for_ever(tmp_path: Path) -> None:
    if not hasattr(swapping._libc, "renameat2"):
        pytest.skip("the C library has no renameat2")
    path = tmp_path / "current.json"
    seen = set()
    for n in range(20):
        swap(path, b"%d" % n)
        seen.add(path.stat().st_ino)
    assert len(seen) == 2


def test_half_a_writing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "current.json"
    swap(path, b"one")
    swap(path, b"two")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        with pytest.raises(OSError, match="no space"):
            swap(path, b"three")
    assert path.read_bytes() == b"two"
    swap(path, b"four")
    assert path.read_bytes() == b"four"


def test_where_names_cannot_be_exchanged_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapping, "_libc", object())
    path = tmp_path / "current.json"
    for data in (b"one", b"two"):
        swap(path, data)
        assert path.read_bytes() == data
    assert [p.name for p in tmp_path.iterdir()] == ["current.json"]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / ".current.json.spare").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        swap(tmp_path / "current.json", b"one")
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"
