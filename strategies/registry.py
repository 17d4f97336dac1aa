"""Rules by the name that a charter gives them, and the options that a charter may give beside it.

[strategy]
name = "multi-krum"          # a reducer (`RULES`)
f = 2                        # its own options
norm_bound_median = 3.0      # pre-steps (`BEFORE`), carried out in the sequence of that table
outer = "adam"               # an outer optimizer (`OUTER`), and its options
lr = 0.1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from barnraise.protocols.errors import BarnraiseError
from barnraise.strategies import outer, presteps, robust
from barnraise.strategies.base import ExactStrategy
from barnraise.strategies.diloco import DiLoCo
from barnraise.strategies.exact import Outer
from barnraise.strategies.fedavg import FedAvg
from barnraise.strategies.presteps import PreStep
from barnraise.strategies.scaffold import Scaffold

Meanings = Mapping[str, str]

COMMON: Meanings = {
    "fraction_train": "part of the members asked to train in a round, in (0, 1]; default 1",
    "fraction_evaluate": "part of the members asked to evaluate, in [0, 1]; default 1",
}
WHOLE = ("f", "m", "iterations", "nnm")
"""The options that are integers; the others are numbers, and `outer` is a name."""

_F: Meanings = {"f": "how many bad members are withstood, an integer >= 1; default 1"}
_LR = "outer learning rate, > 0; default "
_TAU = "keeps the step finite where the second moment is 0, > 0; default 0.001"
_ADAPTIVE: Meanings = {
    "lr": _LR + "0.1",
    "beta1": "decay of the first moment, in [0, 1); default 0.9",
    "beta2": "decay of the second moment, in [0, 1); default 0.99",
    "tau": _TAU,
}


@dataclass(frozen=True)
class OuterRule:
    """An outer optimizer as a charter sees it; `defaults` where its class has none."""

    make: Callable[..., Outer]
    meaning: str
    options: Meanings
    defaults: Mapping[str, float] = field(default_factory=dict)


OUTER: Mapping[str, OuterRule] = {
    "sgd": OuterRule(
        outer.Sgd, "a step of lr towards what was reduced", {"lr": _LR + "1"}, {"lr": 1.0}
    ),
    "momentum": OuterRule(
        outer.Momentum,
        "SGD with momentum (FedAvgM, arXiv 1909.06335)",
        {"lr": _LR + "1", "momentum": "in [0, 1); default 0.9"},
        {"lr": 1.0, "momentum": 0.9},
    ),
    "nesterov": OuterRule(
        outer.Nesterov,
        "SGD with Nesterov momentum (as in DiLoCo, arXiv 2311.08105)",
        {"lr": _LR + "0.7", "momentum": "in [0, 1); default 0.9"},
        {"lr": 0.7, "momentum": 0.9},
    ),
    "adagrad": OuterRule(
        outer.Adagrad,
        "FedAdagrad (arXiv 2003.00295)",
        {"lr": _LR + "0.1", "tau": _TAU},
        {"lr": 0.1},
    ),
    "adam": OuterRule(outer.Adam, "FedAdam (arXiv 2003.00295)", _ADAPTIVE, {"lr": 0.1}),
    "yogi": OuterRule(outer.Yogi, "FedYogi (arXiv 2003.00295)", _ADAPTIVE, {"lr": 0.1}),
}

BEFORE: Mapping[str, tuple[Callable[[Any], PreStep], str]] = {
    "norm_bound": (
        presteps.NormBound,
        "no update is longer than this, > 0, in the model's own units; default: no bound",
    ),
    "norm_bound_median": (
        presteps.MedianNormBound,
        "no update is longer than this many times the median length, > 0; default: no bound",
    ),
    "nnm": (
        presteps.NearestNeighbourMixing,
        "each update becomes the mean of the n - nnm nearest (NNM), an integer >= 1; default: it does not",
    ),
}


@dataclass(frozen=True)
class Rule:
    """A rule as a charter sees it: how it is made, one line on it, its own options and theirs.

    `before` and `outer` say whether pre-steps and an outer optimizer may be given with it.
    """

    make: Callable[..., ExactStrategy]
    meaning: str
    own: Meanings = field(default_factory=dict)
    before: bool = True
    outer: bool = True

    @property
    def options(self) -> dict[str, str]:
        """Every option that may stand beside this rule's name, and what it means."""
        found = dict(self.own)
        if self.before:
            found.update((key, meaning) for key, (_, meaning) in BEFORE.items())
        if self.outer:
            found["outer"] = f"the outer optimizer: {', '.join(OUTER)}; default: none"
            for name, rule in OUTER.items():
                for key, meaning in rule.options.items():
                    held = f"{found[key]}; " if key in found else ""
                    found[key] = f"{held}{name}: {meaning}"
        return {**found, **COMMON}


