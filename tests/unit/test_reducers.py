"""Reducers, pre-steps and outer optimizers, each against a plain reference over the full matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from barnraise.protocols.flower import tensor_of
from barnraise.protocols.tensors import MemoryTensor
from barnraise.strategies import exact, networks, outer, presteps, reducers
from barnraise.strategies.exact import Step
from barnraise.strategies.gram import gram
from barnraise.strategies.reducers import Reducer
from barnraise.strategies.reduction import Outcome, Reduction, reduced
from barnraise.strategies.replies import Contribution

F64 = NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from(["float16", "float32", "float64"])
SIZE = 60


def models(n: int, seed: int, dtype: str, spread: int = 2) -> list[NDArray[Any]]:
    """A base and `n` members; elements of widely different size, some equal, some zeros of either sign."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((n + 1, SIZE)) * 10.0 ** rng.integers(-spread, spread + 1, SIZE)
    made[:, :3] = rng.choice([0.0, -0.0, 1.0], (n + 1, 3))
    made[1:, 3] = made[1, 3]
    return list(made.astype(dtype))


def contributions(members: Sequence[NDArray[Any]], steps: Sequence[int] = ()) -> list[Contribution]:
    found = []
    for i, member in enumerate(members):
        metrics = MetricRecord({"num-examples": i + 1, "steps": steps[i] if steps else 1})
        arrays = {"x": MemoryTensor.of(member)}
        found.append(Contribution(f"site-{i:02}", i + 1, RecordDict(), metrics, arrays))
    return found


def outcome_of(
    reducer: Reducer,
    base: NDArray[Any],
    members: Sequence[NDArray[Any]],
    before: Sequence[presteps.PreStep] = (),
    **options: Any,
) -> Outcome:
    form = {"x": (base.dtype, base.shape)}
    given_ = options.pop("contributions", None) or contributions(members)
    arguments = Reduction(reducer, before), form, {"x": MemoryTensor.of(base)}, given_, None
    outcome = reduced(*arguments, **options)
    assert not isinstance(outcome, str)
    return outcome


def model_of(outcome: Outcome) -> NDArray[Any]:
    return outcome.made.model["x"].numpy()


def close(got: NDArray[Any], wanted: F64, matrix: F64) -> bool:
    """Half an ulp of the model's dtype, and a float64 error of the members' own size."""
    ulp = np.spacing(np.abs(got)).astype(np.float64)
    bound = 0.51 * ulp + 1e-9 * np.abs(matrix).max(axis=0)
    return bool((np.abs(got.astype(np.float64) - wanted) <= bound).all())


# --- by coordinate -------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.integers(3, 33), SEEDS, DTYPES)
def test_the_median_is_numpys(n: int, seed: int, dtype: str) -> None:
    base, *members = models(n, seed, dtype)
    got = model_of(outcome_of(reducers.CoordinateMedian(), base, members))
    wanted = np.median(np.stack(members).astype(np.float64), axis=0).astype(dtype) + 0.0
    assert got.tobytes() == wanted.astype(dtype).tobytes()


