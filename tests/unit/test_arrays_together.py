"""The arrays of a small record are read together: each still private, fresh and read when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from barnraise.protocols import records, tensors
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.tensors import BlobError, FileTensor

MADE = [np.full((n, 2), n, np.float32) for n in range(12)] + [np.array(7), np.array([True, False])]


def put(blobs: BlobStore, arrays: Sequence[np.ndarray]) -> records.Envelope:
    envelope = records.encode(RecordDict({"r": ArrayRecord(list(arrays))}), blobs)
    blobs.sync()
    return envelope


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path, durable=False)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read: "all" of a record, or a single array."""
    seen = []
    load_all, load = tensors.load_all, FileTensor.load

    def all_of(*args: Any) -> Any:
        seen.append("all")
        return load_all(*args)

    def single(self: FileTensor) -> Any:
        seen.append("one")
        return load(self)

    monkeypatch.setattr(records, "load_all", all_of)
    monkeypatch.setattr(FileTensor, "load", single)
    return seen


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, len(MADE) - 1)), max_size=60))
def test_any_sequence_of_asking_gives_the_arrays_afresh(
    blobs: BlobStore, asked: list[tuple[int, int]]
) -> None:
    envelope = put(blobs, MADE)
    two = [records.decode(envelope, blobs).array_records["r"] for _ in range(2)]
    for which, number in asked:
        array = two[which][str(number)].numpy()
        assert array.dtype == MADE[number].dtype
        assert np.array_equal(array, MADE[number])
        array[...] = 0  # nobody else may see it


def test_a_small_record_is_read_by_one_call(blobs: BlobStore, reads: list[str]) -> None:
    record = records.decode(put(blobs, MADE), blobs).array_records["r"]
    for array, made in zip(record.to_numpy_ndarrays(), MADE, strict=True):
        assert np.array_equal(array, made)
    assert reads == ["all"]
    record.to_numpy_ndarrays()
    assert reads == ["all", "all"]


def test_a_record_is_not_read_as_a_whole_for_one_of_its_later_arrays(
    blobs: BlobStore, reads: list[str]
) -> None:
    record = records.decode(put(blobs, MADE), blobs).array_records["r"]
    for _ in range(3):
        record["5"].numpy()
    assert reads == ["one"] * 3


def test_the_first_arrays_of_many_replies_hold_no_others(blobs: BlobStore) -> None:
    envelope = put(blobs, MADE)
    for _ in range(5):
        records.decode(envelope, blobs).array_records["r"]["0"].numpy()
    _, held = records._Together._read
    assert len(held) == len(MADE) - 1


def test_a_large_record_is_read_array_by_array(
    blobs: BlobStore, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_SMALL", 100)
    record = records.decode(put(blobs, MADE), blobs).array_records["r"]
    record.to_numpy_ndarrays()
    assert reads == ["one"] * len(MADE)


def test_more_arrays_than_one_call_of_the_kernel_takes(blobs: BlobStore) -> None:
    made = [np.full(n % 3, n, np.int32) for n in range(2500)]
    record = records.decode(put(blobs, made), blobs).array_records["r"]
    for array, expected in zip(record.to_numpy_ndarrays(), made, strict=True):
        assert np.array_equal(array, expected)


def test_parts_that_come_short_are_read_on(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    envelope = put(blobs, MADE)
    preadv = tensors.os.preadv

    def short(fd: int, parts: list[memoryview], offset: int) -> int:
        return int(preadv(fd, [parts[0][:5]], offset))

    monkeypatch.setattr(tensors.os, "preadv", short)
    record = records.decode(envelope, blobs).array_records["r"]
    for array, made in zip(record.to_numpy_ndarrays(), MADE, strict=True):
        assert np.array_equal(array, made)


def test_a_file_that_was_cut_is_no_blob(blobs: BlobStore) -> None:
    envelope = put(blobs, MADE)
    record = records.decode(envelope, blobs).array_records["r"]
    path = blobs.path(envelope.blobs()[0])
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(BlobError):
        record["0"].numpy()
