"""What the journal of a federation names is on the disk by then, whatever instant the power goes at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from power_kit import watched
from test_founding import enrol

from barnraise.coordinator import campaigns, proposals
from barnraise.coordinator.blobs import RunBlobs
from barnraise.coordinator.documents import Documents
from barnraise.coordinator.federation import found, opened
from barnraise.coordinator.journal import Journal
from barnraise.coordinator.proposals import Draft
from barnraise.protocols import blobs as store
from barnraise.protocols.canonical import digest
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError


def test_a_proposal_and_a_run_are_on_the_disk_before_the_entries_that_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path / "f", "neighbours", "localhost:0")
    with opened(tmp_path / "f") as federation, watched(monkeypatch) as power:
        enrol(federation, "basel")
        federation.ledger.catch_up(federation.authority)
        one = proposals.propose(federation, Draft.charter(federation.root / "charter.toml"))
        assert power.lost(one.folder) == []
        assert power.lost(federation.root / "blobs" / "sha256") == []
        monkeypatch.setattr(campaigns, "check_signed", lambda *_: None)
        run = campaigns.create(federation, one)
        assert power.lost(run.root) == []
        path = federation.blobs.kept(one.agreement.charter)
        assert path.is_file()
        assert power.lost(path) == power.lost(path.parent) == power.lost(path.parent.parent) == []


def test_a_secret_that_is_not_the_runs_own_is_noticed(tmp_path: Path) -> None:
    """It is what hides the noise of a private run, and decides whom it samples."""
    found(tmp_path / "f", "neighbours", "localhost:0")
    with opened(tmp_path / "f") as federation, pytest.MonkeyPatch.context() as patch:
        enrol(federation, "basel")
        federation.ledger.catch_up(federation.authority)
        one = proposals.propose(federation, Draft.charter(federation.root / "charter.toml"))
        patch.setattr(campaigns, "check_signed", lambda *_: None)
        run = campaigns.create(federation, one)
        conduct = campaigns.Conduct(federation, run, lambda _: None)
        conduct.log.write(("run.opened", conduct._body(conduct.members)))
        (run.root / "secret").write_bytes(b"")

        def never(_: object) -> Any:
            raise AssertionError("it went on")

        with pytest.raises(BarnraiseError, match="secret is damaged"):
            campaigns.Conduct(federation, run, lambda _: None).conduct(never)


def test_an_envelope_alone_makes_its_store_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(monkeypatch) as power:
        blobs = RunBlobs(tmp_path / "blobs")
        blobs.put_envelope(b"{}")
        blobs.sync()
        assert power.lost(tmp_path / "blobs") == []
        blobs.close()


def test_a_blob_that_a_killed_process_left_unsynced_is_synced_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with watched(monkeypatch) as power:
        first = RunBlobs(tmp_path / "blobs")
        path = first.kept(first.put([b"some bytes"]))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(store, "_fsync", killed)
            first.sync()
        assert power.lost(path) != []
        second = RunBlobs(tmp_path / "blobs")
        second.put([b"some bytes"])
        second.sync()
        assert power.lost(path) == power.lost(path.parent) == []


def test_what_a_killed_process_committed_and_did_not_sync_is_synced_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that is there already is not written, nor synced, again; the entry that names it is."""
    documents = Documents(tmp_path / "envelopes.db", durable=True)
    journal = Journal(tmp_path / "journal.db")
    documents.put(b"{}")
    documents.sync()
    journal.append([Entry("roster.seen", "", {}).encode()])
    with watched(monkeypatch) as power:
        reading = Documents(tmp_path / "envelopes.db", durable=True)
        assert reading.read(digest(b"{}")) == b"{}"
        again = Journal(tmp_path / "journal.db")
        for name in ("envelopes.db", "envelopes.db-wal", "journal.db", "journal.db-wal"):
            assert power.synced(tmp_path / name), name
    for opened_ in (documents, reading, journal, again):
        opened_.close()
