"""Update codecs: what is lost is bounded, decoding is one function of the bytes, nothing is believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from barnraise.protocols.codecs import CODECS, CodecError, check, code, coded_form, open_coded
from barnraise.protocols.packing import from_bfloat16, to_bfloat16
from barnraise.protocols.tensors import MemoryTensor, Tensor, encode, open_blob, parse, size_of

Model = dict[str, NDArray[Any]]
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (7, 37), (255,), (257,), (4096,), (9001,))
ROUND_OFF = {"fp32": 2.0**-24, "bf16": 2.0**-8}


def a_model(seed: int) -> Model:
    """Arrays of every length around the blocks' ends, with values of widely different size."""
    rng = np.random.default_rng(seed)
    model: Model = {
        f"w{i}": np.asarray(rng.standard_normal(s) * 10.0 ** rng.integers(-4, 3, s), np.float32)
        for i, s in enumerate(SHAPES)
    }
    model["half"] = rng.standard_normal(300).astype(np.float16)
    model["double"] = rng.standard_normal(300)
    model["seen"] = rng.integers(0, 99, 3)
    model["phase"] = (rng.standard_normal(5) + 1j).astype(np.complex64)
    return model


def tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: MemoryTensor.of(a) for name, a in arrays.items()}


def form_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    return {name: (a.dtype, a.shape) for name, a in arrays.items()}


def read(tensor: Tensor, chunk: int = 10**9) -> NDArray[Any]:
    out = np.empty(size_of(tuple(tensor.shape)), tensor.dtype)
    for start in range(0, out.size, chunk):
        tensor.read_into(out[start : start + chunk], start)
    return out


def floating(model: Model) -> list[str]:
    return [name for name, a in model.items() if a.dtype.kind == "f"]


@pytest.mark.parametrize("codec", CODECS)
def test_the_lengths_follow_from_the_model_alone(codec: str) -> None:
    base, model = a_model(1), a_model(2)
    assert form_of(code(codec, model, base, {})[0]) == dict(coded_form(form_of(base), codec))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(CODECS)), st.integers(0, 2**32 - 1), st.integers(1, 700))
def test_any_chunks_of_a_blob_on_disk_give_the_same_elements(
    tmp_path_factory: pytest.TempPathFactory, codec: str, seed: int, chunk: int
) -> None:
    base, model = a_model(seed), a_model(seed + 1)
    coded, _ = code(codec, model, base, {})
    path = tmp_path_factory.mktemp("coded") / "blob"
    path.write_bytes(b"".join(encode(coded)))
    on_disk: dict[str, Tensor] = {name: s.open(path) for name, s in open_blob(path).items()}
    check(on_disk, form_of(base), codec)
    whole = open_coded(tensors(coded), tensors(base), codec)
    pieces = open_coded(on_disk, tensors(base), codec)
    for name in base:
        assert read(pieces[name], chunk).tobytes() == read(whole[name]).tobytes(), name


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(CODECS)), st.integers(0, 2**32 - 1))
def test_what_the_coding_loses_is_bounded(codec: str, seed: int) -> None:
    base, model = a_model(seed), a_model(seed + 1)
    coded, _ = code(codec, model, base, {})
    opened = open_coded(tensors(coded), tensors(base), codec)
    for name in floating(base):
        delta = model[name].astype(float).reshape(-1) - base[name].reshape(-1)
        lost = np.abs(read(opened[name]) - base[name].reshape(-1) - delta)
        if codec in ROUND_OFF:
            bound = np.abs(delta) * ROUND_OFF[codec]
        elif codec == "topk":
            assert np.count_nonzero(lost > np.abs(delta) * 2.0**-8) <= delta.size * 31 / 32
            bound = np.abs(delta)
        else:
            rule: Any = CODECS[codec]
            starts = np.arange(0, delta.size, rule.block)
            largest = np.maximum.reduceat(np.abs(delta), starts) if delta.size else delta
            bound = np.repeat(largest, rule.block)[: delta.size] * (0.501 / rule.top)
        slack = 1e-15 * np.abs(base[name]).max(initial=0) + 1e-38
        assert (lost <= bound + slack).all(), (name, codec)
    for name in ("seen", "phase"):
        assert np.array_equal(read(opened[name]), model[name])


