"""What the app has sent lies on disk and no longer in memory, and nothing about it has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from barnraise.protocols import flower
from barnraise.protocols.blobs import BlobStore


def stored(records: RecordDict, root: Path) -> BlobStore:
    store = BlobStore(root, durable=False)
    envelope = flower.encode(records, store)
    store.sync()
    flower.shelve(records, envelope, store)
    return store


def test_whoever_holds_a_sent_array_holds_it_lazily(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    record = ArrayRecord([array, np.ones(())])
    mine, data = record["0"], record["0"].data
    records = RecordDict({"model": record, "config": ConfigRecord({"a": 1})})
    store = stored(records, tmp_path)
    assert isinstance(mine, flower.LazyArray)
    assert mine is records.array_records["model"]["0"]
    assert "_held" not in mine.__dict__
    assert (mine.dtype, tuple(mine.shape), mine.stype) == ("float32", (2, 3), "numpy.ndarray")
    assert mine.data == data
    np.testing.assert_array_equal(mine.numpy(), array)
    assert flower.encode(records, store) == flower.encode(records, store)


def test_an_array_that_is_changed_afterwards_is_what_it_was_changed_to(tmp_path: Path) -> None:
    record = ArrayRecord([np.zeros(3)])
    store = stored(RecordDict({"model": record}), tmp_path)
    record["0"].data = Array(np.ones(3)).data
    again = flower.decode(flower.encode(RecordDict({"m": record}), store), store)
    np.testing.assert_array_equal(again.array_records["m"]["0"].numpy(), np.ones(3))


def test_what_is_not_told_apart_from_its_blob_stays_in_memory(tmp_path: Path) -> None:
    """Fortran order would come back in C order; a foreign serialization is bytes to us."""
    record = ArrayRecord([np.asfortranarray(np.arange(6.0).reshape(2, 3))])
    record["raw"] = Array("float32", (2,), "torch.pickle", b"12345678")
    before = {key: array.data for key, array in record.items()}
    stored(RecordDict({"model": record}), tmp_path)
    assert {key: array.data for key, array in record.items()} == before
    assert type(record["raw"]) is Array
