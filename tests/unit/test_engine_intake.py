"""What a misbehaving member hands in is refused by name and reason, and hurts no one (laws L4, L5)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_kit import NAMES, Bench, errors, good, member
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from barnraise.coordinator.evidence import StoredEvidence
from barnraise.coordinator.fleet import Delivery
from barnraise.coordinator.intake import (
    MAX_REASON,
    Demands,
    Expectation,
    Intake,
    Weight,
    examine,
)
from barnraise.coordinator.rounds import Policy
from barnraise.coordinator.seals import weight_of
from barnraise.protocols import flower
from barnraise.protocols.content import Envelope, Failure
from barnraise.protocols.tensors import encode
from barnraise.strategies import FedAvg as ExactStrategy

Bad = Callable[[Bench], Delivery]


def records(arrays: Any = None, **metrics: Any) -> RecordDict:
    """A reply whose arrays (a list or a mapping) or metrics are other than a good one's."""
    made = good()
    if isinstance(arrays, dict):
        record = ArrayRecord()
        for key, value in arrays.items():
            record[key] = Array(value)
        made["arrays"] = record
    elif arrays is not None:
        made["arrays"] = ArrayRecord(arrays)
    if metrics:
        made["m"] = MetricRecord({k.replace("_", "-"): v for k, v in metrics.items()})
    return made


def many_values() -> bytes:
    """An envelope of 4 MB that would take 100 MB once it is parsed."""
    values = b",".join(b'["%06d",["i","0"]]' % n for n in range(200_000))
    record = b'{"kind":"metrics","values":[' + values + b"]}"
    return b'{"barnraise":1,"records":[["m",' + record + b"]]}"


def many_arrays() -> dict[str, Any]:
    """A header of 1.2 MB that would take 30 MB once it is parsed."""
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return {f"{n:06}": nothing for n in range(20_000)}


