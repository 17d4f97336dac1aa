"""What a strategy takes from the members' replies, and in which order.

Pure: messages in; contributions, and reasons for what was set aside, out. Barnraise's own intake has
already refused what is malformed; on Flower's grids nobody has, and one bad member must not hurt a
round there either. So every demand is made here again, and a reply that fails one is set aside by name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from barnraise.protocols.flower import tensor_of
from barnraise.protocols.tensors import Tensor, size_of
from barnraise.strategies.exact import Arrays, Form

MAX_WEIGHT = 2**31
NameOf = Callable[[int], str]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Contribution:
    """One accepted reply. `arrays` is empty for a reply that needs none (evaluation)."""

    name: str
    weight: int
    content: RecordDict
    metrics: MetricRecord
    arrays: Arrays


class SetAside(Exception):
    """Why a reply does not count."""


def name_or_number(node_id: int, name_of: NameOf | None) -> str:
    """The member's name where names are known, else the node id in digits."""
    return name_of(node_id) if name_of is not None else str(node_id)


def place_of(node_id: int, name_of: NameOf | None) -> tuple[str, int]:
    """Where this member stands in canonical order: by name where names are known, else by node id.

    A name says who a member is on every engine; a node id follows from a key, which differs between a
    simulation and the real federation. So only names give the same bytes on both. Flower's grids know
    no names; there any order of arrival still gives the same bytes among the same node ids.
    """
    return (name_of(node_id) if name_of is not None else "", node_id)


def in_canonical_order(replies: Iterable[Message], name_of: NameOf | None) -> list[Message]:
    """The replies in an order that hangs on what they are, never on when they came.

    Canonical order; several replies of one node by their digests.
    """
    placed = [(place_of(reply.metadata.src_node_id, name_of), reply) for reply in replies]
    count = Counter(place for place, _ in placed)
    placed.sort(key=lambda p: (p[0], _digest(p[1]) if count[p[0]] > 1 else b""))
    return [reply for _, reply in placed]


def _digest(reply: Message) -> bytes:
    if reply.has_error():
        return hashlib.sha256(repr((reply.error.code, reply.error.reason)).encode()).digest()
    digest = hashlib.sha256()
    for name, record in reply.content.items():
        digest.update(repr((name, type(record).__name__)).encode())
        for key, value in record.items():
            if isinstance(record, ArrayRecord):
                array = record[key]
                digest.update(repr((key, array.dtype, array.shape, array.stype)).encode())
                digest.update(array.data)
            else:
                digest.update(repr((key, value)).encode())
    return digest.digest()


def contribution(
    reply: Message,
    name: str,
    weighted_by: str,
    open_arrays: Callable[[RecordDict], Arrays] | None,
) -> Contribution:
    """What this reply contributes. Raises `SetAside`.

    Its weight is the one metric called `weighted_by`, an integer in [1, 2^31); its metrics are those of
    the MetricRecord that holds it.
    """
    if reply.has_error():
        raise SetAside(f"error {reply.error.code}: {reply.error.reason}")
    holders = [m for m in reply.content.metric_records.values() if weighted_by in m]
    if len(holders) != 1:
        raise SetAside(f"{len(holders) or 'no'} metric records hold the weight {weighted_by!r}")
    weight = holders[0][weighted_by]
    if type(weight) is not int or not 1 <= weight < MAX_WEIGHT:
        raise SetAside(f"its weight {weighted_by!r} is {weight!r}, not an integer in [1, 2^31)")
    arrays = open_arrays(reply.content) if open_arrays is not None else {}
    return Contribution(name, weight, reply.content, holders[0], arrays)


def open_record(record: ArrayRecord) -> dict[str, Tensor]:
    """The record's arrays, none of them read yet. Raises `SetAside` for one that is not NumPy's."""
    try:
        return {key: tensor_of(array) for key, array in record.items()}
    except TypeError as error:
        raise SetAside(str(error)) from None


