"""Every rule of the registry as a strategy on plain Messages: law L1, bad members, what is put on record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_kit import (
    INITIAL,
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

from barnraise.protocols.codecs import code, open_coded
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.tensors import MemoryTensor
from barnraise.strategies import ExactStrategy, Krum, exact, make
from barnraise.strategies.reduction import Disagreement
from barnraise.strategies.registry import BEFORE, OUTER, RULES
from barnraise.strategies.replies import Contribution, open_record

# SCAFFOLD's replies carry a second record; it has tests of its own.
NAMES = [name for name in RULES if name != "scaffold"]
COMPOSED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, {}) for name in NAMES},
    **{f"{name} mixed": (name, {"nnm": 1}) for name in NAMES if RULES[name].before},
    **{f"bounded, {name}": ("fedavg", {"norm_bound_median": 0.8, "outer": name}) for name in OUTER},
    "all of it": (
        "multi-krum",
        {"m": 2, "norm_bound": 3.0, "norm_bound_median": 2.0, "nnm": 1, "outer": "yogi"},
    ),
}
ROBUST = [name for name, rule in RULES.items() if "f" in rule.own]
NODES = (70, 20, 90, 10, 50, 60, 40)


def made(what: str, **options: Any) -> ExactStrategy:
    name, given_ = COMPOSED[what]
    rule = make(name, given_, 0, len(NODES))
    for key, value in options.items():
        setattr(rule, key, value)
    return rule


@pytest.mark.parametrize("what", COMPOSED)
@settings(max_examples=6, deadline=None)
@given(data=st.data(), chunk=st.integers(1, 15), threads=st.integers(2, 4))
def test_l1_exact_any_permutation_chunk_and_thread_count_gives_the_same_bytes(
    what: str, data: st.DataObject, chunk: int, threads: int
) -> None:
    def shuffled(replies: list[Message]) -> list[Message]:
        return data.draw(st.permutations(replies))

    expected, rule = made(what, threads=1), made(what, threads=threads)
    model = play(expected, 2, grid=PlainGrid(NODES))
    with mock.patch.object(exact, "CHUNK", chunk):
        got = play(rule, 2, grid=PlainGrid(NODES, order=shuffled))
    assert bytes_of(got) == bytes_of(model)
    assert rule.decision() == expected.decision()
    for name, kept in expected.state().items():
        assert bytes_of(rule.state().array_records[name]) == bytes_of(kept)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", COMPOSED)
def test_state_goes_on_in_another_process(what: str) -> None:
    whole = play(made(what), 4, grid=PlainGrid(NODES))
    first, second = made(what), made(what)
    model = play(first, 2, grid=PlainGrid(NODES))
    second.load(first.state())
    assert bytes_of(play(second, 4, model, first=3, grid=PlainGrid(NODES))) == bytes_of(whole)


# --- update codecs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["bf16", "int8", "topk"])
@pytest.mark.parametrize("what", [w for w in COMPOSED if not w.startswith("bounded")])
def test_l1_coded_replies_are_reduced_as_the_models_that_they_say(what: str, codec: str) -> None:
    """In any order, chunk and thread; beside members who send those models themselves, in float64."""

    def coded(order: Message) -> Message:
        return reply(order, said(order)[0])

    def opened(order: Message) -> Message:
        return reply(order, said(order)[1])

    def said(order: Message) -> tuple[dict[str, Any], dict[str, Any]]:
        model = numpy_of(order.content.array_records["arrays"])
        sent, _ = code(codec, local(model, order.metadata.dst_node_id, 1), model, {})
        tensors = {n: MemoryTensor.of(np.asarray(a)) for n, a in sent.items()}
        base = {n: MemoryTensor.of(a) for n, a in model.items()}
        models = {}
        for name, tensor in open_coded(tensors, base, codec).items():
            models[name] = np.empty(model[name].size, tensor.dtype)
            tensor.read_into(models[name], 0)
            models[name] = models[name].reshape(model[name].shape)
        return dict(sent), models

    name, options = COMPOSED[what]
    plain = play(made(what), 2, grid=PlainGrid(NODES, opened))
    for order, chunk, threads in ((list, 1 << 18, 1), (lambda replies: replies[::-1], 5, 3)):
        rule = make(name, options, 0, len(NODES), codec)
        rule.threads = threads
        with mock.patch.object(exact, "CHUNK", chunk):
            got = play(rule, 2, grid=PlainGrid(NODES, coded, order=order))
        assert bytes_of(got) == bytes_of(plain)


# --- what is put on record -------------------------------------------------------------------------------


def contributions(count: int) -> list[Contribution]:
    """Honest ones around the model, and two far away."""
    found = []
    grid = PlainGrid(range(1, count + 1))
    rule = Krum()
    orders = rule.configure_train(1, record_of(INITIAL), ConfigRecord(), grid)
    for order in orders:
        message = trained(order)
        who = order.metadata.dst_node_id
        arrays = open_record(message.content.array_records["arrays"])
        metrics = message.content.metric_records["metrics"]
        found.append(Contribution(f"site-{who}", weight_of(who), message.content, metrics, arrays))
    return found


@pytest.mark.parametrize("what", COMPOSED)
def test_a_sealed_decision_is_followed_to_the_byte(what: str) -> None:
    base, given_ = record_of(INITIAL), contributions(7)
    rule = made(what)
    model, taken = rule.next_model(base, given_)
    record = rule.decision()
    assert len(taken) == 7
    again, _ = made(what).next_model(base, given_, record)
    assert bytes_of(again) == bytes_of(model)
    assert bool(record) == (rule.reduction.geometric or what.startswith("fednova"))


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("krum", lambda record: {"selected": ["site-4"]}),
        ("krum", lambda record: {"selected": ["nobody"]}),
        ("krum", lambda record: {"selected": []}),
        ("krum", lambda record: {"selected": 7}),
        ("krum", lambda record: {"weights": {"site-1": (0.5).hex()}}),
        ("multi-krum", lambda record: {"selected": record["selected"][::-1]}),
        ("multi-krum", lambda record: {"selected": [record["selected"][0]] * 4}),
        ("geometric-median", lambda record: {"weights": {**record["weights"], "site-1": "0x1p0"}}),
        ("geometric-median", lambda record: {"weights": {**record["weights"], "site-1": "nan"}}),
        ("geometric-median", lambda record: {"weights": {**record["weights"], "nobody": "0x1p0"}}),
        ("geometric-median", lambda record: {"selected": ["site-1"]}),
        ("median mixed", lambda record: {**record, "rows": {**record["rows"], "site-1": {}}}),
        ("median mixed", lambda record: {"selected": ["site-1"]}),
        ("median", lambda record: {"selected": ["site-1"]}),
        ("fedavg", lambda record: {"weights": {"site-1": "0x1p0"}}),
    ],
)
def test_a_decision_that_does_not_follow_is_not_followed(
    what: str, change: Callable[[Any], Any]
) -> None:
    base, given_ = record_of(INITIAL), contributions(7)
    rule = made(what)
    rule.next_model(base, given_)
    with pytest.raises(Disagreement, match="the decision on record"):
        made(what).next_model(base, given_, change(rule.decision()))


def test_a_weight_that_differs_in_its_last_bits_is_followed() -> None:
    """Another processor's BLAS."""
    base, given_ = record_of(INITIAL), contributions(7)
    rule = made("geometric-median")
    rule.next_model(base, given_)
    weights = rule.decision()["weights"]
    name = next(iter(weights))
    nudged = {**weights, name: (float.fromhex(weights[name]) * (1 + 1e-12)).hex()}
    second = made("geometric-median")
    second.next_model(base, given_, {"weights": nudged})
    assert second.decision() == {"weights": nudged}


