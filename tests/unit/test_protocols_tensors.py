"""Blobs: the safetensors library's own bytes, read back exactly, and believed in nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from barnraise.protocols import tensors
from barnraise.protocols.tensors import BlobError, MemoryTensor

SETTINGS = settings(deadline=None, max_examples=100)
DTYPES = sorted(tensors.NATIVE)
PLAIN = st.text("abcXYZ019_.-~", max_size=5)
ANY_NAME = st.one_of(
    st.sampled_from(["__metadata__", "%5F_metadata__", "a/b", "a.b", "ü", "%", "", "🌾", "\x00"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
ARRAY = st.sampled_from(DTYPES).flatmap(
    lambda d: hnp.arrays(
        np.dtype(d), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    )
)


def blob(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    return b"".join(tensors.encode(arrays))


def bits(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    return str(array.dtype), array.shape, array.tobytes()


def with_header(header: Any, payload: bytes = b"") -> bytes:
    data = (
        header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    )
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data + payload


@SETTINGS
@given(st.dictionaries(PLAIN, ARRAY, max_size=6))
def test_the_bytes_are_the_safetensors_librarys_own(arrays: dict[str, NDArray[Any]]) -> None:
    assert blob(arrays) == safetensors.numpy.save(arrays)


@SETTINGS
@given(st.dictionaries(ANY_NAME, ARRAY, max_size=6))
def test_the_safetensors_library_reads_any_blob(arrays: dict[str, NDArray[Any]]) -> None:
    read = safetensors.numpy.load(blob(arrays))
    assert sorted(bits(a) for a in read.values()) == sorted(bits(a) for a in arrays.values())


@SETTINGS
@given(st.dictionaries(ANY_NAME, ARRAY, max_size=6), st.randoms(use_true_random=False))
def test_insert_order_does_not_matter(arrays: dict[str, NDArray[Any]], random: Any) -> None:
    names = list(arrays)
    random.shuffle(names)
    assert blob({n: arrays[n] for n in names}) == blob(arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blobs")


@SETTINGS
@given(st.dictionaries(ANY_NAME, ARRAY, max_size=6))
def test_what_is_read_is_what_was_written(folder: Path, arrays: dict[str, NDArray[Any]]) -> None:
    path = folder / "blob"
    path.write_bytes(blob(arrays))
    specs = tensors.open_blob(path)
    assert set(specs) == set(arrays)
    for name, array in arrays.items():
        loaded = specs[name].open(path).load()
        assert bits(loaded) == bits(array)
        assert loaded.flags.writeable


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3).T, np.arange(9)[::-2]])
def test_elements_are_stored_in_c_order(array: NDArray[Any]) -> None:
    assert blob({"a": array}) == blob({"a": np.ascontiguousarray(array)})


def test_a_tensor_is_read_in_pieces(folder: Path) -> None:
    array = np.arange(1000, dtype=np.float32)
    (folder / "pieces").write_bytes(blob({"x": np.ones(3), "a": array}))
    on_disk = tensors.open_blob(folder / "pieces")["a"].open(folder / "pieces")
    for tensor in (on_disk, MemoryTensor.of(array.reshape(10, 100))):
        out = np.empty(7, np.float32)
        tensor.read_into(out, 900)
        assert np.array_equal(out, array[900:907])


def test_a_file_that_shrank_is_an_error_and_not_old_memory(folder: Path) -> None:
    path = folder / "shrunk"
    path.write_bytes(blob({"a": np.ones(100)}))
    spec = tensors.open_blob(path)["a"]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BlobError, match="ends at byte"):
        spec.open(path).load()


def test_a_header_of_more_than_one_read(folder: Path) -> None:
    arrays = {f"layer.{i}": np.full(1, i) for i in range(2000)}
    (folder / "many").write_bytes(blob(arrays))
    assert set(tensors.open_blob(folder / "many")) == set(arrays)


def test_what_a_peer_claims_is_not_kept() -> None:
    large = blob({"x" * 100_000: np.ones(1)})
    before = tensors._header.cache_info().currsize
    tensors._header.cache_clear()
    assert before > 0
    tensors.parse(large, len(large))
    assert tensors._header.cache_info().currsize == 0


def test_a_name_that_is_not_text_has_no_blob() -> None:
    with pytest.raises(BlobError, match="name"):
        blob({"\ud800": np.ones(1)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
def test_the_first_tensor_that_is_not_finite_is_named(folder: Path, bad: float, dtype: str) -> None:
    last = np.zeros(11, dtype)
    last[-1] = bad
    path = folder / "nonfinite"
    path.write_bytes(blob({"n": np.zeros(4, np.int64), "a": np.zeros(5, dtype), "b": last}))
    assert tensors.first_nonfinite(path, tensors.open_blob(path).values(), chunk=4) == "b"
    path.write_bytes(blob({"n": np.zeros(4, np.int64), "a": np.zeros(5, dtype)}))
    assert tensors.first_nonfinite(path, tensors.open_blob(path).values(), chunk=4) is None


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}


FOUR = b"\0\0\0\0"
REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "a header that is not there": (100).to_bytes(8, "little"),
    "a header beyond 2^63": b"\xff" * 8 + b"{}",
    "an empty header": b"\0" * 8,
    "not JSON": with_header(b"{a}"),
    "not UTF-8": with_header(b'{"\xff":1}'),
    "a list": with_header([]),
    "a number beyond Python's digits": with_header(b"1" * 5000),
    "endless nesting": with_header(b"[" * 100_000),
    "metadata": with_header({"__metadata__": {"a": "b"}}),
    "a name twice": with_header(
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
        b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    ),
    "no padding": (2).to_bytes(8, "little") + b"{}",
    "too much padding": with_header(b"{}" + b" " * 9),
    "a space": with_header(json.dumps(one()).encode(), FOUR),
    "an entry that is text": with_header({"a": "F32"}),
    "a field too many": with_header(one(more=1), FOUR),
    "a field too few": with_header({"a": {"dtype": "F32", "shape": [1]}}, FOUR),
    "an unknown dtype": with_header(one(dtype="F8"), FOUR),
    "a dtype that NumPy lacks": with_header(one(dtype="BF16", shape=[2]), FOUR),
    "a dtype that is a list": with_header(one(dtype=[]), FOUR),
    "a negative length": with_header(one(shape=[-1]), FOUR),
    "a float length": with_header(one(shape=[1.0]), FOUR),
    "truth as a length": with_header(one(shape=[True]), FOUR),
    "a shape that is a number": with_header(one(shape=1), FOUR),
    "a shape that contradicts": with_header(one(shape=[2]), FOUR),
    "a shape beyond all memory": with_header(one(shape=[2**61, 2**61]), FOUR),
    "an empty shape beyond NumPy": with_header(one(shape=[0, 2**61, 2**61], data_offsets=[0, 0])),
    "more dimensions than NumPy has": with_header(one(shape=[1] * 65), FOUR),
    "a product that takes hours": with_header(one(shape=[2**61] * 200_000), FOUR),
    "three offsets": with_header(one(data_offsets=[0, 4, 4]), FOUR),
    "a gap before": with_header(one(data_offsets=[4, 8]), FOUR * 2),
    "offsets backwards": with_header(one(data_offsets=[4, 0]), FOUR),
    "a trailing byte": with_header(one(), FOUR + b"\0"),
    "a missing byte": with_header(one(), FOUR[:3]),
    "a name that is not UTF-8": with_header({"%FF": one()["a"]}, FOUR),
    "a lone surrogate": with_header({"\ud800": one()["a"]}, FOUR),
    "a name that needs no escape": with_header({"%61": one()["a"]}, FOUR),
    "a small hex digit": with_header({"%2f": one()["a"]}, FOUR),
    "a name that needs an escape": with_header({"a/b": one()["a"]}, FOUR),
    "half an escape": with_header({"%2": one()["a"]}, FOUR),
    "tensors in another order": with_header(
        {
            "b": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        FOUR,
    ),
}


def test_the_header_that_the_next_tests_damage_is_good() -> None:
    whole = with_header(one(), FOUR)
    assert list(tensors.parse(whole, len(whole))) == ["a"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_encode_would_not_write_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(BlobError):
        tensors.parse(REFUSED[name], len(REFUSED[name]))
    (folder / "refused").write_bytes(REFUSED[name])
    with pytest.raises(BlobError):
        tensors.open_blob(folder / "refused")


def test_a_header_that_is_cut_off_is_refused() -> None:
    whole = with_header(one(), FOUR)
    with pytest.raises(BlobError, match="cut off"):
        tensors.parse(whole[:20], len(whole))


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_damaged_blob_is_refused_or_another_blob(data: st.DataObject) -> None:
    arrays = {"a/b": np.ones((2, 3), np.float32), "n": np.array(7), "e": np.zeros((0, 2), np.int8)}
    whole = bytearray(blob(arrays))
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header - 1))
        whole[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(BlobError):
        specs = tensors.parse(bytes(whole), len(whole))
        read = {
            n: np.frombuffer(whole[s.start : s.stop], s.dtype).reshape(s.shape)
            for n, s in specs.items()
        }
        assert blob(read) == bytes(whole)


@SETTINGS
@given(st.binary(max_size=60))
def test_random_bytes_are_refused(data: bytes) -> None:
    with contextlib.suppress(BlobError):
        assert tensors.parse(data, len(data)) == {}