def blob_saying(bench: Bench, header: dict[str, Any], data: bytes) -> Delivery:
    """A reply whose blob begins with this header."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    blob = bench.blobs.put([len(text).to_bytes(8, "little") + text + data])
    envelope = flower.encode(good(), bench.blobs).encode().decode()
    document = json.loads(envelope)
    document["records"][0][1]["blob"] = blob
    raw = json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return bench.delivery("bob", raw.encode())


def other_keys(bench: Bench) -> Delivery:
    """An envelope that names an array which its blob does not hold."""
    document = json.loads(flower.encode(good(), bench.blobs).encode())
    document["records"][0][1]["arrays"] = [["nobody"]]
    raw = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    return bench.delivery("bob", raw)


def missing_blob(bench: Bench) -> Delivery:
    document = json.loads(flower.encode(good(), bench.blobs).encode())
    document["records"][0][1]["blob"] = "sha256:" + "0" * 64
    raw = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    return bench.delivery("bob", raw)


def stolen(bench: Bench) -> Delivery:
    """Another member's reply, word for word, handed in as one's own."""
    return replace(bench.delivery("ada"), order=bench.order("bob").id, member="bob")


def restated(**changes: Any) -> Bad:
    def make(bench: Bench) -> Delivery:
        delivery = bench.delivery("bob")
        assert delivery.statement is not None
        return replace(delivery, statement={**delivery.statement, **changes})

    return make


FLOAT = np.ones(4, np.float32)
LYING = {"0": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
SHORT = {"0": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}
BAD: dict[str, tuple[str, Bad]] = {
    "no envelope": ("M101", lambda b: b.delivery("bob", b"{")),
    "empty": ("M101", lambda b: b.delivery("bob", b"")),
    "an envelope in another spelling": (
        "M101",
        lambda b: b.delivery("bob", b'{ "barnraise":1,"records":[]}'),
    ),
    "a record without a body": (
        "M101",
        lambda b: b.delivery("bob", b'{"barnraise":1,"records":[["a"]]}'),
    ),
    "a float beyond floats": (
        "M101",
        lambda b: b.delivery(
            "bob",
            b'{"barnraise":1,"records":[["m",{"kind":"metrics","values":[["x",["f","0x1.8p+9999"]]]}]]}',
        ),
    ),
    "text as a metric": (
        "M101",
        lambda b: b.delivery(
            "bob",
            b'{"barnraise":1,"records":[["m",{"kind":"metrics","values":[["x",["s","1"]]]}]]}',
        ),
    ),
    "a bomb of brackets": ("M101", lambda b: b.delivery("bob", b"[" * 100_000)),
    "a blob that is not there": ("M101", missing_blob),
    "arrays that the blob does not hold": ("M101", other_keys),
    "a blob that claims terabytes": ("M101", lambda b: blob_saying(b, LYING, b"\0" * 16)),
    "a blob whose lengths contradict": ("M101", lambda b: blob_saying(b, SHORT, b"\0" * 8)),
    "too large": ("M102", lambda b: b.delivery("bob", size=2**40)),
    "another's signature": ("M103", lambda b: b.delivery("bob", signer="ada")),
    "another's reply": ("M103", stolen),
    "another run": ("M103", lambda b: b.delivery("bob", run="x")),
    "more than is asked": ("M103", lambda b: b.delivery("bob", extra="x")),
    "no statement": ("M103", lambda b: replace(b.delivery("bob"), statement=None)),
    "a statement that is no JSON": ("M103", restated(payload=math.nan)),
    "a huge statement": ("M103", restated(payload="A" * 200_000)),
    "other keys": ("M104", lambda b: b.delivery("bob", records({"other": FLOAT}))),
    "one key more": ("M104", lambda b: b.delivery("bob", records([FLOAT, FLOAT]))),
    "another shape": ("M105", lambda b: b.delivery("bob", records([FLOAT.reshape(2, 2)]))),
    "another dtype": ("M105", lambda b: b.delivery("bob", records([FLOAT.astype(np.float64)]))),
    "NaN": ("M106", lambda b: b.delivery("bob", records([FLOAT * np.float32(np.nan)]))),
    "infinity": ("M106", lambda b: b.delivery("bob", records([FLOAT * np.float32(np.inf)]))),
    "no weight": ("M107", lambda b: b.delivery("bob", records(loss=1.0))),
    "a weight of zero": ("M107", lambda b: b.delivery("bob", records(num_examples=0))),
    "a negative weight": ("M107", lambda b: b.delivery("bob", records(num_examples=-5))),
    "a weight of half": ("M107", lambda b: b.delivery("bob", records(num_examples=0.5))),
    "too much weight": ("M107", lambda b: b.delivery("bob", records(num_examples=2**31))),
    "a failure": (
        "M108",
        lambda b: b.delivery("bob", Envelope(failure=Failure(2, "ValueError at app.py:3"))),
    ),
    "a failure that shouts": (
        "M108",
        lambda b: b.delivery("bob", Envelope(failure=Failure(2, "\x1b[2J\n" + "x" * 100_000))),
    ),
    "a blob of somebody else's": (
        "M101",
        lambda b: replace(b.delivery("bob", good(2.0)), parts=frozenset({"sha256:" + "0" * 64})),
    ),
    "too many values": ("M102", lambda b: b.delivery("bob", many_values(), size=1)),
    "too many arrays": ("M102", lambda b: blob_saying(b, many_arrays(), b"")),
    "another metric": ("M109", lambda b: b.delivery("bob", records(num_examples=5, more=1))),
    "a list as a metric": ("M109", lambda b: b.delivery("bob", records(num_examples=[5, 5]))),
}
NOT_BY_WEIGHT = {"a list as a metric"}  # refused as M107 where the rule names the weight


@pytest.mark.parametrize("case", BAD)
def test_what_a_member_does_wrong_is_refused_and_the_others_stay_unharmed(
    tmp_path: Path, case: str
) -> None:
    code, bad = BAD[case]
    bench = Bench(tmp_path / "run", policy=Policy(quorum=2))
    if case not in NOT_BY_WEIGHT:
        bench.grid.demands = Demands(Weight("num-examples", whole=True))
    bench.will_deliver(lambda: bad(bench))
    bench.will_answer("ada", "cyd")
    replies = list(bench.grid.send_and_receive(bench.ask()))

    reasons = errors(replies)
    assert list(reasons) == [member("bob").node_id]
    (reason,) = reasons.values()
    assert reason.startswith(f"{code}: ") and len(reason) < MAX_REASON + 10
    assert reason.isprintable()
    counted = [m for m in replies if not m.has_error()]
    assert [bench.grid.name_of(m.metadata.src_node_id) for m in counted] == ["ada", "cyd"]
    assert all(m.content == good() for m in counted)
    verdicts = ["reply.refused"] * (code != "M109") + ["reply.accepted"] * (2 + (code == "M109"))
    assert Counter(bench.types()) == Counter(["batch.sent", *verdicts, "batch.closed"])
    assert not next(bench.bodies("batch.closed"))["void"]


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        *[(5, True), (0.5, True), (math.nan, False), (math.inf, False), (0, False), (-5, False)],
        *[(10**18, False), (2**31, False), ([5, 5], False), (2**31 - 1, True)],
    ],
)
def test_the_weight_of_flowers_own_strategies_is_a_finite_positive_number(
    tmp_path: Path, value: Any, fits: bool
) -> None:
    """One member's NaN as `num-examples` would make the mean NaN, and 10^18 would be the mean."""
    bench = Bench(tmp_path / "run")
    weight = weight_of(FedAvg())
    assert weight == Weight("num-examples", whole=False)
    bench.grid.demands = Demands(weight)
    bench.will_deliver(lambda: bench.delivery("bob", records(num_examples=value)))
    bench.will_answer("ada", "cyd")
    reasons = errors(list(bench.grid.send_and_receive(bench.ask())))
    assert [r[:4] for r in reasons.values()] == ([] if fits else ["M107"])


