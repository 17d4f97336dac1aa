"""Coded updates at the intake and in a strategy: taken as declared, anything else refused by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_kit import Bench, errors, good
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from barnraise.coordinator.intake import Demands, Weight
from barnraise.coordinator.rounds import Policy
from barnraise.protocols import flower
from barnraise.protocols.codecs import CODECS, code
from barnraise.strategies import FedAvg, Median
from barnraise.strategies.base import ExactStrategy

BASE = {"0": np.full(4, 1.0, np.float32)}  # what `Bench.ask` sends
MODEL = {"0": np.array([1, 2, 0.5, -3], np.float32)}


def record_of(arrays: dict[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(a)) for name, a in arrays.items()})


def coded(codec: str, **changes: NDArray[Any]) -> RecordDict:
    """A good update, or one of whose arrays some are others."""
    arrays, _ = code(codec, MODEL, BASE, {})
    records = good()
    records["arrays"] = record_of({**arrays, **changes})
    return records


def collect(bench: Bench, codec: str, bob: RecordDict) -> list[Message]:
    bench.grid.demands = Demands(Weight("num-examples", whole=True), ("arrays", codec))
    bench.will_deliver(lambda: bench.delivery("bob", bob))
    bench.will_answer("ada", "cyd", records=coded(codec))
    return list(bench.grid.send_and_receive(bench.ask()))


@pytest.mark.parametrize("codec", CODECS)
def test_an_update_is_taken_as_the_codec_that_the_rule_declares(tmp_path: Path, codec: str) -> None:
    bench = Bench(tmp_path / "run")
    assert errors(collect(bench, codec, coded(codec))) == {}


HALF = np.full(4, 0.5, np.float32)
BAD: dict[str, tuple[str, str, Callable[[], RecordDict]]] = {
    "the model itself": ("int8", "M104", good),
    "another codec's": ("int8", "M104", lambda: coded("fp32")),
    "another codec's of the same names": ("bf16", "M105", lambda: coded("fp32")),
    "one array more": ("fp32", "M104", lambda: coded("fp32", other=HALF)),
    "another length": ("int8", "M105", lambda: coded("int8", **{"v/0": np.zeros(5, np.int8)})),
    "more scales": ("int4", "M105", lambda: coded("int4", **{"s/0": np.ones(2, np.float32)})),
    "a place beyond": ("topk", "M105", lambda: coded("topk", **{"i/0": np.array([4], np.uint16)})),
    "NaN as a scale": (
        "int8",
        "M106",
        lambda: coded("int8", **{"s/0": np.array([np.nan], np.float32)}),
    ),
    "NaN in bfloat16": (
        "bf16",
        "M106",
        lambda: coded("bf16", **{"v/0": np.full(4, 0x7FC0, np.uint16)}),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_update_that_is_none_is_refused_and_the_others_stay_unharmed(
    tmp_path: Path, case: str
) -> None:
    codec, expected, bob = BAD[case]
    bench = Bench(tmp_path / "run", policy=Policy(quorum=2))
    replies = collect(bench, codec, bob())
    assert len(errors(replies)) == 1
    (refused,) = bench.bodies("reply.refused")
    assert (refused["member"], refused["code"]) == ("bob", expected)
    assert sum(1 for m in replies if m.has_content()) == 2


# --- in a strategy, on a grid that checks nothing ---------------------------------------------------


def order(who: int) -> Message:
    flower.become_server(1)
    content = RecordDict({"arrays": record_of(BASE), "config": ConfigRecord({"server-round": 1})})
    return Message(content, who, "train")


def reply(who: int, records: RecordDict) -> Message:
    return Message(records, reply_to=order(who))


def aggregated(rule: ExactStrategy, replies: list[Message]) -> dict[str, Any] | None:
    rule._base = record_of(BASE)  # what `configure_train` remembers of this round's orders
    arrays, _ = rule.aggregate_train(1, replies)
    return None if arrays is None else {k: a.numpy() for k, a in arrays.items()}


@pytest.mark.parametrize("rule", [FedAvg, Median])
@pytest.mark.parametrize("codec", CODECS)
def test_a_rule_reads_updates_as_the_models_they_mean(rule: Any, codec: str) -> None:
    got = aggregated(rule(codec=codec), [reply(w, coded(codec)) for w in (1, 2, 3)])
    assert got is not None
    assert got["0"].dtype == np.float32
    loss = {"int8": 0.02, "int4": 0.3, "topk": 2.0, "bf16": 0.02}.get(codec, 0.0)
    assert np.abs(got["0"] - MODEL["0"]).max() <= loss


@pytest.mark.parametrize("case", BAD)
def test_a_rule_sets_aside_an_update_that_is_none(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    codec, _, bad = BAD[case]
    good_ones = [reply(w, coded(codec)) for w in (1, 2)]
    expected = aggregated(FedAvg(codec=codec), good_ones)
    with caplog.at_level(logging.WARNING, logger="flwr"):
        got = aggregated(FedAvg(codec=codec), [*good_ones, reply(3, bad())])
    assert got is not None
    assert expected is not None
    assert got["0"].tobytes() == expected["0"].tobytes()
    assert any("reply of 3 does not count" in line for line in caplog.messages)


def test_an_update_of_an_unknown_model_does_not_count() -> None:
    arrays, _ = FedAvg(codec="int8").aggregate_train(1, [reply(1, coded("int8"))])
    assert arrays is None


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no codec 'int3'"):
        FedAvg(codec="int3")


def test_many_threads_may_read_one_update() -> None:
    """The exact pass does: the same bytes with one thread and with three."""
    rng = np.random.default_rng(0)
    base = {"w": rng.standard_normal(1 << 21).astype(np.float32)}
    model = {"w": base["w"] + np.float32(0.01) * rng.standard_normal(1 << 21).astype(np.float32)}
    arrays, _ = code("int4", model, base, {})
    ends = []
    for threads in (1, 3):
        rule = FedAvg(codec="int4", threads=threads)
        rule._base = record_of(base)  # type: ignore[arg-type]
        records = RecordDict({"arrays": record_of(arrays), "m": MetricRecord({"num-examples": 1})})
        got, _ = rule.aggregate_train(1, [reply(w, records) for w in (1, 2)])
        assert got is not None
        ends.append(got["w"].data)
    assert ends[0] == ends[1]