@settings(max_examples=80, deadline=None)
@given(st.integers(3, 33), st.data(), SEEDS, DTYPES)
def test_the_trimmed_mean_is_that_of_the_sorted_matrix(
    n: int, data: st.DataObject, seed: int, dtype: str
) -> None:
    f = data.draw(st.integers(1, (n - 1) // 2))
    base, *members = models(n, seed, dtype)
    got = model_of(outcome_of(reducers.CoordinateTrimmedMean(f), base, members))
    kept = np.sort(np.stack(members).astype(np.float64), axis=0)[f : n - f]
    total = np.zeros(SIZE)
    for row in kept:
        total = total + row
    assert got.tobytes() == (total / (n - 2 * f)).astype(dtype).tobytes()


def test_members_of_several_widths_are_compared_exactly() -> None:
    members = [np.array([v]) for v in (1.0, 1.0 + 2.0**-40, 1.0 + 2.0**-39)]
    members[0] = members[0].astype(np.float32)
    got = model_of(outcome_of(reducers.CoordinateMedian(), np.zeros(1), members))
    assert got.tolist() == [1.0 + 2.0**-40]


def test_the_upper_and_lower_middle_do_not_overflow() -> None:
    top = np.finfo(np.float64).max
    members = [np.array([v]) for v in (0.0, top, top, top)]
    assert model_of(outcome_of(reducers.CoordinateMedian(), np.zeros(1), members)).tolist() == [top]


@pytest.mark.parametrize("n", range(1, 11))
def test_networks_sort_every_column_of_zeros_and_ones(n: int) -> None:
    """By the 0-1 principle they then sort everything."""
    columns = np.array(list(product([0.0, 1.0], repeat=n))).T
    for ranks in (tuple(range(n)), (n // 2,), ((n - 1) // 2, n // 2)):
        got = networks.ranked(list(columns.copy()), np.empty(2**n), ranks)
        assert (np.stack(got) == np.sort(columns, axis=0)[list(ranks)]).all()


def test_a_network_leaves_out_what_the_ranks_do_not_need() -> None:
    assert len(networks.network(32, tuple(range(32)))) == 191  # Batcher's
    assert len(networks.network(32, (15, 16))) < 191


# --- by geometry ---------------------------------------------------------------------------------------


def krum_scores(matrix: F64, f: int) -> F64:
    n = len(matrix)
    scores = []
    for i in range(n):
        far = sorted(float(np.sum((matrix[i] - matrix[j]) ** 2)) for j in range(n) if j != i)
        scores.append(sum(far[: n - f - 2]))
    return np.array(scores)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 6), SEEDS, DTYPES)
def test_krum_is_the_member_of_least_score(f: int, more: int, seed: int, dtype: str) -> None:
    base, *members = models(2 * f + 3 + more, seed, dtype)
    outcome = outcome_of(reducers.KrumSelection(f), base, members)
    scores = krum_scores(np.stack(members).astype(np.float64), f)
    ((chosen,),) = (outcome.decision["selected"],)
    place = int(chosen.removeprefix("site-"))
    assert scores[place] <= scores.min() * (1 + 1e-9)
    assert (model_of(outcome) == members[place]).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(0, 6), st.data(), SEEDS)
def test_multi_krum_is_the_mean_of_the_m_of_least_score(
    f: int, more: int, data: st.DataObject, seed: int
) -> None:
    n = 2 * f + 3 + more
    m = data.draw(st.none() | st.integers(1, n - f - 2))
    base, *members = models(n, seed, "float32")
    matrix = np.stack(members).astype(np.float64)
    outcome = outcome_of(reducers.KrumSelection(f, m), base, members)
    best = np.sort(np.argsort(krum_scores(matrix, f))[: m or n - f - 2])
    assert outcome.decision == {"selected": [f"site-{i:02}" for i in best]}
    assert close(model_of(outcome), matrix[best].mean(axis=0), matrix)


def total_distance(point: F64, matrix: F64) -> float:
    return float(np.sqrt(((matrix - point) ** 2).sum(axis=1)).sum())


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 12), SEEDS)
def test_the_geometric_median_is_the_point_of_least_total_distance(n: int, seed: int) -> None:
    base, *members = models(n, seed, "float64", spread=0)
    matrix = np.stack(members)
    outcome = outcome_of(reducers.GeometricMedian(), base, members)
    point = matrix.mean(axis=0)
    for _ in range(2000):
        weights = 1 / np.maximum(np.sqrt(((matrix - point) ** 2).sum(axis=1)), 1e-9)
        point = weights @ matrix / weights.sum()
    ours = total_distance(model_of(outcome), matrix)
    assert ours <= total_distance(point, matrix) * (1 + 1e-6)