@pytest.mark.parametrize("codec", ["int4", "topk"])
def test_with_error_feedback_what_was_lost_arrives_later(codec: str) -> None:
    """The same small update for many rounds: the sum of what arrives comes near the sum of what was
    sent, and what is still owed is the residual exactly."""
    rng = np.random.default_rng(3)
    base = {"w": np.zeros(5000, np.float32)}
    update = {"w": rng.standard_normal(5000).astype(np.float32)}
    residual: dict[str, NDArray[np.float32]] = {}
    arrived = np.zeros(5000)
    for _ in range(40):
        coded, residual = code(codec, update, base, residual)
        arrived += read(open_coded(tensors(coded), tensors(base), codec)["w"])
    assert np.abs(arrived + residual["w"] - 40.0 * update["w"]).max() < 1e-3
    once = read(open_coded(tensors(code(codec, update, base, {})[0]), tensors(base), codec)["w"])
    without = np.linalg.norm(40 * once - 40.0 * update["w"])
    assert np.linalg.norm(arrived - 40.0 * update["w"]) < 0.55 * without


def test_the_others_keep_nothing_from_round_to_round() -> None:
    base, model = a_model(5), a_model(6)
    assert [c for c in CODECS if code(c, model, base, {})[1]] == ["int4", "topk"]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_member_that_diverged_is_noticed_and_keeps_its_residual(codec: str, bad: float) -> None:
    base = {"w": np.ones(9000, np.float32)}
    model = {"w": base["w"] + np.linspace(-1, 1, 9000, dtype=np.float32)}
    _, residual = code(codec, model, base, {})
    model["w"][4200] = bad
    coded, after = code(codec, model, base, residual)
    with pytest.raises(CodecError) as caught:
        check(tensors(coded), form_of(base), codec)
    assert caught.value.nonfinite
    assert {k: v.tobytes() for k, v in after.items()} == {
        k: v.tobytes() for k, v in residual.items()
    }
    opened = read(open_coded(tensors(coded), tensors(base), codec)["w"])
    assert not np.isfinite(opened).all()


def test_what_the_models_dtype_cannot_hold_is_infinite() -> None:
    base = {"w": np.full(300, 3e38, np.float32)}
    coded = {"v/w": np.full(300, 127, np.int8), "s/w": np.full(2, 1e36, np.float32)}
    opened = read(open_coded(tensors(coded), tensors(base), "int8")["w"])
    assert np.isinf(opened).all()
    assert np.isfinite(
        read(open_coded(tensors(code("int8", base, base, {})[0]), tensors(base), "int8")["w"])
    ).all()


def hostile() -> dict[str, tuple[str, dict[str, NDArray[Any]], bool]]:
    """codec, what of a good update of 5001 elements is replaced by what, and whether by NaN."""
    places = code("topk", {"w": np.ones(5001, np.float32)}, BASE, {})[0]["i/w"]
    swapped, twice, beyond, over = places.copy(), places.copy(), places.copy(), places.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    twice[4] = twice[3]
    beyond[-1] = 5001 - 4096
    over[127] = 4096
    return {
        "longer": ("int8", {"v/w": np.zeros(5002, np.int8)}, False),
        "another dtype": ("int8", {"v/w": np.zeros(5001, np.uint8)}, False),
        "another rank": ("int8", {"v/w": np.zeros((5001, 1), np.int8)}, False),
        "fewer scales": ("int8", {"s/w": np.ones(19, np.float32)}, False),
        "one array more": ("int8", {"v/x": np.zeros(1, np.int8)}, False),
        "the model itself": ("fp32", {"w": np.zeros(5001, np.float32)}, False),
        "NaN as a scale": ("int4", {"s/w": np.full(40, np.nan, np.float32)}, True),
        "an infinite scale": ("int8", {"s/w": np.full(20, np.inf, np.float32)}, True),
        "NaN in bfloat16": ("bf16", {"v/w": np.full(5001, 0xFFC1, np.uint16)}, True),
        "infinity in bfloat16": ("topk", {"v/w": np.full(157, 0xFF80, np.uint16)}, True),
        "a padding that says something": ("int4", {"v/w": np.full(2501, 0x99, np.uint8)}, False),
        "places in another order": ("topk", {"i/w": swapped}, False),
        "a place twice": ("topk", {"i/w": twice}, False),
        "a place behind the end": ("topk", {"i/w": beyond}, False),
        "a place in the next block": ("topk", {"i/w": over}, False),
    }


