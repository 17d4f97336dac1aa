"""What a member sends of its trained model: bounded in norm, coded, or as it is.

NumPy only; arrays by name, `base` being the round's model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barnraise.protocols import codecs
from barnraise.protocols.charter import TrainingSection

Model = Mapping[str, NDArray[Any]]
Residual = Mapping[str, NDArray[np.float32]]


def update(
    plan: TrainingSection, model: Model, base: Model, residual: Residual
) -> tuple[Model, Residual]:
    """The arrays to send for the trained `model`, and the residual for the next round.

    As `plan` says: the update's norm at most `update_norm`, then coded by `codec`. Without a codec the
    arrays are the model's own; the residual, what earlier coding still owes, is then empty.
    """
    if plan.update_norm is not None:
        model = bounded(model, base, plan.update_norm)
    if plan.codec is None:
        return model, {}
    return codecs.code(plan.codec, model, base, residual)


def bounded(model: Model, base: Model, norm: float) -> Model:
    """base + (model - base) * min(1, norm / |model - base|), in the arrays' own dtypes.

    The norm is L2 over all real floating arrays together; the others stay as they are. A model that is
    not finite stays so.
    """
    floating = [name for name, array in model.items() if array.dtype.kind == "f"]
    with np.errstate(over="ignore", invalid="ignore"):
        squares = [
            float(np.square(np.subtract(model[n], base[n], dtype=np.float64)).sum())
            for n in floating
        ]
        length = math.sqrt(math.fsum(squares)) if np.isfinite(squares).all() else math.inf
        if length <= norm or math.isinf(length):
            return model
        scale = norm / length
        return {
            name: _towards(array, base[name], scale) if name in floating else array
            for name, array in model.items()
        }


def _towards(array: NDArray[Any], base: NDArray[Any], scale: float) -> NDArray[Any]:
    delta = np.subtract(array, base, dtype=np.float64)
    return np.asarray(base + delta * scale, array.dtype)
