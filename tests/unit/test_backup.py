"""A federation's directory is copied: whole, private, and from any moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from barnraise.coordinator.backup import back_up
from barnraise.coordinator.federation import Federation, found, opened
from barnraise.coordinator.log_check import check_log
from barnraise.coordinator.proposals import Draft, propose
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import simulated_key


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """One that has members and has asked them, held open by whoever works on it."""
    root = tmp_path / "f"
    found(root, "neighbours", "127.0.0.1:8440")
    with ExitStack() as stack:
        one = stack.enter_context(opened(root))
        for name in ("ada", "bob"):
            key = simulated_key(b"k" * 32, name).public_key().public_bytes_raw()
            one.ledger.enrolled(name, key.hex(), "")
        propose(one, Draft.charter(root / "charter.toml"))
        one.keep_blob(b"{}")
        (root / "incoming" / "half").write_bytes(b"x")
        (root / "blobs" / "incoming" / "half").write_bytes(b"x")
        yield one


def names(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def test_a_copy_holds_together_and_opens(federation: Federation, tmp_path: Path) -> None:
    done = back_up(federation.root, tmp_path / "copy")
    assert (done.federation, done.entries) == ("neighbours", 4)
    checked = check_log(tmp_path / "copy")
    assert checked.problems == [] and checked.root == done.root
    with opened(tmp_path / "copy") as copy:
        assert copy.ledger.read() == federation.ledger.read()
        assert copy.authority.vkey == federation.authority.vkey


def test_what_is_of_a_process_or_on_its_way_stays_behind(
    federation: Federation, tmp_path: Path
) -> None:
    back_up(federation.root, tmp_path / "copy")
    of_now = {"lock", "incoming/half", "blobs/incoming/half"}
    beside = {name for name in names(federation.root) if name.endswith(("-wal", "-shm"))}
    assert names(federation.root) - names(tmp_path / "copy") == of_now | beside


def test_nobody_else_may_read_it(federation: Federation, tmp_path: Path) -> None:
    (federation.root / "charter.toml").chmod(0o644)
    back_up(federation.root, tmp_path / "copy")
    for path in [tmp_path / "copy", *(tmp_path / "copy").rglob("*")]:
        linked = path.stat().st_nlink > 1 and path.is_file()
        assert linked or path.stat().st_mode & 0o077 == 0, path


def test_blobs_are_linked_where_they_can_be(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = next((federation.root / "blobs" / "sha256").rglob("??*/*"))
    assert back_up(federation.root, tmp_path / "copy").linked == len(list(federation.blobs.all()))
    copy = tmp_path / "copy" / blob.relative_to(federation.root)
    assert blob.samefile(copy)

    def elsewhere(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", elsewhere)
    assert back_up(federation.root, tmp_path / "other").linked == 0
    other = tmp_path / "other" / blob.relative_to(federation.root)
    assert other.read_bytes() == blob.read_bytes() and not blob.samefile(other)


def test_the_copy_is_of_one_moment_though_the_log_grows(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that come while the rest is copied are not in it; what they name may be."""
    from barnraise.coordinator import backup

    rest = backup._rest

    def meanwhile(*arguments: Path) -> Iterator[Path]:
        if len(arguments) == 1:
            blob = federation.keep_blob(b'{"later":1}')
            federation.ledger.adopted(blob, blob)
        yield from rest(*arguments)

    monkeypatch.setattr(backup, "_rest", meanwhile)
    assert back_up(federation.root, tmp_path / "copy").entries == 4
    assert check_log(tmp_path / "copy").problems == []
    assert len(federation.journal) == 5


def test_a_copy_beside_the_mark_of_a_later_log_is_refused(
    federation: Federation, tmp_path: Path
) -> None:
    back_up(federation.root, tmp_path / "copy")
    federation.ledger.adopted("sha256:" + "0" * 64, "sha256:" + "0" * 64)
    (tmp_path / "copy" / "journal.mark").write_bytes(
        (federation.root / "journal.mark").read_bytes()
    )
    with pytest.raises(BarnraiseError) as error, opened(tmp_path / "copy"):
        pass
    assert error.value.code == "D106"


@pytest.mark.parametrize("name", ["f", "f/copy", "there"])
def test_a_place_in_use_is_refused(federation: Federation, tmp_path: Path, name: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").touch()
    before = names(tmp_path)
    with pytest.raises(BarnraiseError) as error:
        back_up(federation.root, tmp_path / name)
    assert error.value.code == "K101"
    assert names(tmp_path) == before


def test_a_link_into_the_federation_is_no_way_round(federation: Federation, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(federation.root)
    with pytest.raises(BarnraiseError) as error:
        back_up(federation.root, tmp_path / "link" / "copy")
    assert error.value.code == "K101"


def test_a_copy_that_was_cut_short_leaves_nothing(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from barnraise.coordinator import backup

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(backup, "_copy", full)
        with pytest.raises(BarnraiseError) as error:
            back_up(federation.root, tmp_path / "copy")
    assert error.value.code == "D104"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]  # what was begun holds keys
    assert back_up(federation.root, tmp_path / "copy").entries == 4
    assert not list(tmp_path.glob(".copy*"))