# --- bad members -----------------------------------------------------------------------------------------


def honest(order: Message) -> Message:
    """What members who mean well send: each a little off the model."""
    model = numpy_of(order.content.array_records["arrays"])
    rng = np.random.default_rng(order.metadata.dst_node_id)
    moved = {
        n: np.asarray(a + 0.01 * rng.standard_normal(a.shape), a.dtype) for n, a in model.items()
    }
    return reply(order, moved, METRICS)


def one_bad(bad: Handler) -> Handler:
    return lambda order: bad(order) if order.metadata.dst_node_id == 20 else honest(order)


def with_all(value: float) -> Handler:
    def handler(order: Message) -> Message:
        model = numpy_of(order.content.array_records["arrays"])
        filled = {
            n: np.full_like(a, min(value, 6e4) if a.dtype == np.float16 else value)
            if a.dtype.kind == "f"
            else a
            for n, a in model.items()
        }
        return reply(order, filled, METRICS)

    return handler


def weighing(weight: Any) -> Handler:
    def handler(order: Message) -> Message:
        model = numpy_of(order.content.array_records["arrays"])
        return reply(order, model, {**METRICS, "num-examples": weight})

    return handler


METRICS: Mapping[str, Any] = {"num-examples": 9, "steps": 3, "loss": 1.0}
REFUSED: Mapping[str, tuple[Handler, str]] = {
    "nan": (with_all(float("nan")), "holds NaN or infinity"),
    "infinity": (with_all(float("inf")), "holds NaN or infinity"),
    "shape": (
        lambda order: reply(order, {**INITIAL, "w": np.zeros((4, 3), "f4")}, METRICS),
        "its array w is",
    ),
    "weight 0": (weighing(0), "not an integer in"),
    "weight -9": (weighing(-9), "not an integer in"),
    "weight 1e15": (weighing(10**15), "not an integer in"),
    "weight 2.5": (weighing(2.5), "not an integer in"),
}


