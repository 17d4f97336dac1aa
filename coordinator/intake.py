"""Intake: every arrival goes in, a verdict and its reason come out. A pure state machine.

What a reply must be is said by its `Expectation`, taken from its order; what it is, by an `Evidence`,
which reads the arrived bytes. Nothing is judged that the order did not ask for (DESIGN §6).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from barnraise.coordinator.fleet import Delivery
from barnraise.protocols import codecs, statements
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.content import Arrays, ContentError, Envelope, Values
from barnraise.protocols.tensors import BlobError, Spec

Shape = tuple[np.dtype[Any], tuple[int, ...]]
MAX_WEIGHT = 2**31
FREE_VALUES = 1 << 19  # values of an envelope, whatever its order held; each costs 130 bytes
FREE_HEADERS = 1 << 20  # bytes that may describe arrays; parsed, they take thirty times as much
NOT_BROUGHT = "it names bytes that it did not bring"
_LARGEST = int(np.finfo(np.float64).max)
MAX_REASON = 300  # characters of a reason, which may quote what a member sent
REMEMBERED = 4096  # orders of closed batches that may still be answered late


@dataclass(frozen=True)
class Weight:
    """The metric by which a strategy weighs replies.

    Our strategies are exact and want an integer in [1, 2^31), once. Flower's take any number; one that is
    not finite and positive, or is 2^31 or more, would take the mean over or end it. To leave it out is
    for them to judge.
    """

    key: str
    whole: bool

    def fits(self, found: list[Any]) -> bool:
        """Whether a reply with these metrics of that name may be accepted."""
        if self.whole:
            return len(found) == 1 and type(found[0]) is int and 1 <= found[0] < MAX_WEIGHT
        return all(type(v) in (int, float) and 0 < v < MAX_WEIGHT for v in found)


@dataclass(frozen=True)
class Demands:
    """What the rule in force demands of train replies beyond what their order says.

    `weight`: the metric that weighs them. `coded`: a record of the order, and the update codec
    (`protocols.codecs`) as which its arrays must come back.
    """

    weight: Weight | None = None
    coded: tuple[str, str] | None = None


@dataclass(frozen=True)
class Expectation:
    """What the reply to one order must be.

    `arrays`: for a train order, each float record it carried, with its arrays' dtypes and shapes.
    `weight`: what the metric that weighs the reply must be, if the strategy named one.
    `values` and `headers`: how many values its envelope may hold, and how many bytes may describe its arrays.
    `averaged`: a strategy will take means over its metrics, so a float must be able to hold each.
    `public_key` is None where the fleet does not sign.
    """

    order: str
    batch: int
    member: str
    public_key: bytes | None
    payload: Mapping[str, str]
    size_cap: int
    arrays: Mapping[str, Mapping[str, Shape]] = field(default_factory=dict)
    weight: Weight | None = None
    coded: tuple[str, str] | None = None
    averaged: bool = False
    values: int = FREE_VALUES
    headers: int = FREE_HEADERS


@dataclass(frozen=True)
class Verdict:
    """`kind`: accepted, refused, late, repeated or unknown. `code` and `reason` say why not accepted.

    `reason` is one line of at most `MAX_REASON` printable characters, whatever a member sent.
    """

    kind: str
    code: str = ""
    reason: str = ""


class Evidence(Protocol):
    """The arrived bytes of one delivery, read only as far as the verdict needs."""

    def envelope(self, digest: str) -> Envelope: ...

    def values(self, digest: str) -> int: ...

    def header(self, blob: str) -> int: ...

    def specs(self, blob: str) -> Mapping[str, Spec]: ...

    def nonfinite(self, blob: str) -> str | None: ...

    def miscoded(
        self, blob: str, shapes: Mapping[str, Shape], codec: str
    ) -> codecs.CodecError | None: ...


class Intake:
    """Which orders are out, which are judged, which were not answered in time. Holds no bytes.

    Memory: the open batches, and of the closed ones the last `REMEMBERED` orders without an answer; a
    reply to an older one is unknown.
    """

    def __init__(self) -> None:
        self._open: dict[str, Expectation] = {}
        self._missed: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._judged: set[str] = set()

    def open(self, expectation: Expectation) -> None:
        self._open[expectation.order] = expectation

    def close(self, batch: int) -> None:
        """From here on replies to this batch are late; its judged orders are forgotten."""
        for order in [o for o, e in self._open.items() if e.batch == batch]:
            expectation = self._open.pop(order)
            if order in self._judged:
                self._judged.discard(order)
            else:
                self.missed(order, batch, expectation.member)

    def missed(self, order: str, batch: int, member: str) -> None:
        """This member's order was not answered when its batch was closed."""
        self._missed[order] = (batch, member)
        if len(self._missed) > REMEMBERED:
            self._missed.popitem(last=False)

    def already(self, order: str) -> None:
        """The journal already holds a verdict on this order."""
        if order in self._open:
            self._judged.add(order)
        self._missed.pop(order, None)

    def judge(self, delivery: Delivery, evidence: Evidence) -> tuple[Verdict, int]:
        """The verdict on this delivery and the batch that it belongs to (-1 if unknown).

        `repeated` and `unknown` are no verdicts on a reply: such a delivery leaves no entry.
        """
        expectation = self._open.get(delivery.order)
        if expectation is None:
            return self._judge_closed(delivery)
        if delivery.member != expectation.member:
            return Verdict("unknown", "M103", "delivered by another member"), -1
        if delivery.order in self._judged:
            return Verdict("repeated"), expectation.batch
        verdict = examine(expectation, delivery, evidence) or Verdict("accepted")
        self._judged.add(delivery.order)
        return verdict, expectation.batch

    def _judge_closed(self, delivery: Delivery) -> tuple[Verdict, int]:
        batch, member = self._missed.get(delivery.order, (-1, ""))
        if member != delivery.member:
            return Verdict("unknown"), -1
        del self._missed[delivery.order]
        return Verdict("late", "M110", "its batch was closed before it came"), batch


