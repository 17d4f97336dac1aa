"""SCAFFOLD: the members' drift is corrected by control variates, which the rule averages like the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid

from barnraise.protocols.codecs import CODECS, CodedTensor
from barnraise.protocols.flower import array_of
from barnraise.protocols.packing import VALUES
from barnraise.strategies import sampling
from barnraise.strategies.base import Common, ExactStrategy
from barnraise.strategies.exact import Arrays, Form, Step, WeightedMean, advance, state_dtype
from barnraise.strategies.outer import Sgd
from barnraise.strategies.records import again, open_model, record_of
from barnraise.strategies.replies import (
    Contribution,
    SetAside,
    form_of,
    misfit,
    nonfinite,
    only_record,
    open_record,
)

CONTROL = "control"


class Scaffold(ExactStrategy):
    """Stochastic controlled averaging (arXiv 1910.06378), exact.

        model <- b + lr * (mean of x_i - b)          over the members S that answered
        c     <- c + |S| / N * mean of (c_i+ - c_i)

    b is the round's model, x_i member i's, c the federation's control variate: the expected gradient,
    zero at first, of the model's floating arrays in float32 (float64 for float64 arrays), sent in each
    train order as the record `control`; a reply's record of that name holds c_i+ - c_i (the built-in
    ClientApp makes it: `client.partners.Variates`). N is the number of members on the roster. Both means
    are weighted by `weighted_by_key`; the paper's are equal. At `lr` = 1 the mean is the next model.

    Each operation is rounded to float64, model and c once. A reply without a fitting, finite `control`
    is set aside. What a void round or a late reply brought is lost to c while its member keeps c_i: c is
    then no longer the mean of all c_i, and moves back as members answer again. n >= 1; not robust: one
    bad member suffices, and pre-steps act on the models, not on c. Other options, laws and errors as in
    `ExactStrategy`; `ValueError` unless lr is finite and positive.
    """

    def __init__(self, lr: float = 1.0, **common: Unpack[Common]) -> None:
        if lr != 1.0:
            common["outer"] = Sgd(lr)
        super().__init__(**common)
        self._control: ArrayRecord | None = None
        self._members_now = 1

    # --- state ----------------------------------------------------------------------------------

    def state(self) -> RecordDict:
        held = super().state()
        if self._control is not None:
            held[CONTROL] = again(self._control)
        return held

    def load(self, state: RecordDict) -> None:
        if state and CONTROL not in state.array_records:
            raise ValueError(f"the state holds {', '.join(state)}; that of Scaffold has {CONTROL}")
        super().load(RecordDict({k: v for k, v in state.items() if k != CONTROL}))
        self._control = state.array_records.get(CONTROL)

    # --- asking ---------------------------------------------------------------------------------

    def beside(self, purpose: str, arrays: ArrayRecord) -> Mapping[str, ArrayRecord]:
        """With a train order goes c."""
        if purpose != sampling.TRAIN:
            return {}
        if self._control is None:
            form = _floating(form_of(open_model(arrays)))
            self._control = record_of({k: array_of(np.zeros(s, d)) for k, (d, s) in form.items()})
        return {CONTROL: again(self._control)}

    def _members(self, grid: Grid, needed: int) -> list[tuple[str, int]]:
        found = super()._members(grid, needed)
        self._members_now = max(1, len(found))
        return found

    # --- taking ---------------------------------------------------------------------------------

    def opened(self, content: RecordDict, base: Arrays | None) -> Arrays:
        if CONTROL not in content.array_records:
            raise SetAside(f"it holds no record {CONTROL!r}")
        if base is not None:
            moved = open_record(content.array_records[CONTROL])
            if (wrong := misfit(moved, _floating(form_of(base)))) is not None:
                raise SetAside(f"of its {CONTROL!r}: {wrong}")
            if (name := nonfinite(moved)) is not None:
                raise SetAside(f"of its {CONTROL!r}: {name} holds NaN or infinity")
        return super().opened(content, base)

    def next_model(
        self,
        base: ArrayRecord | None,
        contributions: Sequence[Contribution],
        record: Mapping[str, Any] | None = None,
    ) -> tuple[ArrayRecord | None, Sequence[Contribution]]:
        """As in `ExactStrategy`; c moves on by those contributions that counted."""
        if base is None and contributions:
            raise RuntimeError("aggregate_train needs c: call configure_train before it")
        arrays, taken = super().next_model(base, contributions, record)
        if arrays is not None and taken:
            self._move(taken)
        return arrays, taken

    def _move(self, taken: Sequence[Contribution]) -> None:
        """c + |S|/N * mean of what the members' variates moved; c stays if that is not finite."""
        assert self._control is not None
        now = open_model(self._control)
        members = [_moved(now, open_record(only_record(c.content, CONTROL))) for c in taken]
        weights = WeightedMean([c.weight for c in taken])
        step = Step(Sgd(len(taken) / max(self._members_now, len(taken))), now)
        made = advance(form_of(now), members, weights, array_of, step=step, threads=self.threads)
        if made.finite:
            self._control = record_of(made.model)


def _moved(now: Arrays, by: Arrays) -> Arrays:
    """now + by, in float64, read in pieces."""
    return {key: CodedTensor(CODECS["fp32"], {VALUES: by[key]}, now[key]) for key in now}


def _floating(form: Form) -> Form:
    return {k: (state_dtype(d), s) for k, (d, s) in form.items() if d.kind == "f"}