BASE: Model = {"w": np.zeros(5001, np.float32)}
HOSTILE = hostile()


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_update_is_refused(case: str) -> None:
    codec, changes, nonfinite = HOSTILE[case]
    good, _ = code(codec, {"w": np.linspace(-1, 1, 5001, dtype=np.float32)}, BASE, {})
    check(tensors(good), form_of(BASE), codec)
    with pytest.raises(CodecError) as caught:
        check(tensors({**good, **changes}), form_of(BASE), codec)
    assert caught.value.nonfinite == nonfinite
    if not nonfinite:
        with pytest.raises(CodecError):
            open_coded(tensors({**good, **changes}), tensors(BASE), codec)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CODECS)), st.integers(0, 2**32 - 1))
def test_any_bytes_of_the_right_lengths_are_refused_or_read_the_same_in_any_chunks(
    codec: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    form = {"w": (np.dtype(np.float32), (4100,))}
    noise = {
        name: rng.integers(0, 256, size_of(shape) * dtype.itemsize, np.uint8).view(dtype)
        for name, (dtype, shape) in coded_form(form, codec).items()
    }
    base = {"w": np.zeros(4100, np.float32)}
    try:
        opened = open_coded(tensors(noise), tensors(base), codec)["w"]
    except CodecError:
        return
    with np.errstate(invalid="ignore"):
        assert read(opened, 77).tobytes() == read(opened).tobytes()


def test_bfloat16_is_rounded_half_to_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -0.0, 1e-40, 3.4e38, np.nan], np.float32)
    back = from_bfloat16(to_bfloat16(values))
    assert back[:4].tolist() == [1.0, 1.0, 1 + 2**-6, 0.0]
    assert np.signbit(back[3])
    assert 0 < back[4] < 2e-40
    assert np.isinf(back[5])
    assert np.isnan(back[6])


@pytest.mark.parametrize(
    ("codec", "bits"), [("fp32", 32), ("bf16", 16), ("int8", 8.2), ("int4", 4.3), ("topk", 1.003)]
)
def test_an_element_costs_so_many_bits(codec: str, bits: float, tmp_path: Path) -> None:
    base = {"w": np.zeros((512, 512), np.float32)}
    data = b"".join(encode(code(codec, base, base, {})[0]))
    assert bits * 0.95 < 8 * len(data) / 512**2 <= bits * 1.01
    assert parse(data, len(data))


def test_the_bytes_of_a_known_update() -> None:
    """Golden: what members wrote must stay readable."""
    base = {"w": np.zeros(5, np.float32)}
    model = {"w": np.array([1, -0.5, 0.25, 0, 127 / 128], np.float32)}
    said = {
        c: {k: v.tobytes().hex() for k, v in code(c, model, base, {})[0].items()} for c in CODECS
    }
    assert said == {
        "fp32": {"v/w": "0000803f000000bf0000803e000000000000 7e3f".replace(" ", "")},
        "bf16": {"v/w": "803f00bf803e00007e3f"},
        "int8": {"v/w": "7fc020007e", "s/w": "0402013c"},
        "int4": {"v/w": "5f8a0f", "s/w": "2549123e"},
        "topk": {"v/w": "803f", "i/w": "0000"},
    }
