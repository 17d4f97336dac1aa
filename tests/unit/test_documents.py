"""Envelopes in the blob store: small ones together in one file, large ones as files."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from barnraise.coordinator.blobs import RunBlobs as BlobStore
from barnraise.coordinator.evidence import HashOnly
from barnraise.protocols.canonical import digest
from barnraise.protocols.errors import BarnraiseError

SMALL, LARGE = b'{"small":1}', b'"' + b"x" * (1 << 16) + b'"'


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_it_is_read_back_before_and_after_a_sync(data: bytes, tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    name = store.put_envelope(data)
    assert name == digest(data) == HashOnly(store).put_envelope(data)
    for _ in range(2):
        assert store.has(name) and store.read(name) == data and store.size(name) == len(data)
        store.check(name)
        store.put_envelope(data)
        store.sync()
    store.close()
    again = BlobStore(tmp_path)
    assert again.has(name) and again.read(name) == data and list(again.all()) == [name]
    again.close()


def test_a_large_one_does_not_wait_in_memory(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    assert store.path(store.put_envelope(LARGE)).read_bytes() == LARGE
    assert not store.path(store.put_envelope(SMALL)).exists()


def test_what_was_never_synced_is_gone_and_what_was_is_not(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    kept = store.put_envelope(b"kept")
    store.sync()
    lost = store.put_envelope(b"lost")
    store.close()
    again = BlobStore(tmp_path)
    assert again.has(kept) and not again.has(lost)
    with pytest.raises(FileNotFoundError):
        again.read(lost)
    again.close()


def test_a_store_without_envelopes_has_no_such_file(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.put([b"blob"])
    store.sync()
    assert not store.has(digest(SMALL))
    assert not (tmp_path / "envelopes.db").exists()


def test_one_whose_bytes_changed_is_noticed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    name = store.put_envelope(SMALL)
    store.sync()
    store.close()
    with sqlite3.connect(tmp_path / "envelopes.db") as db:
        db.execute("UPDATE documents SET bytes = ?", (b'{"small":2}',))
    db.close()
    again = BlobStore(tmp_path)
    with pytest.raises(BarnraiseError, match="D106"):
        again.check(name)
    again.close()


def test_a_file_that_is_no_database_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "envelopes.db").write_bytes(b"x" * 4096)
    with pytest.raises(BarnraiseError, match="D106"):
        BlobStore(tmp_path).read(digest(SMALL))
