"""What leaves a site is measured and put in plain words, whatever the code behind it means."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from barnraise.client.node.norms import PIECE, update_norms
from barnraise.client.node.plain import UNSAID, Words
from barnraise.client.node.processor import Meter, processor_seconds
from barnraise.protocols.canonical import digest
from barnraise.protocols.codecs import CODECS, code
from barnraise.protocols.content import ArrayEntry, Arrays, Envelope
from barnraise.protocols.errors import CODES
from barnraise.protocols.tensors import encode

Held = Mapping[str, NDArray[Any]]


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[str, Held], Arrays]:
    """Keeps arrays as a blob in `tmp_path`, under its digest."""

    def keep(name: str, arrays: Held) -> Arrays:
        data = b"".join(bytes(piece) for piece in encode(arrays))
        (tmp_path / digest(data)[7:]).write_bytes(data)
        return Arrays(digest(data), tuple(ArrayEntry(key) for key in arrays))

    return keep


def norms(
    tmp_path: Path, asked: dict[str, Arrays], said: dict[str, Arrays], coded: str | None = None
) -> dict[str, float | None]:
    order, reply = Envelope(tuple(asked.items())), Envelope(tuple(said.items()))
    return update_norms(order, reply, lambda name: tmp_path / name[7:], coded)


def test_the_norm_is_that_of_the_difference(tmp_path: Path, kept: Any) -> None:
    rng = np.random.default_rng(1)
    base = {"w": rng.normal(size=(7, PIECE // 4)).astype(np.float32), "b": np.arange(3)}
    moved = {"w": base["w"] + rng.normal(size=base["w"].shape).astype(np.float32), "b": base["b"]}
    found = norms(tmp_path, {"arrays": kept("a", base)}, {"arrays": kept("b", moved)})["arrays"]
    wanted = np.linalg.norm((moved["w"].astype(np.float64) - base["w"]).ravel())
    assert found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_coded_update_is_measured_as_the_model_that_it_means(
    tmp_path: Path, kept: Any, codec: str
) -> None:
    rng = np.random.default_rng(2)
    base = {"w": rng.normal(size=(40, 50)).astype(np.float32)}
    model = {"w": base["w"] + rng.normal(size=(40, 50)).astype(np.float32)}
    sent, left = code(codec, model, base, {})
    found = norms(tmp_path, {"arrays": kept("a", base)}, {"arrays": kept("b", sent)}, codec)
    delta = model["w"].astype(np.float64) - base["w"] - left.get("w", 0)
    assert found["arrays"] == pytest.approx(np.linalg.norm(delta), rel=0.02)


def test_what_is_not_finite_has_an_infinite_norm(tmp_path: Path, kept: Any) -> None:
    base = {"w": np.zeros(4, np.float32)}
    for bad in (np.nan, np.inf):
        said = {"arrays": kept("b", {"w": np.full(4, bad, np.float32)})}
        assert norms(tmp_path, {"arrays": kept("a", base)}, said) == {"arrays": float("inf")}


def test_what_has_not_the_form_of_an_update_has_no_norm(tmp_path: Path, kept: Any) -> None:
    base = {"w": np.zeros(4, np.float32)}
    asked = {"arrays": kept("a", base)}
    others = {
        "another name": {"more": kept("b", base)},
        "other keys": {"arrays": kept("c", {"v": np.zeros(4, np.float32)})},
        "another shape": {"arrays": kept("d", {"w": np.zeros((2, 2), np.float32)})},
        "no file": {"arrays": Arrays("sha256:" + "0" * 64, (ArrayEntry("w"),))},
        "bytes": {"arrays": Arrays(asked["arrays"].blob, (ArrayEntry("w", ("x", "y", (1,))),))},
    }
    for what, said in others.items():
        assert list(norms(tmp_path, asked, said).values()) == [None], what


def test_a_variate_of_the_built_in_app_is_a_difference_already(tmp_path: Path, kept: Any) -> None:
    control = kept("a", {"w": np.full(4, 100.0, np.float32)})
    moved = kept("b", {"w": np.full(4, 2.0, np.float32)})
    assert norms(tmp_path, {"control": control}, {"control": moved}, "") == {"control": 4.0}
    assert norms(tmp_path, {"control": control}, {"control": moved}, None) == {"control": 196.0}


# --- words --------------------------------------------------------------------------------------------

CODE = {"tiny/client.py": b"class Bad(Exception):\n    pass\n\nraise Bad('x')\n"}


@pytest.mark.parametrize(
    "reason",
    [
        "ValueError at client.py:3",
        "Bad at client.py:4",
        "D201 at app.py:12",
        "OutOfMemoryError at client.py:1",
        "KeyError at an unknown place",
        "the handler returned dict, not a Message",
        "the handler returned a Message without content",
        "the worker died twice over this order",
    ],
)
def test_an_error_in_plain_words_leaves_as_it_is(reason: str) -> None:
    assert Words(CODE).plain(reason) == reason


@pytest.mark.parametrize(
    "reason",
    [
        "Patient_4711_has_diabetes at client.py:3",
        "ValueError at client.py:4711",
        "ValueError at ward.csv:3",
        "ValueError: patient 4711 at client.py:3",
        "ValueError at client.py:3\npatient 4711",
        "the handler returned Patient4711, not a Message",
        "its reply cannot be sent: 'patient 4711' holds a value",
        "",
    ],
)
def test_what_could_quote_data_stays(reason: str) -> None:
    assert Words(CODE).plain(reason) == UNSAID


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_text_leaves_only_if_it_names_what_is_known(text: str) -> None:
    words = Words(CODE)
    known = {*dir(builtins), *CODES, "Bad", "Exception", "class", "x", "raise"}
    said = words.plain(f"{text} at client.py:1")
    assert said == UNSAID or text in known or text.endswith("Error")


# --- what is used -------------------------------------------------------------------------------------


def test_processor_seconds_count_on_from_one_reading_to_the_next() -> None:
    import os

    meter = Meter(gpus=0)
    meter.read(os.getpid(), at_work=True)
    before = processor_seconds(os.getpid())
    while processor_seconds(os.getpid()) < before + 0.05:
        sum(range(10_000))
    used, gpu = meter.read(os.getpid(), at_work=False)
    assert 0.04 <= used < 60
    assert gpu == 0.0
    assert processor_seconds(2**22 + 1) == 0.0


def test_of_a_worker_that_has_ended_what_is_left_counts() -> None:
    meter = Meter(clock=lambda: 0.0, gpus=0)
    meter.read(2**22 + 1, at_work=True)
    assert meter.read(2**22 + 1, at_work=False, last=True, used=7.5) == (7.5, 0.0)
    assert meter.read(2**22 + 1, at_work=False, last=True, used=7.5) == (0.0, 0.0)


def test_gpu_seconds_are_those_at_work_for_each_gpu() -> None:
    now = [0.0]
    meter = Meter(clock=lambda: now[0], gpus=2)
    meter.read(None, at_work=True)
    now[0] = 10.0
    assert meter.read(None, at_work=False) == (0.0, 20.0)
    now[0] = 30.0
    assert meter.read(None, at_work=False) == (0.0, 0.0)