def only_record(content: RecordDict, name: str) -> ArrayRecord:
    """The ArrayRecord called `name`, or the only one there is. Raises `SetAside`."""
    records = content.array_records
    if name in records:
        return records[name]
    if len(records) != 1:
        raise SetAside(f"it holds {len(records)} array records and none is called {name!r}")
    return next(iter(records.values()))


# --- forms ----------------------------------------------------------------------------------------


def form_of(arrays: Arrays) -> Form:
    return {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in arrays.items()}


def usual(keys: Sequence[Key]) -> Key:
    """The most common of `keys`; of equally common ones the first."""
    counts = Counter(keys)
    return max(keys, key=lambda key: counts[key])


def usual_form(contributions: Sequence[Contribution]) -> Form:
    """The form that most contributions have, as the first of them orders its names."""
    forms = [form_of(c.arrays) for c in contributions]
    keys = [tuple(sorted((k, str(d), s) for k, (d, s) in form.items())) for form in forms]
    return forms[keys.index(usual(keys))]


def misfit(arrays: Arrays, form: Form) -> str | None:
    """How `arrays` differs from `form`, or None. Floats of another width are taken; exact in float64."""
    if lacking := sorted(set(form) - set(arrays)):
        return f"it lacks the arrays {', '.join(lacking[:3])}"
    if extra := sorted(set(arrays) - set(form)):
        return f"it adds the arrays {', '.join(extra[:3])}"
    for key, (dtype, shape) in form.items():
        tensor = arrays[key]
        if tuple(tensor.shape) != shape or _kind(tensor.dtype) != _kind(dtype):
            got, wanted = f"{tensor.dtype}{list(tensor.shape)}", f"{dtype}{list(shape)}"
            return f"its array {key} is {got}, not {wanted}"
    return None


def _kind(dtype: np.dtype[Any]) -> str:
    return {"f": "real", "c": "complex"}.get(dtype.kind, str(dtype))


def nonfinite(arrays: Arrays, chunk: int = 1 << 18) -> str | None:
    """The name of the first floating array that holds NaN or infinity, or None. Memory: one chunk."""
    for key, tensor in arrays.items():
        if tensor.dtype.kind not in "fc":
            continue
        size = size_of(tuple(tensor.shape))
        for start in range(0, size, chunk):
            part = np.empty(min(chunk, size - start), tensor.dtype)
            tensor.read_into(part, start)
            if not np.isfinite(part).all():
                return key
    return None


# --- metrics --------------------------------------------------------------------------------------


def mean_metrics(parts: Sequence[tuple[MetricRecord, int]], weighted_by: str) -> MetricRecord:
    """The weighted mean of every metric over the members that report it, as in `exact.WeightedMean`:

        ((x_1 * w_1 + x_2 * w_2) + ... + x_n * w_n) / (w_1 + ... + w_n)

    in float64, in the order given; lists element by element. `weighted_by` itself is left out. Where
    one key comes as a number and as lists, or as lists of several lengths, the most common form counts
    (of equally common ones the first). NaN and infinity are values like others.
    """
    keys = dict.fromkeys(key for metrics, _ in parts for key in metrics if key != weighted_by)
    return MetricRecord({key: _mean([(m[key], w) for m, w in parts if key in m]) for key in keys})


Metric = int | float | list[int] | list[float]


def _mean(values: Sequence[tuple[Metric, int]]) -> float | list[float]:
    lengths = [len(v) if isinstance(v, list) else -1 for v, _ in values]
    length = usual(lengths)
    taken = [(v, w) for (v, w), n in zip(values, lengths, strict=True) if n == length]
    if length < 0:
        return _fold([(v, w) for v, w in taken if not isinstance(v, list)])
    rows = [(v, w) for v, w in taken if isinstance(v, list)]
    return [_fold([(v[i], w) for v, w in rows]) for i in range(length)]


def _fold(values: Sequence[tuple[int | float, int]]) -> float:
    total = None
    for value, weight in values:
        term = _float(value) * float(weight)
        total = term if total is None else total + term
    assert total is not None
    return total / float(sum(weight for _, weight in values))


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