def test_the_geometric_median_of_a_majority_at_one_point_is_that_point() -> None:
    members = [np.full(4, 3.0, np.float32)] * 3 + [np.full(4, 9.0, np.float32), np.zeros(4, "f4")]
    got = model_of(outcome_of(reducers.GeometricMedian(2), np.ones(4, np.float32), members))
    assert got.tolist() == [3.0] * 4


@pytest.mark.parametrize("reducer", [reducers.GeometricMedian(2), reducers.CentredClipping(2)])
def test_what_lies_1e30_away_hardly_moves_them(reducer: Reducer) -> None:
    base, *members = models(8, 5, "float32", spread=0)
    honest = np.stack(members).astype(np.float64)
    members += [np.full(SIZE, 1e30, np.float32), np.full(SIZE, -1e30, np.float32)]
    got = model_of(outcome_of(reducer, base, members)).astype(np.float64)
    radius = np.sqrt(((honest - honest.mean(axis=0)) ** 2).sum(axis=1)).max()
    assert np.linalg.norm(got - honest.mean(axis=0)) < radius


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 12), st.integers(1, 5), st.none() | st.floats(0.1, 20), SEEDS)
def test_centred_clipping_is_the_papers_iteration(
    n: int, iterations: int, radius: float | None, seed: int
) -> None:
    base, *members = models(n, seed, "float64", spread=0)
    outcome = outcome_of(reducers.CentredClipping(1, radius, iterations), base, members)
    deltas = np.stack(members) - base
    centre = np.zeros(SIZE)
    for _ in range(iterations):
        far = np.sqrt(((deltas - centre) ** 2).sum(axis=1))
        tau = radius if radius is not None else float(np.median(far))
        clip = np.minimum(1.0, tau / np.maximum(far, 1e-300))
        centre = centre + ((deltas - centre) * clip[:, None]).mean(axis=0)
    np.testing.assert_allclose(model_of(outcome), base + centre, rtol=1e-7, atol=1e-7)


# --- means ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=8), SEEDS)
def test_fednova_is_the_normalised_mean(steps: list[int], seed: int) -> None:
    base, *members = models(len(steps), seed, "float64")
    given_ = contributions(members, steps)
    got = model_of(outcome_of(reducers.NormalisedMean(), base, members, contributions=given_))
    total = sum(c.weight for c in given_)
    effective = sum(Fraction(c.weight * s, total) for c, s in zip(given_, steps, strict=True))
    for k in range(SIZE):
        parts = (
            Fraction(c.weight, total) * (Fraction(float(m[k])) - Fraction(float(base[k]))) / s
            for c, m, s in zip(given_, members, steps, strict=True)
        )
        wanted = Fraction(float(base[k])) + effective * sum(parts, Fraction(0))
        size = max(abs(float(m[k])) for m in (base, *members)) * max(steps)
        assert abs(Fraction(float(got[k])) - wanted) <= Fraction(size * 1e-12)


def test_fednova_of_equal_steps_is_the_mean() -> None:
    base, *members = models(5, 1, "float32")
    nova = model_of(
        outcome_of(
            reducers.NormalisedMean(), base, members, contributions=contributions(members, [7] * 5)
        )
    )
    assert nova.tobytes() == model_of(outcome_of(reducers.Mean(), base, members)).tobytes()


# --- pre-steps -----------------------------------------------------------------------------------------


def bounded(deltas: F64, bound: float) -> F64:
    length = np.sqrt((deltas**2).sum(axis=1, keepdims=True))
    return deltas * np.minimum(1.0, bound / np.maximum(length, 1e-300))


def mixed_with_neighbours(deltas: F64, f: int) -> F64:
    rows = []
    for one in deltas:
        near = np.argsort(((deltas - one) ** 2).sum(axis=1), kind="stable")[: len(deltas) - f]
        rows.append(deltas[near].mean(axis=0))
    return np.stack(rows)