@pytest.mark.parametrize(
    ("kind", "code", "metrics"),
    [
        ("train", "M101", {"num-examples": 10, "loss": 10**400}),
        ("train", "M101", {"num-examples": 10, "loss": [-(10**400), 1]}),
        ("evaluate", "M101", {"num-examples": 10, "loss": 10**400}),
        ("evaluate", "M107", {"num-examples": -20, "loss": 1}),
    ],
)
def test_no_metric_ends_flowers_own_strategies(
    tmp_path: Path, kind: str, code: str, metrics: dict[str, Any]
) -> None:
    """A number that no float holds, and a weight that makes the sum of all zero."""
    strategy = FedAvg()
    bench = Bench(tmp_path / "run")
    bench.grid.demands = Demands(weight_of(strategy))
    usual = {"num-examples": 10, "loss": [1, 1] if isinstance(metrics["loss"], list) else 1}

    def reply(metrics: dict[str, Any]) -> RecordDict:
        made = good() if kind == "train" else RecordDict()
        made["m"] = MetricRecord(metrics)
        return made

    bench.will_deliver(lambda: bench.delivery("bob", reply(metrics)))
    bench.will_answer("ada", "cyd", records=reply(usual))
    replies = list(bench.grid.send_and_receive(bench.ask(kind=kind)))
    assert [r[:4] for r in errors(replies).values()] == [code]
    if kind == "train":
        assert strategy.aggregate_train(1, replies)[1] is not None
    else:
        assert strategy.aggregate_evaluate(1, replies) is not None


def test_the_weight_is_that_of_the_strategy_inside_a_wrapper() -> None:
    wrapped = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(weighted_by_key="rows"),
        noise_multiplier=0.1,
        clipping_norm=1.0,
        num_sampled_clients=3,
    )
    assert weight_of(wrapped) == Weight("rows", whole=False)
    assert weight_of(ExactStrategy()) == Weight("num-examples", whole=True)


def test_a_failure_keeps_flowers_code_for_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run")
    bench.will_deliver(lambda: bench.delivery("bob", Envelope(failure=Failure(2, "x"))))
    bench.will_answer("ada", "cyd")
    codes = {m.error.code for m in bench.grid.send_and_receive(bench.ask()) if m.has_error()}
    assert codes == {flower.RAISED}


def test_nothing_is_judged_that_the_order_did_not_ask_for(tmp_path: Path) -> None:
    """XGBoost's bytes, NaN metrics, arrays under another name: all legitimate."""
    bench = Bench(tmp_path / "run")
    free = RecordDict(
        {
            "tree": ArrayRecord([np.frombuffer(b"xgb", np.uint8)]),
            "nan": MetricRecord({"loss": math.nan}),
            "c": ConfigRecord({"raw": b"\0\1"}),
        }
    )
    bench.will_answer(records=free)
    replies = list(bench.grid.send_and_receive(bench.ask()))
    assert errors(replies) == {} and len(replies) == 3
    bench.will_answer(records=records([FLOAT * np.float32(np.nan)]))
    assert errors(list(bench.grid.send_and_receive(bench.ask(kind="evaluate")))) == {}


# --- set aside at the close --------------------------------------------------------------------------


def close_with(bench: Bench, kind: str, *sent: RecordDict) -> list[str]:
    """The members whose replies are set aside when they send these."""
    bench.will_deliver(
        lambda: [bench.delivery(n, r) for n, r in zip(NAMES, sent, strict=True)][::-1]
    )
    replies = list(bench.grid.send_and_receive(bench.ask(kind=kind)))
    return [bench.grid.name_of(node) for node in errors(replies)]


def test_the_odd_one_out_is_set_aside(tmp_path: Path) -> None:
    usual, odd = records(a=1), records(b=1)
    bench = Bench(tmp_path / "run")
    assert close_with(bench, "train", odd, usual, usual) == ["ada"]
    assert close_with(bench, "evaluate", usual, usual, odd) == ["cyd"]
    assert close_with(bench, "query", usual, usual, odd) == []
    aside = [set(body["set_aside"]) for body in bench.bodies("batch.closed")]
    assert [len(a) for a in aside] == [1, 1, 0]
    assert all(
        not aside_ & set(b["accepted"])
        for aside_, b in zip(aside, bench.bodies("batch.closed"), strict=True)
    )


