"""RecordDict ⇄ envelope and blobs, and the lazily read arrays that Flower gets."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from barnraise.protocols import records, tensors
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import ArrayEntry, Arrays, ContentError, Envelope, Values
from barnraise.protocols.records import LazyArray

SETTINGS = settings(deadline=None, max_examples=60)

names = st.one_of(
    st.sampled_from(["__metadata__", "a/b/c", "w.0.bias", "ü%2F", "%", "", "🌾"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)
ints = st.sampled_from([0, -1, 2**53 + 1, -(2**63), 2**70]) | st.integers()
floats = st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf]) | st.floats()
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
ndarrays = st.sampled_from(sorted(tensors.NATIVE)).flatmap(
    lambda d: hnp.arrays(np.dtype(d), shapes)
)
foreign = st.builds(
    Array,
    st.sampled_from(["bfloat16", "float32", "object", "complex128", "f4,(", ",,", "\x00"]),
    st.lists(st.integers(0, 5), max_size=3).map(tuple),
    st.sampled_from(["numpy.ndarray", "torch", "np.savez", ""]),
    st.binary(max_size=40),
)
arrays = ndarrays.map(Array) | ndarrays.map(lambda a: Array(np.asarray(a, order="F"))) | foreign
array_records = st.dictionaries(names, arrays, max_size=5).map(lambda d: ArrayRecord(d))
metric_values = st.one_of(ints, floats, st.lists(ints, max_size=3), st.lists(floats, max_size=3))
config_values = st.one_of(
    metric_values,
    st.booleans(),
    texts,
    st.binary(max_size=5),
    st.lists(st.booleans(), max_size=3),
    st.lists(texts, max_size=3),
    st.lists(st.binary(max_size=5), max_size=3),
)
record_dicts = st.dictionaries(
    names,
    array_records
    | st.dictionaries(names, metric_values, max_size=4).map(lambda d: MetricRecord(d))
    | st.dictionaries(names, config_values, max_size=4).map(lambda d: ConfigRecord(d)),
    max_size=4,
).map(lambda d: RecordDict(d))


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> BlobStore:
    return BlobStore(tmp_path_factory.mktemp("store"), durable=False)


def there_and_back(content: RecordDict, blobs: BlobStore) -> RecordDict:
    return records.decode(Envelope.decode(records.encode(content, blobs).encode()), blobs)


def shown(value: Any) -> Any:
    """Everything that an app could see of `value`, floats as bits, in a form that == compares."""
    if isinstance(value, RecordDict | ArrayRecord | MetricRecord | ConfigRecord):
        return type(value).__name__, [(k, shown(v)) for k, v in value.items()]
    if isinstance(value, Array):
        return value.dtype, value.shape, value.stype, _elements(value)
    if isinstance(value, list):
        return [shown(v) for v in value]
    if isinstance(value, float):
        return "float", "nan" if math.isnan(value) else value.hex()
    return type(value).__name__, value


def _elements(array: Array) -> Any:
    """The elements if it is an array that NumPy saved natively, else the bytes themselves."""
    data = array.data
    if array.stype == "numpy.ndarray" and data.startswith(b"\x93NUMPY"):
        loaded = array.numpy()
        return str(loaded.dtype), loaded.shape, loaded.tobytes()
    return data


@SETTINGS
@given(record_dicts)
def test_what_comes_back_is_what_went_in(blobs: BlobStore, content: RecordDict) -> None:
    assert shown(there_and_back(content, blobs)) == shown(content)


@SETTINGS
@given(record_dicts)
def test_the_same_content_gives_the_same_bytes(blobs: BlobStore, content: RecordDict) -> None:
    data = records.encode(content, blobs).encode()
    assert records.encode(copy.deepcopy(content), blobs).encode() == data
    again = there_and_back(content, blobs)
    assert records.encode(again, blobs).encode() == data
    assert records.encode(copy.deepcopy(again), blobs).encode() == data


mixed = st.lists(st.one_of(ints, floats, texts, st.booleans(), st.binary(max_size=2)), max_size=3)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["metrics", "config"]), config_values | mixed)
def test_an_envelope_takes_exactly_what_flowers_records_take(kind: str, value: Any) -> None:
    try:
        {"metrics": MetricRecord, "config": ConfigRecord}[kind]({"k": value})
    except TypeError:
        with pytest.raises(ContentError):
            Values(kind, (("k", value),))
    else:
        Values(kind, (("k", value),))


def test_what_is_drafted_does_not_change_with_the_record(blobs: BlobStore) -> None:
    """A thread of its own writes it, while the app goes on with its record."""
    metrics, config = MetricRecord({"k": [1.0, 2.0]}), ConfigRecord({"k": ["a"]})
    content = RecordDict({"m": metrics, "c": config})
    envelope = records.encode(content, blobs)
    before = envelope.encode()
    metrics["k"].append(3.0)  # type: ignore[union-attr]
    config["k"].append("b")  # type: ignore[union-attr]
    assert envelope.encode() == before != records.encode(content, blobs).encode()


def test_the_same_arrays_under_another_config_are_the_same_blob(blobs: BlobStore) -> None:
    def content(lr: float) -> Envelope:
        arrays = ArrayRecord([np.ones(3, np.float32)])
        return records.encode(RecordDict({"a": arrays, "c": ConfigRecord({"lr": lr})}), blobs)

    assert content(1.0).blobs() == content(2.0).blobs()
    assert content(1.0).encode() != content(2.0).encode()


FOREIGN: dict[str, NDArray[Any]] = {
    "big-endian": np.arange(4, dtype=">f4"),
    "structured": np.zeros(3, [("a", "<f4"), ("b", "<i2")]),
    "complex128": np.ones(2, np.complex128),
    "text": np.array(["a", "bc"]),
    "dates": np.array(["2026-01-01"], "datetime64[D]"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_a_blob_cannot_hold_travels_as_its_bytes(blobs: BlobStore, name: str) -> None:
    array = Array(FOREIGN[name])
    back = there_and_back(RecordDict({"r": ArrayRecord({"a": array})}), blobs)
    got = back.array_records["r"]["a"]
    assert (got.data, got.dtype, got.shape, got.stype) == (
        array.data,
        array.dtype,
        array.shape,
        array.stype,
    )
    assert np.array_equal(got.numpy(), FOREIGN[name])


NPY = Array(np.arange(6, dtype=np.float32)).data
LIES = {
    "no npy at all": ("float32", (6,), b"not npy"),
    "nothing": ("float32", (6,), b""),
    "a zip": ("float32", (6,), b"PK\x03\x04" + b"\0" * 40),
    "another dtype": ("int32", (6,), NPY),
    "another shape": ("float32", (2, 3), NPY),
    "a byte too many": ("float32", (6,), NPY + b"\0"),
    "a byte too few": ("float32", (6,), NPY[:-1]),
    "a negative shape": ("float32", (-6,), NPY),
    "a negative empty shape": ("float32", (-6, 0), NPY),
    "65 dimensions": ("float32", (1,) * 65, NPY),
    "an endless shape": ("float32", (2**62, 2**62), NPY),
    "an endless empty shape": ("float32", (2**62, 2**62, 0), NPY),
    "a claim of 2^50 elements": ("float32", (2**50,), NPY.replace(b"(6,)", b"(%d,)" % 2**50)),
    "a dtype's other spelling": ("<f4", (6,), NPY),
}


@pytest.mark.parametrize("name", LIES)
def test_an_array_that_is_not_what_it_says_travels_as_its_bytes(
    blobs: BlobStore, name: str
) -> None:
    dtype, shape, data = LIES[name]
    array = Array(dtype, shape, "numpy.ndarray", data)
    envelope = records.encode(RecordDict({"r": ArrayRecord({"a": array})}), blobs)
    (record,) = [r for _, r in envelope.records]
    assert isinstance(record, Arrays)
    assert record.entries == (ArrayEntry("a", ("numpy.ndarray", dtype, shape)),)
    assert there_and_back(RecordDict({"r": ArrayRecord({"a": array})}), blobs) == RecordDict(
        {"r": ArrayRecord({"a": array})}
    )
    with pytest.raises(TypeError, match="no elements"):
        records.tensor_of(array)


def test_a_shape_of_truth_does_not_spoil_the_next_array(blobs: BlobStore) -> None:
    one = np.ones(1, np.uint16)
    odd = Array("uint16", (True,), "numpy.ndarray", Array(one).data)
    for array in (odd, Array(one)):
        envelope = records.encode(RecordDict({"r": ArrayRecord({"a": array})}), blobs)
        (record,) = [r for _, r in envelope.records]
        assert record == Arrays(envelope.blobs()[0], (ArrayEntry("a"),))


def test_content_that_no_format_holds_is_a_content_error(blobs: BlobStore) -> None:
    name = RecordDict({"r": ArrayRecord({"\ud800": Array(np.ones(1))})})
    number = RecordDict({"r": MetricRecord({"k": 10**5000})})
    mixed = RecordDict({"r": MetricRecord({"k": [1]})})
    mixed.metric_records["r"]["k"].append("text")  # type: ignore[union-attr,arg-type]
    shape = RecordDict({"r": ArrayRecord({"a": Array(np.ones(1))})})
    shape.array_records["r"]["a"].shape = (1.5,)  # type: ignore[assignment]
    for content in (name, number, mixed, shape):
        with pytest.raises(ContentError):
            records.encode(content, blobs).encode()


def test_an_envelope_that_contradicts_its_blob_is_refused(blobs: BlobStore) -> None:
    blob = blobs.put(tensors.encode({"a": np.ones(2), "b": np.ones((2, 2), np.uint8)}))
    raw = ("x", "y", (2,))
    for entries in (
        [ArrayEntry("a")],
        [ArrayEntry("a"), ArrayEntry("b"), ArrayEntry("c")],
        [ArrayEntry("a", raw), ArrayEntry("b")],
        [ArrayEntry("a"), ArrayEntry("b", raw)],
    ):
        with pytest.raises(ContentError):
            records.decode(Envelope((("r", Arrays(blob, tuple(entries))),)), blobs)


# --- lazily read arrays -----------------------------------------------------------------------


@pytest.fixture
def record(blobs: BlobStore) -> ArrayRecord:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7)}
    content = RecordDict({"r": ArrayRecord({k: Array(v) for k, v in arrays.items()})})
    return there_and_back(content, blobs).array_records["r"]


def test_numpy_gives_a_private_writable_array(record: ArrayRecord) -> None:
    first = record["w"].numpy()
    first[:] = -1
    assert np.array_equal(record["w"].numpy(), np.arange(6).reshape(2, 3))


def test_nothing_is_read_before_it_is_asked_for(blobs: BlobStore) -> None:
    content = RecordDict({"r": ArrayRecord({"w": Array(np.full((2, 3), 71.0))})})
    array = there_and_back(content, blobs).array_records["r"]["w"]
    assert isinstance(array, LazyArray)
    blobs.drop(array.blob)
    assert (array.dtype, array.shape, array.stype) == ("float64", (2, 3), "numpy.ndarray")
    with pytest.raises(FileNotFoundError):
        array.numpy()


def test_flower_sees_its_own_array(record: ArrayRecord) -> None:
    own = Array(np.arange(6, dtype=np.float32).reshape(2, 3))
    lazy = record["w"]
    assert type(lazy).__qualname__ == "Array"
    assert lazy.data == own.data
    assert lazy == own
    assert own == lazy
    assert lazy != record["n"]
    assert lazy != "Array"
    assert "float32" in repr(lazy)
    assert "kB" not in repr(lazy)
    assert lazy.object_id == own.object_id


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))]
)
def test_a_copy_is_an_ordinary_array(record: ArrayRecord, clone: Callable[[Array], Array]) -> None:
    copied = clone(record["w"])
    assert type(copied) is Array
    assert copied == record["w"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", Array(np.zeros((2, 3), np.float32)).data),
        ("dtype", "float32"),
        ("shape", (2, 3)),
        ("stype", "numpy.ndarray"),
    ],
)
def test_setting_a_field_makes_it_an_ordinary_array(
    record: ArrayRecord, blobs: BlobStore, name: str, value: Any
) -> None:
    array = record["w"]
    assert isinstance(array, LazyArray)
    expected = np.zeros((2, 3)) if name == "data" else array.numpy()
    setattr(array, name, value)
    blobs.drop(array.blob)
    assert array.changed
    assert np.array_equal(array.numpy(), expected)
    assert getattr(array, name) == value


def test_a_changed_array_is_encoded_as_it_is_now(record: ArrayRecord, blobs: BlobStore) -> None:
    record["w"].data = Array(np.full((2, 3), 9, np.float32)).data
    back = there_and_back(RecordDict({"r": record}), blobs).array_records["r"]
    assert np.array_equal(back["w"].numpy(), np.full((2, 3), 9))
    assert back["n"].numpy() == 7


class Counting:
    """A blob store that says how often it was written to."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs, self.puts = blobs, 0

    def has(self, digest: str) -> bool:
        return self.blobs.has(digest)

    def put(self, pieces: Iterator[memoryview]) -> str:
        self.puts += 1
        return self.blobs.put(pieces)

    def path(self, digest: str) -> Path:
        return self.blobs.path(digest)

    def specs(self, digest: str) -> Any:
        return self.blobs.specs(digest)