def median_bounded(deltas: F64) -> F64:
    return bounded(deltas, 0.7 * float(np.median(np.sqrt((deltas**2).sum(axis=1)))))


PRE: Sequence[tuple[presteps.PreStep, Callable[[F64], F64]]] = [
    (presteps.NormBound(2.5), lambda d: bounded(d, 2.5)),
    (presteps.MedianNormBound(0.7), median_bounded),
    (presteps.NearestNeighbourMixing(2), lambda d: mixed_with_neighbours(d, 2)),
]
AFTER: Sequence[tuple[Reducer, Callable[[F64], F64]]] = [
    (reducers.Mean(), lambda d: np.arange(1, len(d) + 1) @ d / sum(range(len(d) + 1))),
    (reducers.CoordinateMedian(), lambda d: np.median(d, axis=0)),
    (reducers.CoordinateTrimmedMean(2), lambda d: np.sort(d, axis=0)[2:-2].mean(axis=0)),
    (reducers.KrumSelection(1), lambda d: d[int(np.argmin(krum_scores(d, 1)))]),
]


@pytest.mark.parametrize("after", range(len(AFTER)))
@pytest.mark.parametrize("steps", [(0,), (1,), (2,), (0, 2), (1, 2), (2, 1)])
@settings(max_examples=10, deadline=None)
@given(n=st.integers(5, 12), seed=SEEDS, dtype=st.sampled_from(["float32", "float64"]))
def test_pre_steps_compose_with_reducers(
    steps: Sequence[int], after: int, n: int, seed: int, dtype: str
) -> None:
    base, *members = models(n, seed, dtype, spread=0)
    reducer, reference = AFTER[after]
    got = model_of(outcome_of(reducer, base, members, [PRE[i][0] for i in steps]))
    deltas = np.stack(members).astype(np.float64) - base.astype(np.float64)
    for i in steps:
        deltas = PRE[i][1](deltas)
    if isinstance(reducer, reducers.KrumSelection):
        scores = np.sort(krum_scores(deltas, 1))
        if scores[1] - scores[0] <= 1e-9 * scores[1]:
            return  # rounding decides; either is right
    wanted = base.astype(np.float64) + reference(deltas)
    np.testing.assert_allclose(got, wanted, rtol=2e-6 if dtype == "float32" else 1e-9, atol=2e-6)