@pytest.mark.parametrize("bad", REFUSED)
@pytest.mark.parametrize("what", COMPOSED)
def test_l5_a_bad_reply_is_set_aside_by_name_and_reason(
    what: str, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler, reason = REFUSED[bad]
    with caplog.at_level(logging.WARNING, "flwr"):
        got = play(made(what), 1, grid=PlainGrid(NODES, one_bad(handler)))
    others = [node for node in NODES if node != 20]
    assert bytes_of(got) == bytes_of(play(made(what), 1, grid=PlainGrid(others, honest)))
    (said,) = {r.getMessage() for r in caplog.records if "does not count" in r.getMessage()}
    assert "the reply of 20 does not count" in said
    assert reason in said


@pytest.mark.parametrize("value", [1e30, 0.0])
@pytest.mark.parametrize("what", ROBUST)
def test_robust_rules_stay_among_the_honest(what: str, value: float) -> None:
    got = numpy_of(play(made(what), 1, grid=PlainGrid(NODES, one_bad(with_all(value)))))
    for name in ("w", "b"):
        assert np.abs(got[name].astype(np.float64) - INITIAL[name]).max() < 0.1


@pytest.mark.parametrize("what", COMPOSED)
def test_1e30_leaves_model_and_state_finite(what: str) -> None:
    rule = made(what)
    got = numpy_of(play(rule, 3, grid=PlainGrid(NODES, one_bad(with_all(1e30)))))
    assert all(np.isfinite(a).all() for a in got.values())
    for kept in rule.state().array_records.values():
        assert all(np.isfinite(a).all() for a in numpy_of(kept).values())


def test_what_is_too_far_to_be_measured_is_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    def far(order: Message) -> Message:
        return reply(order, {**INITIAL, "b": np.full(3, 1e200)}, METRICS)

    rule = made("krum")
    play(rule, 1, grid=PlainGrid(NODES, one_bad(far)))
    assert "the reply of 20 does not count: it lies so far from the model" in caplog.text
    assert rule.decision()["selected"] != ["20"]


@pytest.mark.parametrize("what", COMPOSED)
def test_with_all_but_one_failing_the_model_stays_where_one_is_too_few(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(order: Message) -> Message:
        if order.metadata.dst_node_id == 10:
            return honest(order)
        return Message(Error(0, "out of memory"), reply_to=order)

    rule = made(what)
    got = play(rule, 1, grid=PlainGrid(NODES, failing))
    moved = bytes_of(got) != bytes_of(record_of(INITIAL))
    assert moved == (rule.minimum == 1)
    if not moved:
        assert f"1 replies count and the rule needs {rule.minimum}: the model stays" in caplog.text
        assert rule.decision() == {}
        assert not rule.state()


def test_fednova_sets_aside_who_does_not_say_how_many_steps(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for steps in (0, -1, 2.0, 2**31):
        given_ = {**METRICS, "steps": steps}
        bad = one_bad(lambda order, g=given_: reply(order, INITIAL, g))  # type: ignore[misc]
        rule = made("fednova")
        play(rule, 1, grid=PlainGrid(NODES, bad))
        assert "20" not in rule.decision()["weights"]
        assert f"its number of steps 'steps' is {steps!r}" in caplog.text


# --- too few ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [w for w in COMPOSED if made(w).minimum > 1])
def test_a_federation_too_small_is_refused_before_it_starts_with_the_number_needed(
    what: str,
) -> None:
    name, options = COMPOSED[what]
    needed = made(what).minimum
    with pytest.raises(BarnraiseError) as caught:
        make(name, options, 0, needed - 1)
    assert caught.value.code == "C104"
    assert f"needs {needed} members and the federation has {needed - 1}" in caught.value.what
    assert make(name, options, 0, needed).minimum == needed
    names = {i: f"site-{i}" for i in range(1, needed)}
    grid = NamedGrid(names)
    with pytest.raises(BarnraiseError) as caught:
        make(name, options, 0).configure_train(1, record_of(INITIAL), ConfigRecord(), grid)
    assert caught.value.code == "R104"
    assert f"needs {needed} members to train and there are {needed - 1}" in caught.value.what
    assert not grid.sent


@pytest.mark.parametrize(
    ("what", "options", "needed"),
    [
        ("median", {"f": 3}, 7),
        ("trimmed-mean", {"f": 3}, 7),
        ("geometric-median", {"f": 3}, 7),
        ("centred-clipping", {"f": 3}, 7),
        ("krum", {"f": 3}, 9),
        ("multi-krum", {"f": 3}, 9),
        ("multi-krum", {"f": 1, "m": 6}, 9),
        ("median", {"nnm": 4}, 9),
        ("fedavg", {"norm_bound": 1.0}, 1),
        ("fedavg", {"norm_bound_median": 1.0}, 3),
    ],
)
def test_each_rule_needs_what_its_condition_says(
    what: str, options: Mapping[str, Any], needed: int
) -> None:
    assert make(what, options, 0).minimum == needed


def test_a_sample_is_never_smaller_than_the_rule_needs() -> None:
    rule = make("krum", {"fraction_train": 0.1}, 0, len(NODES))
    assert (
        len(list(rule.configure_train(1, record_of(INITIAL), ConfigRecord(), PlainGrid(NODES))))
        == 5
    )


# --- charters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("krumm", {}, "there is no strategy 'krumm'"),
        ("krum", {"f": 1.0}, "krum: f is 1.0, not an integer"),
        ("krum", {"f": True}, "krum: f is True, not an integer"),
        ("krum", {"f": -1}, "krum: f is -1; it must be an integer, 1 or more"),
        ("krum", {"f": 10**9}, "krum needs 2000000003 members"),
        ("krum", {"m": 2}, "krum has no option 'm'"),
        ("multi-krum", {"m": 0}, "m is 0; it must be"),
        ("multi-krum", {"m": 9}, "multi-krum needs 12 members"),
        ("median", {"nnm": 0}, "nnm is 0; it must be"),
        ("median", {"norm_bound": -2}, "norm_bound is -2.0; it must be"),
        ("fedavg", {"outer": "adamw"}, "there is no outer optimizer 'adamw'"),
        ("fedavg", {"outer": 3}, "there is no outer optimizer 3"),
        ("fedavg", {"lr": 0.1}, "lr belongs to an outer optimizer, and none is given"),
        ("fedavg", {"outer": "sgd", "beta1": 0.1}, "the outer optimizer sgd has no option 'beta1'"),
        ("fedavg", {"outer": "adam", "beta1": 1.0}, "beta1 is 1.0; it must lie in"),
        ("diloco", {"outer": "adam"}, "diloco has no option 'outer'"),
        ("centred-clipping", {"radius": 0}, "radius is 0.0; it must be"),
        ("geometric-median", {"smoothing": "1e-6"}, "smoothing is '1e-6', not a number"),
    ],
)
def test_a_charters_mistakes_are_named(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BarnraiseError) as caught:
        make(name, options, 0, 9)
    assert caught.value.code == "C104"
    assert said in caught.value.what


@pytest.mark.parametrize("name", RULES)
def test_every_option_of_every_rule_is_explained_and_taken(name: str) -> None:
    values = {
        "f": 1,
        "m": 2,
        "iterations": 2,
        "nnm": 1,
        "norm_bound": 2.0,
        "norm_bound_median": 2.0,
    }
    for key, meaning in RULES[name].options.items():
        assert meaning
        optimizers = [o for o, rule in OUTER.items() if key in rule.options]
        beside = {"outer": optimizers[0]} if optimizers and RULES[name].outer else {}
        value = "adam" if key == "outer" else values.get(key, 0.5)
        make(name, {key: value, **beside}, 0, 9)


def test_pre_steps_come_in_the_sequence_of_the_table() -> None:
    rule = make("median", {"nnm": 1, "norm_bound_median": 2.0, "norm_bound": 1.0}, 0)
    assert [type(s) for s in rule.reduction.before] == [kind for kind, _ in BEFORE.values()]


def test_what_is_composed_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    said = "\n".join(made("all of it").settings())
    for part in (
        "KrumSelection, f 1, m 2",
        "NormBound, bound 3.0",
        "Yogi, lr 0.1",
        "Needs 5 replies",
    ):
        assert part in said


def test_the_base_is_needed_where_distances_are(caplog: pytest.LogCaptureFixture) -> None:
    grid = PlainGrid(NODES)
    orders = list(made("median").configure_train(1, record_of(INITIAL), ConfigRecord(), grid))
    replies = [reply(order, local(INITIAL, i, 1)) for i, order in enumerate(orders)]
    for what in ("krum", "median mixed", "fednova"):
        with pytest.raises(RuntimeError, match="call configure_train before it"):
            made(what).aggregate_train(1, replies)
    assert made("median").aggregate_train(1, replies)[0] is not None