def examine(expected: Expectation, delivery: Delivery, evidence: Evidence) -> Verdict | None:
    """None if the reply may be accepted, else why not. The cheap checks come first."""
    if delivery.size > expected.size_cap:
        return _refuse("M102", f"{delivery.size} bytes; at most {expected.size_cap} are taken")
    try:
        if (count := evidence.values(delivery.content)) > expected.values:
            return _refuse("M102", f"{count} values; at most {expected.values} are read")
        envelope = evidence.envelope(delivery.content)
        if delivery.parts is not None and not delivery.parts.issuperset(envelope.blobs()):
            return _refuse("M101", NOT_BROUGHT)
        if (count := sum(map(evidence.header, envelope.blobs()))) > expected.headers:
            said = f"{count} bytes that describe arrays; at most {expected.headers} are read"
            return _refuse("M102", said)
        specs = {blob: evidence.specs(blob) for blob in envelope.blobs()}
        _agree(envelope, specs)
    except (ContentError, BlobError) as error:
        return _refuse("M101", str(error))
    except FileNotFoundError:
        return _refuse("M101", NOT_BROUGHT)
    if (verdict := _signed(expected, delivery)) is not None:
        return verdict
    if envelope.failure is not None:
        return _refuse("M108", envelope.failure.reason)
    return (
        _names_and_shapes(expected, envelope, specs)
        or _weight(expected, envelope)
        or _averages(expected, envelope)
        or _finite(expected, envelope, evidence)
    )


def _refuse(code: str, reason: str) -> Verdict:
    return Verdict("refused", code, plain(reason))


def plain(text: str) -> str:
    """One line of at most `MAX_REASON` printable characters: what a member says goes to a terminal."""
    shown = "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:MAX_REASON]
    )
    return shown if len(text) <= MAX_REASON else shown[:-1] + "…"


def _agree(envelope: Envelope, specs: Mapping[str, Mapping[str, Spec]]) -> None:
    """`ContentError` unless each array that the envelope names is in its blob, and no other."""
    for name, record in envelope.records:
        if not isinstance(record, Arrays):
            continue
        held = specs[record.blob]
        if {entry.key for entry in record.entries} != set(held):
            raise ContentError(f"the record {name!r} names other arrays than its blob holds")
        for entry in record.entries:
            spec = held[entry.key]
            if entry.raw is not None and (spec.dtype != np.uint8 or len(spec.shape) != 1):
                raise ContentError(f"{name}[{entry.key}] is serialized, but its blob is not bytes")


def _signed(expected: Expectation, delivery: Delivery) -> Verdict | None:
    if expected.public_key is None:
        return None
    if delivery.statement is None:
        return _refuse("M103", "it carries no statement")
    try:
        payload = statements.verify(
            expected.public_key, expected.member, "reply", delivery.statement
        )
    except statements.StatementError as error:
        return _refuse("M103", str(error))
    stated = {**expected.payload, "content": delivery.content}
    if is_digest(policy := payload.get("policy")):
        stated["policy"] = str(policy)  # the site's own: which it is, is the site's to say
    for key in sorted(stated.keys() | payload.keys()):
        if payload.get(key) != stated.get(key):
            return _refuse("M103", f"its statement names another {key}")
    return None