def test_an_unchanged_blob_is_recognised_and_not_written_again(
    record: ArrayRecord, blobs: BlobStore
) -> None:
    sink = Counting(blobs)
    first = record["w"]
    assert isinstance(first, LazyArray)
    assert records.encode(RecordDict({"r": record}), sink).blobs() == (first.blob,)
    backwards = ArrayRecord()
    for key in reversed(list(record)):
        backwards[key] = record[key]
    assert records.encode(RecordDict({"r": backwards}), sink).blobs() == (first.blob,)
    assert sink.puts == 0


def renamed(record: ArrayRecord) -> None:
    record["other"] = record.pop("w")


def swapped(record: ArrayRecord) -> None:
    record["w"], record["n"] = record["n"], record["w"]


def shortened(record: ArrayRecord) -> None:
    del record["n"]


def extended(record: ArrayRecord) -> None:
    record["more"] = Array(np.ones(1))


def edited(record: ArrayRecord) -> None:
    record["n"].data = Array(np.array(8)).data


@pytest.mark.parametrize("change", [renamed, swapped, shortened, extended, edited])
def test_a_record_that_differs_from_its_blob_is_written(
    record: ArrayRecord, blobs: BlobStore, change: Callable[[ArrayRecord], None]
) -> None:
    change(record)
    sink = Counting(blobs)
    envelope = records.encode(RecordDict({"r": record}), sink)
    assert sink.puts == 1
    back = records.decode(envelope, blobs)
    assert shown(back.array_records["r"]) == shown(record)


