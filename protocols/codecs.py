"""Update codecs: a member's update as fewer bytes than its model.

What is coded is the delta from the round's base model, array by array. The coded arrays lie in the
reply's record instead of the model's own:

    v/NAME   the values          fp32: float32; bf16: the upper halves of float32s, as uint16;
                                 int8: int8; int4: uint8, two levels a byte; topk: as bf16
    s/NAME   a float32 scale for each block (int8, int4)
    i/NAME   where in its block each value belongs, uint16 (topk)
    =/NAME   an array that is not of real floating numbers, as it is

All but the last are one-dimensional, and their lengths follow from the model's shapes and the codec
alone (`coded_form`), so no length that a peer claims is ever used. Decoding is deterministic: each
element follows from its own block, in float64 and without rounding (`CodedTensor`). The lossy codecs
below 8 bits have error feedback: what the coding lost is added to the member's next delta
(arXiv 1901.09847).

Pure NumPy. Knows nothing of Flower, of torch, or of who sent what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from barnraise.protocols.packing import (
    F64,
    VALUES,
    Bf16,
    Codec,
    CodecError,
    Coded,
    Dtype,
    Fp32,
    Levels,
    Parts,
    TopK,
    pieces,
    read,
)
from barnraise.protocols.tensors import MemoryTensor, Tensor, size_of

__all__ = [
    "CODECS",
    "CodecError",
    "CodedTensor",
    "check",
    "code",
    "coded_form",
    "open_coded",
]

Form = Mapping[str, tuple[Dtype, tuple[int, ...]]]
VERBATIM = "="

CODECS: Mapping[str, Codec] = {
    "fp32": Fp32(),
    "bf16": Bf16(),
    "int8": Levels(
        8, 256, "the delta in 255 levels, a scale for each 256 elements", feedback=False
    ),
    "int4": Levels(
        4,
        128,
        "the delta in 15 levels, a scale for each 128 elements; error feedback",
        feedback=True,
    ),
    "topk": TopK(
        4096, 32, "the delta's largest 128 of each 4096 elements in bfloat16; error feedback"
    ),
}


# --- records ----------------------------------------------------------------------------------------


def coded_form(form: Form, codec: str) -> Form:
    """The dtypes and shapes of the coded arrays of a model of this form. O(arrays)."""
    coded: dict[str, tuple[Dtype, tuple[int, ...]]] = {}
    for name, (dtype, shape) in form.items():
        if dtype.kind != "f":
            coded[f"{VERBATIM}/{name}"] = (dtype, shape)
            continue
        for part, (kind, length) in CODECS[codec].lengths(size_of(shape)).items():
            coded[f"{part}/{name}"] = (kind, (length,))
    return coded


def code(
    codec: str,
    model: Mapping[str, NDArray[Any]],
    base: Mapping[str, NDArray[Any]],
    residual: Mapping[str, NDArray[np.float32]],
) -> tuple[Coded, dict[str, NDArray[np.float32]]]:
    """The coded arrays of `model`'s delta from `base`, and the next residual.

    `residual` is what this returned before (at first empty); it stays as it is where the delta is not
    finite, and empty for codecs without feedback.
    """
    rule, coded, left = CODECS[codec], Coded(), dict(residual) if CODECS[codec].feedback else {}
    for name, array in model.items():
        if array.dtype.kind != "f":
            coded[f"{VERBATIM}/{name}"] = array
            continue
        delta = array.astype(np.float64).reshape(-1) - base[name].reshape(-1)
        if rule.feedback and name in residual:
            delta += residual[name].reshape(-1)
        parts = rule.encode(delta)
        coded |= {f"{part}/{name}": held for part, held in parts.items()}
        if rule.feedback and np.isfinite(delta).all():
            sent = np.empty_like(delta)
            rule.decode({part: MemoryTensor.of(held) for part, held in parts.items()}, 0, sent)
            left[name] = (delta - sent).astype(np.float32).reshape(array.shape)
    return coded, left


def open_coded(
    coded: Mapping[str, Tensor], base: Mapping[str, Tensor], codec: str
) -> dict[str, Tensor]:
    """The model that these coded arrays say, base + delta; its floating arrays are read in pieces.

    Raises `CodecError` for anything but what `code` writes for a model of this form; but what is not
    finite is opened, and reads as such.
    """
    form = {name: (t.dtype, tuple(t.shape)) for name, t in base.items()}
    check(coded, form, codec, finite=False)
    opened: dict[str, Tensor] = {}
    for name, tensor in base.items():
        if tensor.dtype.kind != "f":
            opened[name] = coded[f"{VERBATIM}/{name}"]
        else:
            opened[name] = CodedTensor(CODECS[codec], _parts(coded, name, codec), tensor)
    return opened


def check(coded: Mapping[str, Tensor], form: Form, codec: str, *, finite: bool = True) -> None:
    """Raises `CodecError` unless `coded` has the arrays of `coded_form` and content to match.

    Of the content it reads, in pieces, the places of values, and with `finite` whatever may be NaN.
    """
    wanted = coded_form(form, codec)
    if set(coded) != set(wanted):
        first = min(set(coded) ^ set(wanted))
        raise CodecError(f"as {codec} it {'lacks' if first in wanted else 'adds'} {first}")
    for name, (dtype, shape) in wanted.items():
        if (coded[name].dtype, tuple(coded[name].shape)) != (dtype, shape):
            found = f"{coded[name].dtype}{list(coded[name].shape)}"
            raise CodecError(f"as {codec} its {name} is {found}, not {dtype}{list(shape)}")
    for name, (dtype, shape) in form.items():
        if dtype.kind == "f":
            try:
                CODECS[codec].check(_parts(coded, name, codec), size_of(shape))
            except CodecError as error:
                raise CodecError(f"{name}: {error}") from None
    for name in wanted if finite else ():
        if not _is_finite(coded[name], bfloat16=name.startswith(f"{VALUES}/")):
            raise CodecError(f"{name} holds NaN or infinity", nonfinite=True)


def _parts(coded: Mapping[str, Tensor], name: str, codec: str) -> dict[str, Tensor]:
    return {part: coded[f"{part}/{name}"] for part in CODECS[codec].lengths(0)}


@dataclass(frozen=True)
class CodedTensor:
    """base + delta, in float64; what the base's dtype cannot hold is infinite, so that it is noticed."""

    codec: Codec
    parts: Parts
    base: Tensor

    @property
    def dtype(self) -> Dtype:
        return np.dtype(np.float64)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape)

    def read_into(self, out: F64, start: int) -> None:
        if not out.size:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            self.codec.decode(self.parts, start, out)
            np.add(out, read(self.base, start, out.size), out=out)
        limit = float(np.finfo(self.base.dtype).max)
        if not (out.max() <= limit and out.min() >= -limit):
            out[np.abs(out) > limit] = np.inf


def _is_finite(tensor: Tensor, *, bfloat16: bool) -> bool:
    """Whether no element is NaN or infinite; `bfloat16`: uint16s are the bits of such numbers."""
    if tensor.dtype.kind in "fc":
        return all(np.isfinite(piece).all() for piece in pieces(tensor))
    if not bfloat16 or tensor.dtype != np.uint16:
        return True
    exponent = np.uint16(0x7F80)
    return not any(((piece & exponent) == exponent).any() for piece in pieces(tensor))
