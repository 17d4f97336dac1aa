"""DiLoCo: Nesterov's step on the mean pseudo-gradient of many local steps."""

from __future__ import annotations

from typing import Unpack

from barnraise.strategies.base import Common, ExactStrategy
from barnraise.strategies.outer import Nesterov


class DiLoCo(ExactStrategy):
    """Distributed low-communication training (arXiv 2311.08105), its outer step exact.

        g <- base - (w_1 * x_1 + ... + w_n * x_n) / (w_1 + ... + w_n)
        v <- momentum * v + g
        model <- round(base - lr * (g + momentum * v))

    base is the model of this round's orders, x_i member i's model after its local steps (AdamW in the
    paper), w_i its `weighted_by_key` metric (the paper's are equal). Each operation is rounded to
    float64, the model once to its dtype. v, of the model's shapes, starts at zero and is kept in
    float32 (float64 for float64 arrays). Integer and boolean arrays take the rounded mean.

    `lr` = 0.7 and `momentum` = 0.9 are the paper's and right for its 500 local steps a round. At short
    horizons lower momentum is: with 10 to 40 steps and 10 to 20 rounds, momentum 0.9 lost to training
    alone, momentum 0.3 to 0.5 (lr 1.0 to 0.7) won over the plain mean.

    Other options, laws and errors as in `ExactStrategy`; `ValueError` unless lr is finite and positive
    and 0 <= momentum < 1.
    """

    def __init__(self, lr: float = 0.7, momentum: float = 0.9, **common: Unpack[Common]) -> None:
        common["outer"] = Nesterov(lr, momentum)
        super().__init__(**common)
