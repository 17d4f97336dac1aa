"""`one_copy_arrays`: what flwr makes of a NumPy array inside is what it makes of it outside."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from barnraise.protocols.records import one_copy_arrays

ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4)),
    np.arange(24, dtype=np.int16).reshape(4, 6)[::2, ::3],
    np.arange(3, dtype=">i4"),
    np.array(7, dtype=np.uint8),
    np.zeros((0, 5), np.float16),
    np.array([True, False]),
    np.array([np.nan, -0.0, np.inf], np.complex64),
    np.array(["a", "bc"]),
    np.array([(1, 2.0)], dtype=[("x", "i4"), ("y", "f8")]),
    np.arange(4, dtype=np.float32).view(np.recarray),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_the_same_fields(array: np.ndarray) -> None:
    outside = Array(array)
    with one_copy_arrays():
        inside, listed = Array(array), ArrayRecord([array])["0"]
    for made in (inside, listed):
        assert type(made) is Array
        assert vars(made).keys() >= {"dtype", "shape", "stype", "data"}
        for field in ("dtype", "shape", "stype", "data"):
            assert getattr(made, field) == getattr(outside, field), field
        assert made.object_id == outside.object_id


def test_the_array_may_change_afterwards() -> None:
    array = np.zeros(3, np.float32)
    with one_copy_arrays():
        made = Array(array)
    array[:] = 1
    assert made.numpy().tolist() == [0, 0, 0]


def test_flwr_is_as_it_was_afterwards() -> None:
    before = Array.__dict__["from_numpy_ndarray"]
    with pytest.raises(ZeroDivisionError), one_copy_arrays():
        raise ZeroDivisionError
    assert Array.__dict__["from_numpy_ndarray"] is before
