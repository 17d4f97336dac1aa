"""How far a reply moves the round's model: the L2 norm of each update, read from the blobs in pieces.

Computed by the daemon from what is about to leave, so the code that trained has no say in it. What has
not the form of an update to what the order carried has no norm (None). Memory: two pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from barnraise.protocols.codecs import CodecError, open_coded
from barnraise.protocols.content import Arrays, Envelope
from barnraise.protocols.tensors import BlobError, Tensor, open_blob, size_of

PIECE = 1 << 18  # elements
CONTROL = "control"  # the record that, as the built-in app answers it, is a difference already


def update_norms(
    order: Envelope, reply: Envelope, blob: Callable[[str], Path], coded: str | None
) -> dict[str, float | None]:
    """The norm of each array record of a reply, by name, against the order's record of that name.

    `blob` finds a file by digest. `coded`: None for an app that is not the built-in one; else the codec of
    its updates, or "" where it answers with whole models.
    """
    asked = {name: r for name, r in order.records if isinstance(r, Arrays)}
    norms: dict[str, float | None] = {}
    for name, record in reply.records:
        if not isinstance(record, Arrays):
            continue
        if name not in asked or any(e.raw is not None for e in record.entries):
            norms[name] = None
            continue
        try:
            norms[name] = _norm(name, _tensors(record, blob), _tensors(asked[name], blob), coded)
        except (BlobError, CodecError, OSError):
            norms[name] = None
    return norms


def _tensors(record: Arrays, blob: Callable[[str], Path]) -> dict[str, Tensor]:
    path = blob(record.blob)
    return {name: spec.open(path) for name, spec in open_blob(path).items()}


def _norm(
    name: str, new: Mapping[str, Tensor], base: Mapping[str, Tensor], coded: str | None
) -> float | None:
    if coded and name != CONTROL:
        new = open_coded(new, base, coded)
    if {k: tuple(t.shape) for k, t in new.items()} != {k: tuple(t.shape) for k, t in base.items()}:
        return None
    if any(t.dtype.kind not in "fiub" for t in (*new.values(), *base.values())):
        return None
    moved = coded is not None and name == CONTROL
    parts = [_squares(new[key], None if moved else base[key]) for key in new]
    return math.sqrt(math.fsum(parts))


def _squares(new: Tensor, base: Tensor | None) -> float:
    """The sum of the squared differences, in float64; infinite or NaN if the tensors are."""
    size, parts = size_of(tuple(new.shape)), []
    with np.errstate(over="ignore", invalid="ignore"):
        for at in range(0, size, PIECE):
            piece = _read(new, at, min(PIECE, size - at))
            if base is not None:
                piece -= _read(base, at, piece.size)
            parts.append(float(np.dot(piece, piece)))
    total = sum(parts)
    return total if math.isfinite(total) else math.inf


def _read(tensor: Tensor, start: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    out = np.empty(count, tensor.dtype)
    tensor.read_into(out, start)
    return out.astype(np.float64)