def _names_and_shapes(
    expected: Expectation, envelope: Envelope, specs: Mapping[str, Mapping[str, Spec]]
) -> Verdict | None:
    records = dict(envelope.records)
    for name, wanted in expected.arrays.items():
        record = records.get(name)
        if not isinstance(record, Arrays):
            continue
        got = specs[record.blob]
        if (codec := _codec_of(expected, name)) is not None:
            wanted = codecs.coded_form(wanted, codec)
        if any(e.raw for e in record.entries) or set(got) != set(wanted):
            return _refuse("M104", _difference(name, set(wanted), set(got)))
        for key, (dtype, shape) in wanted.items():
            if (got[key].dtype, got[key].shape) != (dtype, shape):
                found = f"{got[key].dtype}{list(got[key].shape)}"
                return _refuse("M105", f"{name}[{key}] is {found}, not {dtype}{list(shape)}")
    return None


def _codec_of(expected: Expectation, record: str) -> str | None:
    coded = expected.coded
    return coded[1] if coded is not None and coded[0] == record else None


def _difference(name: str, wanted: set[str], got: set[str]) -> str:
    lacking, extra = sorted(wanted - got)[:3], sorted(got - wanted)[:3]
    parts = [f"lacks {', '.join(lacking)}"] if lacking else []
    parts += [f"adds {', '.join(extra)}"] if extra else []
    return f"{name} " + (" and ".join(parts) or "holds serialized objects")


def _weight(expected: Expectation, envelope: Envelope) -> Verdict | None:
    weight = expected.weight
    if weight is None:
        return None
    found = [
        value
        for _, record in envelope.records
        if isinstance(record, Values) and record.kind == "metrics"
        for key, value in record.items
        if key == weight.key
    ]
    if weight.fits(found):
        return None
    shown = "there twice" if len(found) > 1 else repr(found[0])[:60] if found else "missing"
    return _refuse("M107", f"the weight {weight.key!r} is {shown}")


def _averages(expected: Expectation, envelope: Envelope) -> Verdict | None:
    """An integer that no float can hold would end a Flower strategy; NaN and infinity do not."""
    for name, record in envelope.records if expected.averaged else ():
        if not isinstance(record, Values) or record.kind != "metrics":
            continue
        for key, value in record.items:
            numbers = value if isinstance(value, list) else [value]
            if any(isinstance(n, int) and abs(n) > _LARGEST for n in numbers):
                return _refuse("M101", f"{name}[{key}] is larger than any float")
    return None


def _finite(expected: Expectation, envelope: Envelope, evidence: Evidence) -> Verdict | None:
    for name, record in envelope.records:
        if name not in expected.arrays or not isinstance(record, Arrays):
            continue
        if (codec := _codec_of(expected, name)) is not None:
            error = evidence.miscoded(record.blob, expected.arrays[name], codec)
            if error is not None:
                return _refuse("M106" if error.nonfinite else "M105", f"{name}: {error}")
        elif (bad := evidence.nonfinite(record.blob)) is not None:
            return _refuse("M106", f"{name}[{bad}] holds NaN or infinity")
    return None


def outliers(replies: Mapping[str, Envelope]) -> dict[str, str]:
    """The keys of `replies` whose record names or metric keys and kinds differ from most, and how.

    `replies` comes in canonical order; of equally common forms the first counts. One such reply would
    end a Flower strategy, so the Grid sets it aside.
    """
    forms = {key: _form(envelope) for key, envelope in replies.items()}
    counts: dict[Any, int] = {}
    for form in forms.values():
        counts[form] = counts.get(form, 0) + 1
    if len(counts) < 2:
        return {}
    usual = max(counts, key=lambda form: counts[form])
    return {
        key: f"it sent {_say(form)}; most of the batch sent {_say(usual)}"
        for key, form in forms.items()
        if form != usual
    }


def _form(envelope: Envelope) -> tuple[Any, ...]:
    return tuple(sorted((name, *_record_form(record)) for name, record in envelope.records))


def _record_form(record: Arrays | Values) -> tuple[Any, ...]:
    if isinstance(record, Arrays):
        return ("arrays", tuple(sorted((e.key, "") for e in record.entries)))
    if record.kind == "config":
        return ("config", ())
    return ("metrics", tuple(sorted((key, _kind(value)) for key, value in record.items)))


def _kind(value: Any) -> str:
    return f"list of {len(value)}" if isinstance(value, list) else "number"


def _say(form: tuple[Any, ...]) -> str:
    parts = [f"{name} ({', '.join(key for key, _ in keys)})" for name, _, keys in form]
    return plain(", ".join(parts)) or "nothing"