# --- the Gram matrix -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), SEEDS, DTYPES, st.integers(2, 4))
def test_the_gram_matrix_is_that_of_the_deltas_on_any_number_of_threads(
    n: int, seed: int, dtype: str, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    made = [
        {"a": rng.standard_normal((7, 3)).astype(dtype), "b": rng.standard_normal(600) + 1j, "n": i}
        for i in range(n + 1)
    ]
    form = {k: (np.asarray(v).dtype, np.asarray(v).shape) for k, v in made[0].items()}
    base, *members = [{k: MemoryTensor.of(np.asarray(v)) for k, v in m.items()} for m in made]
    one = gram(form, base, members, threads=1)
    assert one.tobytes() == gram(form, base, members, threads=threads).tobytes()
    flat = [np.concatenate([m["a"].ravel().astype("f8"), m["b"].view("f8")]) for m in made]
    deltas = np.stack([f - flat[0] for f in flat[1:]])
    np.testing.assert_allclose(one, deltas @ deltas.T, rtol=1e-9, atol=1e-9)


# --- outer optimizers ----------------------------------------------------------------------------------


def adam(beta1: float, beta2: float, yogi: bool) -> Callable[[F64, dict[str, F64]], F64]:
    def direction(g: F64, kept: dict[str, F64]) -> F64:
        kept["m"] = beta1 * kept.get("m", np.zeros(SIZE)) + (1 - beta1) * g
        v = kept.get("v", np.zeros(SIZE))
        drawn = np.sign(v - g**2) * g**2 if yogi else v - g**2
        kept["v"] = v - (1 - beta2) * drawn
        return kept["m"] / (np.sqrt(kept["v"]) + 1e-3)

    return direction


def adagrad(g: F64, kept: dict[str, F64]) -> F64:
    kept["v"] = kept.get("v", np.zeros(SIZE)) + g**2
    return g / (np.sqrt(kept["v"]) + 1e-3)


def momentum(beta: float, ahead: bool) -> Callable[[F64, dict[str, F64]], F64]:
    def direction(g: F64, kept: dict[str, F64]) -> F64:
        kept["v"] = beta * kept.get("v", np.zeros(SIZE)) + g
        return g + beta * kept["v"] if ahead else kept["v"]

    return direction


OUTERS: Mapping[str, tuple[exact.Outer, float, Callable[[F64, dict[str, F64]], F64]]] = {
    "sgd": (outer.Sgd(0.3), 0.3, lambda g, kept: g),
    "momentum": (outer.Momentum(0.3, 0.8), 0.3, momentum(0.8, False)),
    "nesterov": (outer.Nesterov(0.3, 0.8), 0.3, momentum(0.8, True)),
    "adagrad": (outer.Adagrad(0.1), 0.1, adagrad),
    "adam": (outer.Adam(0.1, 0.8, 0.95), 0.1, adam(0.8, 0.95, False)),
    "yogi": (outer.Yogi(0.1, 0.8, 0.95), 0.1, adam(0.8, 0.95, True)),
}


@pytest.mark.parametrize("name", OUTERS)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_outer_optimizers_are_their_formulas_over_several_rounds(name: str, seed: int) -> None:
    optimizer, lr, direction = OUTERS[name]
    rng = np.random.default_rng(seed)
    base, state = rng.standard_normal(SIZE), None
    wanted, kept = base.copy(), {}
    for _ in range(4):
        member = rng.standard_normal(SIZE)
        member[:2] = base[:2]  # a pseudo-gradient of zero
        step = Step(optimizer, {"x": MemoryTensor.of(base)}, state)
        form = {"x": (base.dtype, base.shape)}
        given_ = contributions([member])
        outcome = reduced(Reduction(reducers.Mean()), form, step.base, given_, step)
        assert not isinstance(outcome, str)
        base = model_of(outcome)
        state = {k: {"x": tensor_of(a["x"])} for k, a in outcome.made.state.items()}
        wanted = wanted - lr * direction(wanted - member, kept)
        np.testing.assert_allclose(base, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: outer.Adam(0.0),
        lambda: outer.Adam(0.1, 1.0),
        lambda: outer.Yogi(0.1, 0.9, -0.1),
        lambda: outer.Adagrad(0.1, 0.0),
        lambda: outer.Momentum(1.0, 1.0),
        lambda: reducers.KrumSelection(0),
        lambda: reducers.KrumSelection(1, 0),
        lambda: reducers.CoordinateTrimmedMean(True),
        lambda: reducers.CentredClipping(1, -1.0),
        lambda: reducers.CentredClipping(1, None, 0),
        lambda: reducers.GeometricMedian(1, float("nan")),
        lambda: presteps.NormBound(0.0),
        lambda: presteps.MedianNormBound(float("inf")),
        lambda: presteps.NearestNeighbourMixing(0),
    ],
)
def test_options_out_of_range_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must"):
        wrong()


def test_a_second_moment_of_1e60_does_not_end_the_state() -> None:
    step = Step(outer.Adam(0.1), {"x": MemoryTensor.of(np.zeros(3, np.float32))})
    form = {"x": (np.dtype(np.float32), (3,))}
    given_ = contributions([np.full(3, 1e30, np.float32)])
    outcome = reduced(Reduction(reducers.Mean()), form, step.base, given_, step)
    assert not isinstance(outcome, str)
    assert np.isfinite(outcome.made.state["second"]["x"].numpy()).all()
