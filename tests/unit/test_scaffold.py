"""SCAFFOLD's strategy: the variate moves as the paper has it, exactly, and survives a restart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from barnraise.protocols import flower
from barnraise.strategies import Scaffold, make
from barnraise.strategies.scaffold import CONTROL

Model = Mapping[str, NDArray[Any]]
NODES = (30, 10, 50, 20)
INITIAL: Model = {
    "w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "d": np.ones(2),
    "seen": np.array(2),
}


class Nodes(Grid):
    """A plain grid: only its node ids are asked for."""

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return NODES

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], **_: Any) -> Iterable[Message]:
        raise NotImplementedError


def record_of(model: Model) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(a)) for name, a in model.items()})


def numpy_of(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {name: array.numpy() for name, array in record.items()}


def orders(rule: Scaffold, turn: int = 1, model: Model = INITIAL) -> list[Message]:
    flower.become_server(1)
    return list(rule.configure_train(turn, record_of(model), ConfigRecord(), Nodes()))


def moved(who: int, turn: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng([who, turn])
    return {"w": rng.standard_normal((2, 3)).astype(np.float32), "d": rng.standard_normal(2)}


def answer(order: Message, turn: int = 1, **control: NDArray[Any]) -> Message:
    who = order.metadata.dst_node_id
    model = {k: a + np.asarray(who / 7, a.dtype) for k, a in INITIAL.items()}
    records: dict[str, Any] = {
        "arrays": record_of(model),
        "metrics": MetricRecord({"num-examples": who}),
        CONTROL: record_of({**moved(who, turn), **control}),
    }
    return Message(RecordDict(records), reply_to=order)


def control_of(rule: Scaffold) -> dict[str, NDArray[Any]]:
    return numpy_of(rule.state().array_records[CONTROL])


def test_orders_carry_the_variate_which_is_zero_at_first() -> None:
    rule = Scaffold()
    for order in orders(rule):
        control = numpy_of(order.content.array_records[CONTROL])
        assert {k: (a.dtype.name, a.shape) for k, a in control.items()} == {
            "w": ("float32", (2, 3)),
            "d": ("float64", (2,)),
        }
        assert not any(a.any() for a in control.values())
    evaluate = rule.configure_evaluate(1, record_of(INITIAL), ConfigRecord(), Nodes())
    assert all(CONTROL not in order.content for order in evaluate)


def test_the_variate_moves_by_the_mean_times_the_part_that_answered() -> None:
    rule = Scaffold(fraction_train=0.5)
    model = INITIAL
    expected = {"w": np.zeros((2, 3)), "d": np.zeros(2)}
    for turn in (1, 2, 3):
        asked = orders(rule, turn, model)
        assert len(asked) == 2
        arrays, _ = rule.aggregate_train(turn, [answer(order, turn) for order in asked])
        assert arrays is not None
        ids = [order.metadata.dst_node_id for order in asked]
        for key in expected:
            mean = sum(i * moved(i, turn)[key].astype(float) for i in ids) / sum(ids)
            expected[key] = expected[key] + 2 / 4 * mean
    for key, value in control_of(rule).items():
        assert np.allclose(value, expected[key], rtol=1e-6)


def test_the_model_is_the_mean_or_a_step_of_lr_towards_it() -> None:
    means = []
    for lr in (1.0, 0.5):
        rule = Scaffold(lr=lr)
        arrays, _ = rule.aggregate_train(1, [answer(order) for order in orders(rule)])
        assert arrays is not None
        means.append(numpy_of(arrays))
    assert np.allclose(
        means[1]["w"] - INITIAL["w"], 0.5 * (means[0]["w"] - INITIAL["w"]), rtol=1e-5
    )


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.integers(1, 4))
def test_l1_exact_any_order_of_arrival_gives_the_same_bytes(order: list[int], threads: int) -> None:
    ends = []
    for places, workers in (([0, 1, 2, 3], 1), (order, threads)):
        rule = Scaffold(threads=workers)
        asked = sorted(orders(rule), key=lambda m: m.metadata.dst_node_id)
        rule.aggregate_train(1, [answer(asked[i]) for i in places])
        ends.append({k: a.tobytes() for k, a in control_of(rule).items()})
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    "control",
    [
        {"w": np.zeros((3, 2), np.float32)},
        {"x": np.zeros(2)},
        {"d": np.array([0.0, np.nan])},
        {"w": np.full((2, 3), np.inf, np.float32)},
    ],
)
def test_one_whose_variate_cannot_be_used_does_not_count(control: dict[str, Any]) -> None:
    good, bad = Scaffold(), Scaffold()
    asked = orders(good)
    good.aggregate_train(1, [answer(o) for o in asked[1:]])
    replies = [answer(o, **(control if i == 0 else {})) for i, o in enumerate(orders(bad))]
    arrays, _ = bad.aggregate_train(1, replies)
    assert arrays is not None
    assert [a.tobytes() for a in control_of(bad).values()] == [
        a.tobytes() for a in control_of(good).values()
    ]


def test_one_that_sends_no_variate_does_not_count() -> None:
    rule = Scaffold()
    replies = [answer(order) for order in orders(rule)]
    for reply in replies:
        del reply.content[CONTROL]
    assert rule.aggregate_train(1, replies) == (None, None)
    assert not any(a.any() for a in control_of(rule).values())


@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_it_goes_on_from_its_state(lr: float) -> None:
    through, first = Scaffold(lr=lr), Scaffold(lr=lr)
    for rule in (through, first):
        rule.aggregate_train(1, [answer(order) for order in orders(rule)])
    second = Scaffold(lr=lr)
    second.load(first.state())
    for rule in (through, second):
        rule.aggregate_train(2, [answer(order, 2) for order in orders(rule, 2)])
    assert [a.data for a in through.state().array_records[CONTROL].values()] == [
        a.data for a in second.state().array_records[CONTROL].values()
    ]
    with pytest.raises(ValueError, match="control"):
        Scaffold().load(RecordDict({"momentum": record_of(INITIAL)}))


def test_a_charter_may_name_it() -> None:
    rule = make("scaffold", {"lr": 0.5}, seed=1, members=2)
    assert isinstance(rule, Scaffold)
