"""Our rules as Flower sees them: on plain Messages, on any grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategy_kit import (
    INITIAL,
    NODES,
    Handler,
    NamedGrid,
    PlainGrid,
    bytes_of,
    local,
    numpy_of,
    play,
    record_of,
    reply,
    trained,
    weight_of,
)

from barnraise.protocols import flower
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.errors import BarnraiseError
from barnraise.strategies import DiLoCo, ExactStrategy, FedAvg, exact, make
from barnraise.strategies.registry import RULES
from barnraise.strategies.replies import mean_metrics
from barnraise.strategies.sampling import lot, sample

# --- L1 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [FedAvg, DiLoCo])
@settings(max_examples=25, deadline=None)
@given(data=st.data(), chunk=st.integers(1, 15), threads=st.integers(1, 4))
def test_l1_exact_any_permutation_chunk_and_thread_count_gives_the_same_bytes(
    rule: type[ExactStrategy], data: st.DataObject, chunk: int, threads: int
) -> None:
    def shuffled(replies: list[Message]) -> list[Message]:
        return data.draw(st.permutations(replies))

    expected = play(rule(), 3)
    with mock.patch.object(exact, "CHUNK", chunk):
        got = play(rule(threads=threads), 3, grid=PlainGrid(order=shuffled))
    assert bytes_of(got) == bytes_of(expected)


def test_l1_several_replies_of_one_node_are_ordered_by_what_they_say() -> None:
    model = {"x": np.zeros(200)}
    grid, strategy = PlainGrid([5, 6]), FedAvg()
    (order, _) = strategy.configure_train(1, record_of(model), ConfigRecord(), grid)
    replies = [reply(order, local(model, i, 1)) for i in range(4)]
    expected, _ = strategy.aggregate_train(1, replies)
    for turned in (replies[::-1], replies[2:] + replies[:2]):
        got, _ = strategy.aggregate_train(1, turned)
        assert bytes_of(got) == bytes_of(expected)


def test_l9_where_names_are_known_they_decide_not_node_ids() -> None:
    names = ["basel", "lyon", "oslo", "pisa"]

    def by_name(ids: Mapping[int, str]) -> Handler:
        def handler(order: Message) -> Message:
            who = names.index(ids[order.metadata.dst_node_id])
            return reply(order, local(INITIAL, who, 1), {"num-examples": weight_of(who)})

        return handler

    models, asked = [], []
    for numbers in ((1, 2, 3, 4), (9, 7, 2, 1)):
        ids = dict(zip(numbers, names, strict=True))
        for grid, given_name in (
            (NamedGrid(ids, handler=by_name(ids)), None),
            (PlainGrid(numbers, handler=by_name(ids)), ids.__getitem__),
        ):
            strategy = FedAvg(seed=3, fraction_train=0.75, name_of=given_name)
            models.append(bytes_of(play(strategy, 1, grid=grid)))
            asked.append([ids[m.metadata.dst_node_id] for m in grid.sent])
    assert models == [models[0]] * 4
    assert asked == [asked[0]] * 4
    assert asked[0] == sorted(asked[0])


# --- FedAvg -------------------------------------------------------------------------------------------


def test_fedavg_is_the_correctly_rounded_mean() -> None:
    got = numpy_of(play(FedAvg(), 1))
    total = sum(map(weight_of, NODES))
    for name in ("w", "h"):
        values = [local(INITIAL, who, 1)[name].ravel() for who in NODES]
        for i, found in enumerate(got[name].ravel()):
            weighed = [
                Fraction(float(v[i])) * weight_of(w) for v, w in zip(values, NODES, strict=True)
            ]
            wanted = sum(weighed, Fraction(0)) / total
            assert (
                abs(Fraction(float(found)) - wanted) <= Fraction(float(np.spacing(abs(found)))) / 2
            )


def test_fedavg_is_the_mean_itself_however_far_the_base_is() -> None:
    tiny = {"x": np.full(3, 1e-12, np.float32)}
    far = record_of({"x": np.full(3, 1e30, np.float32)})
    got = play(FedAvg(), 1, far, grid=PlainGrid([1, 2], handler=lambda order: reply(order, tiny)))
    assert numpy_of(got)["x"].tobytes() == tiny["x"].tobytes()


def test_keys_keep_the_order_of_the_model() -> None:
    def backwards(order: Message) -> Message:
        return reply(order, dict(reversed(INITIAL.items())))

    got = play(FedAvg(), 1, grid=PlainGrid(handler=backwards))
    assert list(got) == list(INITIAL)
    assert {k: (a.dtype, a.shape) for k, a in numpy_of(got).items()} == {
        k: (a.dtype, a.shape) for k, a in INITIAL.items()
    }


# --- DiLoCo -------------------------------------------------------------------------------------------


def plain_diloco(rounds: int, lr: float, momentum: float) -> dict[str, NDArray[Any]]:
    """The formula of the paper, whole arrays at once, written without the code under test."""
    model = {name: a.copy() for name, a in INITIAL.items()}
    velocity = {name: np.zeros(a.shape) for name, a in INITIAL.items()}
    nodes = sorted(NODES)
    for turn in range(1, rounds + 1):
        members = [local(model, who, turn) for who in nodes]
        for name, base in model.items():
            mean: NDArray[Any] = np.zeros(base.shape)
            for member, who in zip(members, nodes, strict=True):
                mean = mean + member[name].astype(np.float64) * weight_of(who)
            mean = mean / sum(map(weight_of, nodes))
            if base.dtype.kind != "f":
                model[name] = np.rint(mean).astype(base.dtype)
                continue
            gradient = base.astype(np.float64) - mean
            v = momentum * velocity[name] + gradient
            model[name] = (base.astype(np.float64) - lr * (gradient + momentum * v)).astype(
                base.dtype
            )
            velocity[name] = v.astype(
                np.float64 if base.dtype == np.float64 else np.float32
            ).astype(np.float64)
    return model


@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.3), (0.5, 0.0)])
def test_diloco_is_the_papers_outer_step_over_several_rounds(lr: float, momentum: float) -> None:
    # odd weights have no common divisor here, so both fold the same numbers: the same bytes
    assert math.gcd(*map(weight_of, NODES)) == 1
    expected = plain_diloco(5, lr, momentum)
    got = numpy_of(play(DiLoCo(lr, momentum), 5))
    assert {k: a.tobytes() for k, a in got.items()} == {k: a.tobytes() for k, a in expected.items()}


@pytest.mark.parametrize("rule", [FedAvg, DiLoCo])
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_l2_state_saved_and_loaded_midway_changes_no_byte(
    rule: type[ExactStrategy], cut: int, tmp_path: Path
) -> None:
    expected = play(rule(), 5)
    store = BlobStore(tmp_path, durable=False)
    first = rule()
    model = play(first, cut)
    sealed = flower.encode(first.state(), store)
    second = rule()
    second.load(flower.decode(sealed, store))
    assert bytes_of(play(second, 5, model, first=cut + 1)) == bytes_of(expected)


def test_state_of_another_rule_or_model_is_refused() -> None:
    strategy = DiLoCo()
    play(strategy, 1)
    with pytest.raises(ValueError, match="the state holds momentum; that of FedAvg is none"):
        FedAvg().load(strategy.state())
    with pytest.raises(ValueError, match="the state holds other; that of DiLoCo is momentum"):
        DiLoCo().load(RecordDict({"other": ArrayRecord()}))
    other = DiLoCo()
    other.load(strategy.state())
    with pytest.raises(ValueError, match="'momentum' is not of this model: it lacks the arrays y"):
        play(other, 1, record_of({"y": np.ones(3, np.float32)}))


def test_the_state_handed_out_is_not_the_rules_own() -> None:
    strategy = DiLoCo()
    model = play(strategy, 1)
    strategy.state().array_records["momentum"].clear()
    assert bytes_of(play(strategy, 2, model, first=2)) == bytes_of(play(DiLoCo(), 2))


def test_a_void_round_leaves_model_and_state() -> None:
    strategy = DiLoCo()
    model = play(strategy, 1)
    before = bytes_of(strategy.state().array_records["momentum"])
    strategy.configure_train(2, model, ConfigRecord(), PlainGrid())
    assert strategy.aggregate_train(2, []) == (None, None)
    assert bytes_of(strategy.state().array_records["momentum"]) == before


def test_an_outer_step_needs_the_model_that_was_sent() -> None:
    order = Message(RecordDict(), 1, "train")
    with pytest.raises(RuntimeError, match="configure_train"):
        DiLoCo().aggregate_train(1, [reply(order, INITIAL)])


# --- whom to ask --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [FedAvg, DiLoCo])
def test_configuring_changes_no_argument(rule: type[ExactStrategy]) -> None:
    model, config = record_of(INITIAL), ConfigRecord({"lr": 0.1})
    before = bytes_of(model)
    strategy, grid = rule(), PlainGrid()
    orders = list(strategy.configure_train(3, model, config, grid))
    orders += strategy.configure_evaluate(3, model, config, grid)
    assert dict(config) == {"lr": 0.1}
    for order in orders:
        assert dict(order.content.config_records["config"]) == {"lr": 0.1, "server-round": 3}
        assert bytes_of(order.content.array_records["arrays"]) == before
    orders[0].content.array_records["arrays"].clear()
    assert bytes_of(model) == before
    assert [o.metadata.message_type for o in orders] == ["train"] * 5 + ["evaluate"] * 5
    assert [o.metadata.dst_node_id for o in orders] == sorted(NODES) * 2


@given(st.lists(st.text(), unique=True, max_size=12), st.data(), st.integers(), st.integers())
def test_the_sample_follows_from_seed_round_and_roster_as_a_set(
    names: list[str], data: st.DataObject, seed: int, turn: int
) -> None:
    count = data.draw(st.integers(0, len(names)))
    other = data.draw(st.permutations(names))
    one, two = (
        {order[i] for i in sample(order, count, seed=seed, server_round=turn, purpose="train")}
        for order in (names, other)
    )
    assert one == two
    assert len(one) == count


def test_the_lot_is_the_same_for_ever() -> None:
    assert lot(7, 3, "train", "basel").hex() == (
        "199bc66414b2f8c3f2d3c61f286df1594b243fa4eca540ae20584841189277c6"
    )


def test_every_member_is_asked_as_often_as_another() -> None:
    names = [f"site-{i}" for i in range(8)]
    counts = [0] * 8
    for turn in range(2000):
        for i in sample(names, 2, seed=1, server_round=turn, purpose="train"):
            counts[i] += 1
    assert max(abs(c - 500) for c in counts) < 80  # 4 standard deviations


def test_fractions_are_counted_as_flower_counts() -> None:
    grid = PlainGrid(range(10, 20))
    for fraction, least, asked in ((1.0, 2, 10), (0.35, 2, 3), (0.1, 4, 4), (0.0, 2, 0)):
        strategy = FedAvg(fraction_train=fraction, min_train_nodes=least)
        orders = strategy.configure_train(1, record_of(INITIAL), ConfigRecord(), grid)
        assert len(list(orders)) == asked


def test_too_few_members_is_an_error_that_says_how_many_are_needed() -> None:
    grid = NamedGrid({1: "basel", 2: "oslo"})
    strategy = FedAvg(min_train_nodes=3, min_available_nodes=5, patience=1e9)
    with pytest.raises(BarnraiseError) as caught:
        strategy.configure_train(2, record_of(INITIAL), ConfigRecord(), grid)
    assert caught.value.code == "R104"
    assert caught.value.what == "round 2 needs 5 members to train and there are 2"
    assert "basel, oslo" in caught.value.evidence


def test_on_flowers_grids_the_wait_for_members_is_bounded() -> None:
    class Slow(PlainGrid):
        calls = 0

        def get_node_ids(self) -> Iterable[int]:
            self.calls += 1
            return [1, 2] if self.calls > 1 else [1]

    arguments = (1, record_of(INITIAL), ConfigRecord())
    with mock.patch("barnraise.strategies.base.POLL", 0.0):
        assert len(list(FedAvg().configure_train(*arguments, Slow()))) == 2
    with pytest.raises(BarnraiseError, match="needs 2 members"):
        FedAvg(patience=0).configure_train(*arguments, Slow())


# --- which replies count --------------------------------------------------------------------------------


def spoiled(order: Message, how: str) -> Message:
    good = local(INITIAL, 1, 1)
    if how == "error":
        return Message(Error(1, "its disk is full"), reply_to=order)
    if how == "nothing":
        return Message(RecordDict(), reply_to=order)
    if how == "two records":
        message = reply(order, good)
        message.content["one"] = message.content["two"] = message.content.pop("arrays")
        return message
    if how == "pickled":
        message = reply(order, good)
        message.content.array_records["arrays"]["w"] = Array("float32", (3, 4), "pickle", b"x")
        return message
    models: dict[str, dict[str, NDArray[Any]]] = {
        "a key too few": {k: a for k, a in good.items() if k != "b"},
        "a key too many": {**good, "z": np.ones(1)},
        "shape": {**good, "w": good["w"].T},
        "kind": {**good, "seen": np.array(4.0)},
        "nan": {**good, "h": np.array([1, 2, np.nan, 4, 5], np.float16)},
        "infinity": {**good, "b": np.array([0, np.inf, 0])},
    }
    weights: dict[str, dict[str, Any]] = {
        "no weight": {},
        "zero": {"num-examples": 0},
        "negative": {"num-examples": -3},
        "float": {"num-examples": 3.0},
        "too heavy": {"num-examples": 2**31},
        "list": {"num-examples": [1, 2]},
    }
    return reply(order, models.get(how, good), weights.get(how))


SPOILED = (
    "error,nothing,two records,pickled,a key too few,a key too many,shape,kind,nan,infinity,"
    "no weight,zero,negative,float,too heavy,list"
)


@pytest.mark.parametrize("how", SPOILED.split(","))
@pytest.mark.parametrize("rule", [FedAvg, DiLoCo])
def test_l5_one_bad_member_cannot_hurt_a_round(
    rule: type[ExactStrategy], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = min(NODES)

    def handler(order: Message) -> Message:
        return spoiled(order, how) if order.metadata.dst_node_id == bad else trained(order)

    with (
        caplog.at_level(logging.WARNING),
        mock.patch.object(logging.getLogger("flwr"), "propagate", True),
    ):
        got = play(rule(), 1, grid=PlainGrid(handler=handler))
    good = [node for node in NODES if node != bad]
    assert bytes_of(got) == bytes_of(play(rule(), 1, grid=PlainGrid(good)))
    assert f"the reply of {bad} does not count: " in caplog.text


def test_with_no_reply_left_the_model_stays() -> None:
    grid = PlainGrid(handler=lambda order: spoiled(order, "nan"))
    strategy = FedAvg()
    orders = strategy.configure_train(1, record_of(INITIAL), ConfigRecord(), grid)
    assert strategy.aggregate_train(1, grid.send_and_receive(orders)) == (None, None)


def test_without_an_order_the_form_of_most_replies_counts() -> None:
    flower.become_server(1)
    orders = [Message(RecordDict(), node, "train") for node in (1, 2, 3)]
    usual, other = {"x": np.ones(2, np.float32)}, {"x": np.zeros(3, np.float32)}
    replies = [reply(o, m) for o, m in zip(orders, (other, usual, usual), strict=True)]
    arrays, _ = FedAvg().aggregate_train(1, replies)
    assert arrays is not None
    assert numpy_of(arrays)["x"].tolist() == [1, 1]


def test_floats_of_another_width_are_taken_and_the_models_dtype_stays() -> None:
    def wide(order: Message) -> Message:
        return reply(
            order,
            {k: a.astype(np.float64) if a.dtype.kind == "f" else a for k, a in INITIAL.items()},
        )

    got = numpy_of(play(FedAvg(), 1, grid=PlainGrid(handler=wide)))
    assert {k: a.tobytes() for k, a in got.items()} == {k: a.tobytes() for k, a in INITIAL.items()}


# --- metrics --------------------------------------------------------------------------------------------


def test_metrics_are_weighted_means_of_those_who_report_them() -> None:
    parts = [
        (MetricRecord({"loss": 1.0, "hits": [1, 2], "n": 3}), 3),
        (MetricRecord({"loss": 2, "hits": [5, 0], "n": 1, "extra": 7.5}), 1),
        (MetricRecord({"hits": 4, "n": 4}), 4),
    ]
    got = dict(mean_metrics(parts, "n"))
    assert got == {"loss": 1.25, "hits": [2.0, 1.5], "extra": 7.5}


def test_metrics_may_be_anything_a_number_can_be() -> None:
    parts = [
        (MetricRecord({"a": math.nan, "b": math.inf, "c": 10**400, "d": [], "n": 1}), 1),
        (MetricRecord({"a": 1.0, "b": 1.0, "c": 1, "d": [], "n": 1}), 1),
    ]
    got = mean_metrics(parts, "n")
    assert math.isnan(got["a"])  # type: ignore[arg-type]
    assert (got["b"], got["c"], got["d"]) == (math.inf, math.inf, [])


@given(st.permutations(NODES))
def test_l1_metrics_do_not_depend_on_the_order_of_arrival(order: list[int]) -> None:
    grid, strategy = PlainGrid(), FedAvg()
    orders = list(strategy.configure_evaluate(1, record_of(INITIAL), ConfigRecord(), grid))
    by_node = {m.metadata.dst_node_id: trained(m) for m in orders}
    expected = strategy.aggregate_evaluate(1, by_node.values())
    assert strategy.aggregate_evaluate(1, [by_node[node] for node in order]) == expected
    exactly = sum(Fraction(n / 7) * n for n in NODES) / sum(NODES)
    assert expected is not None
    assert expected["loss"] == pytest.approx(float(exactly), rel=1e-15)


def test_an_apps_own_rule_for_metrics_is_called_as_flower_calls_it() -> None:
    def count(contents: list[RecordDict], key: str) -> MetricRecord:
        return MetricRecord({key: len(contents)})

    strategy = FedAvg(evaluate_metrics_aggr_fn=count, train_metrics_aggr_fn=count)
    grid = PlainGrid()
    for metrics in (
        strategy.aggregate_train(
            1,
            grid.send_and_receive(
                strategy.configure_train(1, record_of(INITIAL), ConfigRecord(), grid)
            ),
        )[1],
        strategy.aggregate_evaluate(
            1,
            grid.send_and_receive(
                strategy.configure_evaluate(1, record_of(INITIAL), ConfigRecord(), grid)
            ),
        ),
    ):
        assert metrics == MetricRecord({"num-examples": 5})


# --- as a Flower strategy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [FedAvg, DiLoCo])
def test_flowers_own_start_runs_it_on_a_plain_grid(rule: type[ExactStrategy]) -> None:
    strategy = rule()
    assert strategy.intake_weight == "num-examples"
    result = strategy.start(PlainGrid(), record_of(INITIAL), num_rounds=3)
    assert bytes_of(result.arrays) == bytes_of(play(rule(), 3))
    assert sorted(result.train_metrics_clientapp) == [1, 2, 3]
    assert set(result.evaluate_metrics_clientapp[3]) == {"loss"}


def test_flowers_privacy_wrapper_goes_round_it() -> None:
    np.random.seed(0)
    model = {k: INITIAL[k] for k in ("w", "b")}
    wrapped = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, 1.0, len(NODES))
    result = wrapped.start(PlainGrid(), record_of(model), num_rounds=2)
    assert np.isfinite(numpy_of(result.arrays)["w"]).all()


# --- by name ------------------------------------------------------------------------------------------------


def test_a_charter_makes_rules_by_name() -> None:
    assert type(make("fedavg", {}, 7, 4)) is FedAvg
    rule = make("diloco", {"lr": 1, "momentum": 0.3, "fraction_train": 0.5}, 7, 4)
    assert isinstance(rule, DiLoCo)
    assert (rule.outer.lr, rule.outer.momentum, rule.fraction_train, rule.seed) == (
        1.0,
        0.3,
        0.5,
        7,
    )
    for name, entry in RULES.items():
        assert entry.meaning
        assert make(name, {}, 0).minimum >= 1


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("fedsgd", {}, "no strategy 'fedsgd'"),
        ("fedavg", {"lrr": 0.1}, "fedavg has no option 'lrr'"),
        ("diloco", {"lr": "0.1"}, "lr is '0.1', not a number"),
        ("diloco", {"lr": True}, "lr is True, not a number"),
        ("diloco", {"lr": 10**400}, "lr is too large"),
        ("diloco", {"momentum": 1.0}, "momentum is 1.0; it must lie in"),
        ("diloco", {"lr": float("nan")}, "lr is nan"),
        ("fedavg", {"fraction_train": 1.5}, "fraction_train is 1.5"),
        ("fedavg", {"fraction_train": 0}, "nobody would train"),
    ],
)
def test_a_charters_mistakes_are_named_with_what_is_allowed(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(BarnraiseError) as caught:
        make(name, options, 0, 4)
    assert caught.value.code == "C104"
    assert said in caught.value.what
    assert "allowed:" in caught.value.evidence
