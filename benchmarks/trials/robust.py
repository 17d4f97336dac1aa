"""Robust rules under attack, and their price with none: scikit-learn's digits, members that differ.

Fifteen members, three of them bad; each member's classes are drawn from a Dirichlet distribution. A small
perceptron, five local SGD steps a round. The rules are those of a charter; the attacks lie beside the
tests. The local work is written out for all members at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import attacks
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from barnraise.protocols.flower import array_of
from barnraise.strategies import ExactStrategy, make
from trials.grid import Roster

F32, F64 = NDArray[np.float32], NDArray[np.float64]
MEMBERS, BAD = 15, 3
CLASSES, FEATURES, HIDDEN = 10, 64, 32
ALPHA = 0.1  # of the Dirichlet distribution: the smaller, the more members differ
STEPS, BATCH, LR = 5, 16, 0.3
SHAPES = ((FEATURES, HIDDEN), (1, HIDDEN), (HIDDEN, CLASSES), (1, CLASSES))
LAST = 10  # rounds whose accuracy is averaged

RULES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "mean": ("fedavg", {}),
    "mean, norm bound 1 × median": ("fedavg", {"norm_bound_median": 1.0}),
    "median": ("median", {"f": BAD}),
    "trimmed mean": ("trimmed-mean", {"f": BAD}),
    "Krum": ("krum", {"f": BAD}),
    "Multi-Krum": ("multi-krum", {"f": BAD}),
    "geometric median": ("geometric-median", {"f": BAD}),
    "centred clipping": ("centred-clipping", {"f": BAD}),
    "NNM + trimmed mean": ("trimmed-mean", {"f": BAD, "nnm": BAD}),
    "NNM + Krum": ("krum", {"f": BAD, "nnm": BAD}),
}


@dataclass
class Scene:
    """One round as an attacker sees it; `memory` is what it keeps from round to round."""

    honest: F64
    own: F64
    turn: int
    rng: np.random.Generator
    memory: dict[str, Any] = field(default_factory=dict)


def _mimic(scene: Scene) -> F64:
    direction = scene.memory.setdefault("direction", attacks.mimic_direction(scene.honest))
    return attacks.mimic(scene.honest, BAD, direction)


def _free_ride(scene: Scene) -> F64:
    sigma = scene.memory.setdefault("sigma", float(scene.honest.mean(axis=0).std()))
    return attacks.free_ride(scene.own.shape, scene.turn, sigma, scene.rng)


ATTACKS: Mapping[str, Callable[[Scene], F64]] = {
    "none": lambda scene: scene.own,
    "sign flip": lambda scene: attacks.sign_flip(scene.own),
    "ALIE": lambda scene: attacks.alie(scene.honest, BAD),
    "ALIE, z 1.5": lambda scene: attacks.alie(scene.honest, BAD, 1.5),
    "IPM 0.5": lambda scene: attacks.inner_product(scene.honest, BAD, 0.5),
    "IPM 10": lambda scene: attacks.inner_product(scene.honest, BAD, 10.0),
    "label flip": lambda scene: scene.own,  # its labels are flipped
    "mimic": _mimic,
    "free-riders": _free_ride,
}


@dataclass(frozen=True)
class Data:
    """Rows of all members, which of them are whose, and held-out rows."""

    x: F32
    y: NDArray[np.int64]
    members: Sequence[NDArray[np.int64]]
    x_test: F32
    y_test: NDArray[np.int64]


def data_of(seed: int) -> Data:
    """A fresh split and a fresh deal of the digits. The first `BAD` members are the bad ones."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    x = (digits.data[order] / 16).astype(np.float32)
    y = digits.target[order].astype(np.int64)
    test = len(y) // 5
    shares = rng.dirichlet(np.full(MEMBERS, ALPHA), CLASSES)
    members: list[list[int]] = [[] for _ in range(MEMBERS)]
    for label in range(CLASSES):
        rows = test + np.flatnonzero(y[test:] == label)
        cuts = np.round(np.cumsum(shares[label])[:-1] * len(rows)).astype(int)
        for member, part in zip(members, np.split(rows, cuts), strict=True):
            member.extend(part.tolist())
    for member in members:
        while len(member) < BATCH:
            member.append(int(rng.integers(test, len(y))))
    return Data(x, y, [np.array(m) for m in members], x[:test], y[:test])


# --- the model: a perceptron with one hidden layer, for many members at once ------------------------------


def parts_of(w: F32) -> list[F32]:
    """The layers as views: w is (n, parameters)."""
    parts, at = [], 0
    for rows, columns in SHAPES:
        parts.append(w[:, at : at + rows * columns].reshape(len(w), rows, columns))
        at += rows * columns
    return parts


