"""Array records as tensors and back, without a copy of what they hold."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord

from barnraise.protocols.flower import tensor_of
from barnraise.protocols.tensors import Tensor


def open_model(record: ArrayRecord) -> dict[str, Tensor]:
    """The record's arrays as tensors. Raises `TypeError` for one that is not NumPy's."""
    return {key: tensor_of(array) for key, array in record.items()}


def record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """A record of these arrays themselves; `ArrayRecord(arrays)` would copy each."""
    record = ArrayRecord()
    for key, array in arrays.items():
        record[key] = array
    return record


def again(record: ArrayRecord) -> ArrayRecord:
    """Another record of the same arrays: nothing done to one shows in the other."""
    return record_of(dict(record.items()))
