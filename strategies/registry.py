"""Rules by the name that a charter gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from barnraise.protocols.errors import BarnraiseError
from barnraise.strategies.base import ExactStrategy
from barnraise.strategies.diloco import DiLoCo
from barnraise.strategies.fedavg import FedAvg

COMMON: Mapping[str, str] = {
    "fraction_train": "part of the members asked to train in a round, in (0, 1]; default 1",
    "fraction_evaluate": "part of the members asked to evaluate, in [0, 1]; default 1",
}


@dataclass(frozen=True)
class Rule:
    """A rule as a charter sees it: how it is made, one line on it, its numeric options and theirs."""

    make: Callable[..., ExactStrategy]
    meaning: str
    options: Mapping[str, str]


RULES: Mapping[str, Rule] = {
    "fedavg": Rule(FedAvg, "the weighted mean of the members' models (arXiv 1602.05629)", COMMON),
    "diloco": Rule(
        DiLoCo,
        "Nesterov's step on the mean pseudo-gradient (arXiv 2311.08105)",
        {
            "lr": "outer learning rate, > 0; default 0.7",
            "momentum": "outer Nesterov momentum, in [0, 1); default 0.9, lower for short rounds",
            **COMMON,
        },
    ),
}


def make(
    name: str,
    options: Mapping[str, Any],
    seed: int,
    members: int | None = None,
    codec: str | None = None,
) -> ExactStrategy:
    """The rule called `name` for a federation of `members` (None: not known yet), seeded with `seed`, whose
    replies come in `codec`.

    However few members are there, they are asked: which number is too few is for the round policy to
    say. Raises C104, naming the key and what is allowed, for an unknown rule or option, a value of the
    wrong kind or range, and a federation smaller than the rule's minimum.
    """
    if name not in RULES:
        known = _listed({key: rule.meaning for key, rule in RULES.items()})
        raise _wrong(f"there is no strategy {name!r}", known)
    rule = RULES[name]
    values = {key: _number(name, key, value) for key, value in options.items()}
    if values.get("fraction_train") == 0.0:
        raise _wrong(f"{name}: fraction_train is 0, so nobody would train", _listed(COMMON))
    try:
        strategy = rule.make(
            **values,
            min_train_nodes=1,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            seed=seed,
            codec=codec,
        )
    except ValueError as error:
        raise _wrong(f"{name}: {error}", _listed(rule.options)) from None
    if members is not None and members < strategy.minimum:
        raise _wrong(
            f"{name} needs {strategy.minimum} members and the federation has {members}",
            "invite more members, or choose another strategy",
        )
    return strategy


def _number(name: str, key: str, value: Any) -> float:
    options = RULES[name].options
    if key not in options:
        raise _wrong(f"{name} has no option {key!r}", _listed(options))
    if type(value) not in (int, float):
        raise _wrong(f"{name}: {key} is {value!r}, not a number", _listed({key: options[key]}))
    try:
        return float(value)
    except OverflowError:
        raise _wrong(f"{name}: {key} is too large", _listed({key: options[key]})) from None


def _listed(meanings: Mapping[str, str]) -> str:
    return "\n".join(["allowed:", *(f"  {key}: {meaning}" for key, meaning in meanings.items())])


def _wrong(what: str, evidence: str) -> BarnraiseError:
    return BarnraiseError("C104", what, evidence, next="correct the strategy in the charter")