def test_a_blob_that_the_sink_lacks_is_written(record: ArrayRecord, tmp_path: Path) -> None:
    sink = BlobStore(tmp_path, durable=False)
    (blob,) = records.encode(RecordDict({"r": record}), sink).blobs()
    assert sink.has(blob)


def test_flowers_own_conversions_read_lazy_arrays(record: ArrayRecord) -> None:
    import torch

    state = record.to_torch_state_dict()
    assert torch.equal(state["w"], torch.arange(6.0).reshape(2, 3))
    assert state["n"].item() == 7
    state["w"] += 1  # in place, as load_state_dict and optimizers do
    assert record["w"].numpy()[0, 0] == 0
    w, n = record.to_numpy_ndarrays()
    assert w.shape == (2, 3)
    assert n == 7
    kept = RecordDict({"r": record}).copy()
    assert kept["r"] == record
    assert record.count_bytes() > 24
    record.to_numpy_ndarrays(keep_input=False)
    assert not record


@pytest.mark.parametrize("dtype", sorted(tensors.NATIVE))
def test_array_of_is_flowers_own_array(dtype: str) -> None:
    for shape in [(), (0,), (3,), (2, 0), (2, 3)]:
        array = np.ones(shape, dtype)
        assert records.array_of(array) == Array(array)
        if array.ndim == 2:
            assert np.array_equal(records.array_of(np.asfortranarray(array)).numpy(), array)


@SETTINGS
@given(ndarrays)
def test_tensor_of_reads_any_arrays_elements(blobs: BlobStore, array: NDArray[Any]) -> None:
    lazy = there_and_back(RecordDict({"r": ArrayRecord({"a": Array(array)})}), blobs)
    for held in (Array(array), Array(np.asarray(array, order="F")), lazy.array_records["r"]["a"]):
        tensor = records.tensor_of(held)
        out = np.empty(array.size, array.dtype)
        if out.size:
            tensor.read_into(out, 0)
        assert (tensor.dtype, tensor.shape, out.tobytes()) == (
            array.dtype,
            array.shape,
            array.tobytes(),
        )
