"""FedAvg: the members' weighted mean is the next model."""

from __future__ import annotations

from barnraise.strategies.base import ExactStrategy


class FedAvg(ExactStrategy):
    """Federated averaging (arXiv 1602.05629), exact.

        model <- round((w_1 * x_1 + ... + w_n * x_n) / (w_1 + ... + w_n))

    x_i is member i's model (arrays of any shape; floating, integer or boolean), w_i its
    `weighted_by_key` metric. Each operation is rounded to float64, the result once to the model's
    dtype. Without an outer optimizer this is the mean itself, not base - (base - mean). n >= 1; not
    robust: one bad member suffices. Options, laws and errors as in `ExactStrategy`.
    """