def forward(w: F32, x: F32) -> tuple[F32, F32]:
    """Hidden activations and class probabilities."""
    w1, b1, w2, b2 = parts_of(w)
    hidden = np.maximum(x @ w1 + b1, 0)
    logits = hidden @ w2 + b2
    logits -= logits.max(axis=2, keepdims=True)
    p = np.exp(logits)
    return hidden, p / p.sum(axis=2, keepdims=True)


def step(w: F32, x: F32, y: NDArray[np.int64]) -> None:
    """One SGD step of each member on its batch: w (n, parameters), x (n, b, features), y (n, b)."""
    hidden, error = forward(w, x)
    np.put_along_axis(error, y[:, :, None], np.take_along_axis(error, y[:, :, None], 2) - 1, 2)
    error /= np.float32(x.shape[1])
    back = (error @ parts_of(w)[2].transpose(0, 2, 1)) * (hidden > 0)
    gradients = (
        x.transpose(0, 2, 1) @ back,
        back.sum(axis=1, keepdims=True),
        hidden.transpose(0, 2, 1) @ error,
        error.sum(axis=1, keepdims=True),
    )
    for part, gradient in zip(parts_of(w), gradients, strict=True):
        part -= np.float32(LR) * gradient


def accuracy(w: F32, data: Data) -> float:
    with np.errstate(all="ignore"):
        _, p = forward(w[None], data.x_test[None])
    return float((p[0].argmax(axis=1) == data.y_test).mean())


def initial(rng: np.random.Generator) -> F32:
    layers = [rng.standard_normal(s) * (s[0] ** -0.5 if s[0] > 1 else 0.0) for s in SHAPES]
    return np.concatenate([layer.reshape(-1) for layer in layers]).astype(np.float32)


# --- one run ---------------------------------------------------------------------------------------------


def final_accuracy(rule: ExactStrategy, attack: str, data: Data, seed: int, rounds: int) -> float:
    """The mean held-out accuracy of the last rounds."""
    rng = np.random.default_rng([seed, 11])
    model, grid, memory = initial(rng), Roster(range(1, MEMBERS + 1)), dict[str, Any]()
    labels = data.y.copy()
    if attack == "label flip":
        for member in data.members[:BAD]:
            labels[member] = attacks.flip_labels(labels[member], CLASSES)
    found = []
    for turn in range(1, rounds + 1):
        orders = list(rule.configure_train(turn, record_of(model), ConfigRecord(), grid))
        with np.errstate(all="ignore"):  # a model may diverge
            updates = trained(model, data, labels, rng).astype(np.float64) - model
        scene = Scene(updates[BAD:], updates[:BAD], turn, rng, memory)
        updates[:BAD] = ATTACKS[attack](scene)
        arrays, _ = rule.aggregate_train(turn, replies(orders, model + updates))
        if arrays is not None:
            model = arrays["w"].numpy()
        if turn > rounds - LAST:
            found.append(accuracy(model, data))
    return float(np.mean(found))


def trained(model: F32, data: Data, labels: NDArray[np.int64], rng: np.random.Generator) -> F32:
    """Every member's model after its local steps: (members, parameters)."""
    w = np.repeat(model[None], MEMBERS, axis=0)
    for _ in range(STEPS):
        rows = np.stack([rng.choice(member, BATCH) for member in data.members])
        step(w, data.x[rows], labels[rows])
    return w


def replies(orders: Sequence[Message], models: F64) -> list[Message]:
    """Equal weights: what a member says of its own weight is not to be believed either."""
    found = []
    for order in orders:
        w = models[order.metadata.dst_node_id - 1].astype(np.float32)
        records = {"arrays": record_of(w), "m": MetricRecord({"num-examples": 1})}
        found.append(Message(RecordDict(records), reply_to=order))  # type: ignore[arg-type]
    return found


def record_of(w: F32) -> ArrayRecord:
    record = ArrayRecord()
    record["w"] = array_of(w)
    return record


def run(quick: bool, seeds: Sequence[int]) -> dict[str, Any]:
    """Held-out accuracy by rule and attack: a list over seeds."""
    rounds = 12 if quick else 100
    rules = list(RULES)[::4] if quick else list(RULES)
    found: dict[str, dict[str, list[float]]] = {rule: {} for rule in rules}
    for seed in seeds:
        data = data_of(seed)
        for name in rules:
            for attack in ATTACKS:
                rule = make(RULES[name][0], {**RULES[name][1]}, seed, MEMBERS)
                rule.threads = 1
                result = final_accuracy(rule, attack, data, seed, rounds)
                found[name].setdefault(attack, []).append(result)
    return {"members": MEMBERS, "bad": BAD, "rounds": rounds, "accuracy": found}