RULES: Mapping[str, Rule] = {
    "fedavg": Rule(FedAvg, "the weighted mean of the members' models (arXiv 1602.05629)"),
    "diloco": Rule(
        DiLoCo,
        "Nesterov's step on the mean pseudo-gradient (arXiv 2311.08105)",
        {
            "lr": "outer learning rate, > 0; default 0.7",
            "momentum": "outer Nesterov momentum, in [0, 1); default 0.9, lower for short rounds",
        },
        outer=False,
    ),
    "scaffold": Rule(
        Scaffold,
        "the mean, the members' drift corrected by control variates (arXiv 1910.06378)",
        {"lr": "global learning rate, > 0; default 1"},
        before=False,
        outer=False,
    ),
    "fednova": Rule(
        robust.FedNova, "the mean normalised for unequal local steps (arXiv 2007.07481)"
    ),
    "median": Rule(robust.Median, "the coordinate-wise median (arXiv 1803.01498)", _F),
    "trimmed-mean": Rule(
        robust.TrimmedMean,
        "the coordinate-wise mean without the f lowest and highest (arXiv 1803.01498)",
        _F,
    ),
    "krum": Rule(
        robust.Krum, "the model of the member nearest to its neighbours (Blanchard 2017)", _F
    ),
    "multi-krum": Rule(
        robust.MultiKrum,
        "the mean of the m members nearest to their neighbours (Blanchard 2017)",
        {**_F, "m": "how many are averaged, an integer in [1, n - f - 2]; default n - f - 2"},
    ),
    "geometric-median": Rule(
        robust.GeometricMedian,
        "the point of least total distance to the members (RFA, arXiv 1912.13445)",
        {**_F, "smoothing": "of the Weiszfeld step, in median distances, > 0; default 1e-6"},
    ),
    "centred-clipping": Rule(
        robust.CentredClipping,
        "the mean of updates clipped around a moving centre (arXiv 2012.10333)",
        {
            **_F,
            "radius": "of the clipping, in the model's own units, > 0; default: the median distance",
            "iterations": "how often the centre moves, an integer >= 1; default 3",
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

    However few members are there, they are asked, but for fewer than the rule's minimum: which number is
    too few beyond that is for the round policy to say. Raises C104, naming the key and what is allowed,
    for an unknown rule or option, a value of the wrong kind or range, and a federation smaller than the
    rule's minimum.
    """
    if name not in RULES:
        known = _listed({key: rule.meaning for key, rule in RULES.items()})
        raise _wrong(f"there is no strategy {name!r}", known)
    rule = RULES[name]
    values = {key: _value(name, key, value) for key, value in options.items()}
    if values.get("fraction_train") == 0.0:
        raise _wrong(f"{name}: fraction_train is 0, so nobody would train", _listed(COMMON))
    try:
        parts = {**_before(rule, values), **_outer(name, rule, values)}
        strategy = rule.make(
            **values,
            **parts,
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
            f"with {_given(options)} it is defined for {strategy.minimum} replies and more",
            "invite more members, or choose another strategy, or a smaller f, in the charter",
        )
    return strategy


def _before(rule: Rule, values: dict[str, Any]) -> dict[str, Any]:
    """Takes the pre-steps' options out of `values`. Raises `ValueError`."""
    if not rule.before:
        return {}
    steps = [made(values.pop(key)) for key, (made, _) in BEFORE.items() if key in values]
    return {"before": steps} if steps else {}


def _outer(name: str, rule: Rule, values: dict[str, Any]) -> dict[str, Any]:
    """Takes `outer` and its options out of `values`. Raises C104 and `ValueError`."""
    if not rule.outer:
        return {}
    chosen = values.pop("outer", None)
    theirs = {key for one in OUTER.values() for key in one.options} - set(rule.own)
    given = {key: values.pop(key) for key in sorted(theirs & set(values))}
    if chosen is None and given:
        what = f"{name}: {', '.join(given)} belongs to an outer optimizer, and none is given"
        raise _wrong(what, _listed(_optimizers()))
    if chosen is None:
        return {}
    optimizer = OUTER[chosen]
    for key in given:
        if key not in optimizer.options:
            what = f"{name}: the outer optimizer {chosen} has no option {key!r}"
            raise _wrong(what, _listed(optimizer.options))
    return {"outer": optimizer.make(**{**optimizer.defaults, **given})}


def _value(name: str, key: str, value: Any) -> float | int | str:
    options = RULES[name].options
    if key not in options:
        raise _wrong(f"{name} has no option {key!r}", _listed(options))
    if key == "outer":
        if type(value) is not str or value not in OUTER:
            raise _wrong(f"{name}: there is no outer optimizer {value!r}", _listed(_optimizers()))
        return value
    if key in WHOLE:
        if type(value) is not int:
            what = f"{name}: {key} is {value!r}, not an integer"
            raise _wrong(what, _listed({key: options[key]}))
        return value
    if type(value) not in (int, float):
        raise _wrong(f"{name}: {key} is {value!r}, not a number", _listed({key: options[key]}))
    try:
        return float(value)
    except OverflowError:
        raise _wrong(f"{name}: {key} is too large", _listed({key: options[key]})) from None


def _optimizers() -> Meanings:
    return {key: one.meaning for key, one in OUTER.items()}


def _given(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value!r}" for key, value in options.items()) or "its defaults"


def _listed(meanings: Meanings) -> str:
    return "\n".join(["allowed:", *(f"  {key}: {meaning}" for key, meaning in meanings.items())])


def _wrong(
    what: str, evidence: str, remedy: str = "correct the strategy in the charter"
) -> BarnraiseError:
    return BarnraiseError("C104", what, evidence, next=remedy)