def test_of_equally_common_forms_the_first_in_canonical_order_counts(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run")
    assert close_with(bench, "train", records(a=1), records(b=1), records(c=1)) == ["bob", "cyd"]


def test_an_app_whose_members_rightly_differ_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", mixed_replies=True)
    assert close_with(bench, "train", records(a=1), records(b=1), records(c=1)) == []


# --- any bytes, any sequence ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    bench = Bench(tmp_path_factory.mktemp("judge") / "run")
    bench.will_answer("ada", "cyd")
    list(bench.grid.send_and_receive(bench.ask(), timeout=1.0))
    expected = Expectation(
        bench.order("bob").id,
        1,
        "bob",
        None,
        {},
        1 << 20,
        {"arrays": {}},
        Weight("num-examples", whole=True),
    )

    def examine_bytes(raw: bytes) -> Any:
        delivery = replace(bench.delivery("bob"), content=bench.blobs.put([raw]))
        return examine(expected, delivery, StoredEvidence(bench.blobs))

    examine_bytes.bench = bench  # type: ignore[attr-defined]
    return examine_bytes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
scalars = st.tuples(st.sampled_from("tifsyl"), json_values).map(list)
record_bodies = st.one_of(
    json_values,
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["metrics", "config", "arrays", "x"]),
            "values": st.lists(st.tuples(st.text(max_size=3), scalars).map(list), max_size=3),
        }
    ),
)
documents = st.fixed_dictionaries(
    {"barnraise": st.just(1)},
    optional={
        "records": st.lists(st.tuples(st.text(max_size=3), record_bodies).map(list), max_size=3),
        "error": json_values,
    },
)


@given(documents | json_values)
@settings(deadline=None, max_examples=150)
def test_any_envelope_is_judged_and_none_ends_the_run(
    judge: Callable[..., Any], value: Any
) -> None:
    verdict = judge(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())
    assert verdict is not None and verdict.kind == "refused"


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_any_damage_to_a_blob_is_judged_and_none_ends_the_run(
    judge: Callable[..., Any], data: st.DataObject
) -> None:
    blob = bytearray(b"".join(encode({"a": np.ones(3, np.float32), "b": np.ones(2, np.int64)})))
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(blob[: data.draw(st.integers(0, len(blob)))])
    name = judge.bench.blobs.put([cut])  # type: ignore[attr-defined]
    document = {
        "barnraise": 1,
        "records": [["arrays", {"arrays": [["a"], ["b"]], "blob": name, "kind": "arrays"}]],
    }
    verdict = judge(json.dumps(document, separators=(",", ":")).encode())
    assert verdict.kind == "refused"


ORDERS = [f"order-{i}" for i in range(4)]
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("deliver"), st.sampled_from([*ORDERS, "nobody's"]), st.sampled_from(NAMES)
        ),
        st.tuples(st.just("close"), st.integers(1, 2), st.just("")),
        st.tuples(st.just("known"), st.sampled_from(ORDERS), st.just("")),
    ),
    max_size=25,
)


class Fine:
    """Evidence with which nothing is wrong."""

    def envelope(self, digest: str) -> Envelope:
        return Envelope()

    def specs(self, blob: str) -> dict[str, Any]:
        return {}

    def values(self, digest: str) -> int:
        return 1

    def header(self, blob: str) -> int:
        return 1

    def nonfinite(self, blob: str) -> None:
        return None


@given(steps)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_any_sequence_of_deliveries_gives_an_order_at_most_one_verdict(
    taken: list[tuple[str, Any, str]],
) -> None:
    intake, owner = Intake(), {}
    for i, order in enumerate(ORDERS):
        owner[order] = NAMES[i % 3]
        intake.open(Expectation(order, 1 + i % 2, owner[order], None, {}, 100))
    verdicts: list[str] = []
    known: set[str] = set()
    closed: set[int] = set()
    for what, which, who in taken:
        if what == "close":
            intake.close(which)
            closed.add(which)
        elif what == "known":
            intake.already(which)
            known |= {which} - set(verdicts)
        else:
            verdict, batch = intake.judge(Delivery(which, who, "", 1, None, 0.0), Fine())
            assert owner.get(which) == who or verdict.kind == "unknown"
            if verdict.kind in ("accepted", "refused", "late"):
                assert (verdict.kind == "late") == (batch in closed)
                assert which not in known
                verdicts.append(which)
    assert len(verdicts) == len(set(verdicts))
