"""The exact pass: `strategies.exact` and `strategies.columns`."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from barnraise.protocols.tensors import BlobError, MemoryTensor, Tensor, encode, open_blob
from barnraise.strategies import columns, exact
from barnraise.strategies.exact import Step, WeightedMean, advance
from barnraise.strategies.outer import Nesterov, Sgd

Model = Mapping[str, NDArray[Any]]
DTYPES = ("float16", "float32", "float64", "int8", "int64", "uint64", "bool", "complex64")
SHAPES: Sequence[tuple[int, ...]] = ((), (0,), (1,), (7,), (3, 5), (40,))
SEEDS = st.integers(0, 2**32 - 1)


def a_model(seed: int, form: Mapping[str, tuple[str, tuple[int, ...]]]) -> Model:
    """Values of widely different size, so that the order of additions shows in the bytes."""
    rng = np.random.default_rng(seed)
    model: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in form.items():
        values = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)
        if np.dtype(dtype).kind in "iub":
            values = np.abs(values) % 100
        model[name] = np.asarray(values, dtype=dtype)
    return model


def form_of(model: Model) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    return {name: (a.dtype, a.shape) for name, a in model.items()}


def in_memory(model: Model) -> dict[str, Tensor]:
    return {name: MemoryTensor.of(a) for name, a in model.items()}


def on_disk(model: Model, path: Path) -> dict[str, Tensor]:
    path.write_bytes(b"".join(encode(model)))
    specs = open_blob(path)
    return {name: specs[name].open(path) for name in model}


def mean(members: Sequence[Model], weights: Sequence[int], **options: Any) -> Model:
    tensors = [in_memory(m) for m in members]
    return advance(form_of(members[0]), tensors, WeightedMean(weights), np.copy, **options).model


def bytes_of(model: Model) -> dict[str, bytes]:
    return {name: a.tobytes() for name, a in model.items()}


forms = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)),
    max_size=6,
)
weights_of = st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(forms, weights_of, SEEDS, st.integers(1, 9), st.integers(1, 4), st.integers(1, 40))
def test_l1_exact_any_chunk_thread_and_span_gives_the_same_bytes(
    form: Any, weights: list[int], seed: int, chunk: int, threads: int, span: int
) -> None:
    members = [a_model(seed + i, form) for i in range(len(weights))]
    base, state = in_memory(a_model(seed + 90, form)), None
    expected = None
    for options in ({}, {"chunk": chunk, "threads": threads}):
        step = Step(Nesterov(0.7, 0.9), base, state)
        with mock.patch.object(exact, "SPAN", span if options else exact.SPAN):
            done = advance(
                {k: (np.dtype(d), s) for k, (d, s) in form.items()},
                [in_memory(m) for m in members],
                WeightedMean(weights),
                np.copy,
                step=step,
                **options,
            )
        got = (bytes_of(done.model), bytes_of(done.state["momentum"]), list(done.model))
        expected = expected or got
        assert got == expected
        assert list(done.model) == list(form)


@settings(max_examples=40, deadline=None)
@given(forms, SEEDS, st.integers(1, 9))
def test_l1_where_a_reply_lies_does_not_matter(form: Any, seed: int, chunk: int) -> None:
    members = [a_model(seed + i, form) for i in range(3)]
    weights = [3, 1, 2]
    expected = bytes_of(mean(members, weights))
    with tempfile.TemporaryDirectory() as folder:
        sources = [on_disk(m, Path(folder) / str(i)) for i, m in enumerate(members)]
        mixed = dict(zip(form, range(len(form)), strict=True))
        sources[1] = {
            n: MemoryTensor.of(members[1][n]) if i % 2 else sources[1][n] for n, i in mixed.items()
        }
        for held in (0, 2, 256):
            with mock.patch.object(columns, "MAX_FILES", held):
                done = advance(
                    form_of(members[0]), sources, WeightedMean(weights), np.copy, chunk=chunk
                )
            assert bytes_of(done.model) == expected


# --- the mean ---------------------------------------------------------------------------------------


def exact_mean(values: Sequence[float], weights: Sequence[int]) -> Fraction:
    total = sum((Fraction(v) * w for v, w in zip(values, weights, strict=True)), Fraction(0))
    return total / sum(weights)


@settings(max_examples=60, deadline=None)
@given(weights_of, SEEDS, st.sampled_from(["float16", "float32"]))
def test_the_mean_is_within_half_an_ulp_and_a_float64_error_of_the_rational_mean(
    weights: list[int], seed: int, dtype: str
) -> None:
    members = [a_model(seed + i, {"x": (dtype, (20,))}) for i in range(len(weights))]
    got = mean(members, weights)["x"]
    for i, found in enumerate(got):
        values = [float(m["x"][i]) for m in members]
        error = abs(Fraction(float(found)) - exact_mean(values, weights))
        spread = max(map(abs, values)) * 2.0**-50
        assert error <= Fraction(float(np.spacing(abs(found)))) / 2 + Fraction(spread)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-(2**20), 2**20), min_size=4, max_size=4),
    st.sampled_from([(1, 1, 1, 1), (1, 3, 3, 1), (5, 1, 1, 1), (6, 2, 4, 4)]),
    st.sampled_from(["float16", "float32", "float64"]),
)
def test_the_mean_is_correctly_rounded_where_float64_is_exact(
    numerators: list[int], weights: tuple[int, ...], dtype: str
) -> None:
    members = [{"x": np.array([n / 64], dtype)} for n in numerators]
    values = [float(m["x"][0]) for m in members]
    if not np.isfinite(values).all():
        return
    exactly = exact_mean(values, weights)
    assert Fraction(float(exactly)) == exactly  # so that one rounding is all there is
    assert mean(members, weights)["x"][0] == np.array(float(exactly)).astype(dtype)


@settings(max_examples=40, deadline=None)
@given(weights_of, SEEDS)
def test_the_mean_is_that_of_a_full_matrix_in_float64(weights: list[int], seed: int) -> None:
    members = [a_model(seed + i, {"x": ("float64", (50,))}) for i in range(len(weights))]
    matrix = np.stack([m["x"] for m in members])
    w = np.array(weights, np.float64)
    bound = 1e-14 * (w @ np.abs(matrix)) / w.sum()
    assert (np.abs(mean(members, weights)["x"] - w @ matrix / w.sum()) <= bound).all()


@settings(max_examples=40, deadline=None)
@given(weights_of, SEEDS, st.sampled_from(["float16", "float32", "int8", "bool", "complex64"]))
def test_the_mean_of_equal_models_is_that_model(weights: list[int], seed: int, dtype: str) -> None:
    model = a_model(seed, {"x": (dtype, (30,))})
    if dtype == "float32":
        model["x"][:3] = [-0.0, 1e-45, np.finfo(np.float32).max]
    assert bytes_of(mean([model] * len(weights), weights)) == bytes_of(model)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("int64", (0, 1), 0),  # half to even
        ("int64", (1, 2), 2),
        ("int8", (-1, 0), 0),
        ("int8", (127, 127), 127),
        ("bool", (False, True), False),
        ("int64", (2**63 - 1, 2**63 - 1), 2**63 - 1024),  # the float64 below 2^63
        ("uint64", (2**64 - 1, 2**64 - 1), 2**64 - 2048),
        ("int64", (-(2**63), -(2**63)), -(2**63)),
    ],
)
def test_counters_are_rounded_half_to_even_and_stay_in_range(
    dtype: str, values: tuple[int, int], expected: int
) -> None:
    members = [{"n": np.array(v, dtype)} for v in values]
    step = Step(Nesterov(0.7, 0.9), in_memory(members[0]))
    for options in ({}, {"step": step}):
        got = mean(members, [1, 1], **options)["n"]
        assert got.dtype == dtype
        assert got == np.array(expected, dtype)


def test_weights_are_positive_integers_with_an_exact_sum() -> None:
    for weights in ([], [0], [-1, 2], [1.0], [True], [2**52, 2**52]):
        with pytest.raises(ValueError, match="the weights"):
            WeightedMean(weights)  # type: ignore[arg-type]


def test_the_pass_says_whether_the_model_is_finite() -> None:
    good, bad = {"x": np.ones(4, np.float32)}, {"x": np.array([1, np.nan, 1, 1], np.float32)}
    for members, finite in (([good, good], True), ([good, bad], False)):
        tensors = [in_memory(m) for m in members]
        done = advance(form_of(good), tensors, WeightedMean([1, 1]), np.copy, chunk=1)
        assert done.finite is finite


# --- outer steps --------------------------------------------------------------------------------------


def test_sgd_at_rate_one_is_the_mean_but_for_a_rounding() -> None:
    members = [a_model(i, {"x": ("float32", (200,))}) for i in range(3)]
    base = in_memory(a_model(9, {"x": ("float32", (200,))}))
    stepped = mean(members, [1, 2, 3], step=Step(Sgd(1.0), base))["x"]
    np.testing.assert_allclose(stepped, mean(members, [1, 2, 3])["x"], rtol=1e-6, atol=1e-12)


def test_state_is_float32_and_float64_beside_float64() -> None:
    form = {"h": ("float16", (3,)), "f": ("float32", (3,)), "d": ("float64", ()), "n": ("int8", ())}
    members = [a_model(i, form) for i in range(2)]
    step = Step(Nesterov(0.7, 0.9), in_memory(members[0]))
    tensors = [in_memory(m) for m in members]
    done = advance(form_of(members[0]), tensors, WeightedMean([1, 1]), np.copy, step=step)
    kept = {name: str(a.dtype) for name, a in done.state["momentum"].items()}
    assert kept == {"h": "float32", "f": "float32", "d": "float64"}


@pytest.mark.parametrize(
    ("lr", "momentum"), [(0.0, 0.9), (-1, 0), (float("nan"), 0), (0.7, 1.0), (0.7, float("nan"))]
)
def test_outer_options_out_of_range_are_refused(lr: float, momentum: float) -> None:
    with pytest.raises(ValueError, match="must"):
        Nesterov(lr, momentum)


# --- disk -----------------------------------------------------------------------------------------------


def test_l6_memory_does_not_grow_with_members(tmp_path: Path) -> None:
    model = {f"layer{i}": np.full(1 << 17, i, np.float32) for i in range(16)}  # 8 MiB
    first = tmp_path / "0"
    on_disk(model, first)

    def peak(n: int) -> int:
        members = []
        for i in range(n):
            path = tmp_path / str(i)
            if not path.exists():
                path.hardlink_to(first)
            members.append({name: s.open(path) for name, s in open_blob(path).items()})
        tracemalloc.start()
        try:
            kept = advance(
                form_of(model), members, WeightedMean(list(range(1, n + 1))), len, threads=2
            )
            assert len(kept.model) == 16
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(2), peak(40)
    size = sum(a.nbytes for a in model.values())
    assert few < 2 * size + 2 * 4 * 8 * exact.CHUNK
    assert many - few < size / 8


def test_a_blob_that_is_cut_short_raises_and_leaves_nothing_open(tmp_path: Path) -> None:
    model = {"x": np.ones(1000, np.float32)}
    tensors = [on_disk(model, tmp_path / str(i)) for i in range(3)]
    with (tmp_path / "1").open("r+b") as file:
        file.truncate(2000)
    before = open_files()
    with pytest.raises(BlobError, match="ends at byte"):
        advance(form_of(model), tensors, WeightedMean([1, 1, 1]), np.copy, chunk=10, threads=2)
    (tmp_path / "2").unlink()
    with pytest.raises(FileNotFoundError):
        advance(form_of(model), tensors, WeightedMean([1, 1, 1]), np.copy)
    assert open_files() == before


def open_files() -> list[str]:
    return sorted(p.name for p in Path("/proc/self/fd").iterdir())


def test_neighbours_in_a_blob_are_read_as_one_and_others_apart(tmp_path: Path) -> None:
    model = {f"layer{i}": np.full(10, i, np.float32) for i in range(20)}
    tensors = on_disk(model, tmp_path / "blob")
    inner = sorted(model)  # as the blob has them
    with columns.Files(tensors.values()) as files:
        for names, pieces in ((inner, 1), (inner[:5] + inner[7:], 2), (inner[::-1], 20)):
            column = columns.Column([tensors[n] for n in names], files)
            assert len(column._pieces) == pieces
            row = np.empty(10 * len(names) - 6)
            column.read(3, np.empty(8 * row.size, np.uint8), row)
            assert row.tolist() == np.concatenate([model[n] for n in names])[3:-3].tolist()
