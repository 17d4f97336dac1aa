"""The task: y = x · w + b with noise; each partition draws its x from elsewhere."""

import numpy as np
from numpy.typing import NDArray

WEIGHT = np.array([1.5, -2.0, 0.5, 3.0], np.float32)
BIAS = np.float32(0.7)
HELD_OUT = -1


def partition(number: int, rows: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`rows` examples, the same at every call: x (rows, 4) and y (rows,), float32."""
    rng = np.random.default_rng(number - HELD_OUT)
    x = rng.standard_normal((rows, len(WEIGHT)), dtype=np.float32)
    x += np.float32(0.3) * rng.standard_normal(len(WEIGHT), dtype=np.float32)
    y = x @ WEIGHT + BIAS + np.float32(0.1) * rng.standard_normal(rows, dtype=np.float32)
    return x, y


def loss(
    model: list[NDArray[np.floating]], x: NDArray[np.float32], y: NDArray[np.float32]
) -> float:
    """Half the mean squared error of the model [weight (4,), bias (1,)]."""
    weight, bias = model
    return float(0.5 * np.mean(np.square(x @ weight + bias - y), dtype=np.float64))
