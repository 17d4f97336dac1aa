"""One member's local training again: from the record's base models, with the data at hand, to the byte.

AdamW's moments, the learning rate's warm-up, what a codec owes and SCAFFOLD's variate go from round to round
in the member's carry file. So its rounds are trained one after another from the first, each held against the
record; where nothing is carried, the one round suffices.

    same environment as the record's     the same bytes are demanded
    another one                          the update must lie within `TOLERANCE` of its norm; it is said

Whether a silent member had trained, the log does not know: then both are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import RecordDict

from barnraise.auditing.handlers import Handlers, elsewhere
from barnraise.client.app import ARRAYS, CONTROL
from barnraise.client.environment import ENVIRONMENT, environment
from barnraise.coordinator.audit.audit import Audit
from barnraise.coordinator.audit.differences import differing, distance
from barnraise.coordinator.audit.story import TRAIN
from barnraise.coordinator.batches import Batch
from barnraise.coordinator.fleet import Order
from barnraise.protocols import flower
from barnraise.protocols.charter import Charter
from barnraise.protocols.content import Envelope
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.flower import Handled
from barnraise.protocols.randomness import derive
from barnraise.strategies.records import open_model
from barnraise.strategies.replies import SetAside

TOLERANCE = 1e-3
"""The largest difference of an element, over the recorded update's norm, that another machine explains."""
_BRANCHES = 4  # pasts of a member that are followed at once
_THREADS = "threads"


@dataclass(frozen=True)
class Retrained:
    """One round. `identical`: the same bytes. Else `gap` is the largest difference over the update's norm,
    and `differs` names what of the environment is another, recorded and here."""

    number: int
    identical: bool
    gap: float = 0.0
    differs: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Asked:
    """A round in which the member was asked. `content` is its contribution, None where none counts;
    `answered`: it gave some verdict, so it had trained."""

    number: int
    order: Order
    content: str | None
    answered: bool


@dataclass
class _Trained:
    """A handler's end: its reply, and what the next round begins with."""

    handled: Handled
    carry: RecordDict


class Retraining:
    """Of `member`, by its `secret` and its `data`. Raises U104, U110."""

    def __init__(self, audit: Audit, member: str, data: Path, secret: bytes) -> None:
        assert audit.charter is not None
        if audit.charter.training.minutes is not None:
            why = "how many steps a machine takes in a minute is never the same twice"
            raise elsewhere("the work was counted in minutes", why)
        self._audit, self._member, self._data, self._secret = audit, member, data, secret
        self._handlers = Handlers(audit)
        flower.become_server(int(audit.run.run, 16))

    def rounds(self, number: int) -> list[int]:
        """The rounds that are trained again for this one."""
        return [asked.number for asked in self._chain(number)]

    def run(self, number: int, told: Callable[[Retrained], None]) -> Retrained:
        """The round's result; `told` hears of each before it as well. Raises U103, U108, U110."""
        pasts = [RecordDict()]
        found = None
        for asked in self._chain(number):
            records = self._audit.contents.records(asked.order.content)
            settings = self._settings(asked)
            ends = [self._train(asked.order, records, past, settings) for past in pasts]
            if asked.content is None:
                after = [end.carry for end in ends]
                pasts = (after if asked.answered else [*pasts, *after])[:_BRANCHES]
                continue
            found, pasts = self._compared(asked, asked.content, records, ends)
            told(found)
            self._audit.contents.keep(())
        assert found is not None
        return found

    # --- what is trained -----------------------------------------------------------------------------

    def _chain(self, number: int) -> Sequence[_Asked]:
        """The rounds from the first that bears on this one to it. Raises U104, U110."""
        self._audit.round(number)
        asked = [
            _Asked(record.number, order, batch.accepted.get(order.id), self._answered(batch, order))
            for record in self._audit.run.rounds
            if record.number <= number
            for batch in record.of(TRAIN)
            for order in batch.orders.values()
            if order.member.name == self._member
        ]
        if not asked or asked[-1].number != number or asked[-1].content is None:
            what = f"{self._member} contributed nothing to round {number}"
            raise BarnraiseError(
                "U104", what, next="give a round in which it did: barnraise log show"
            )
        assert self._audit.charter is not None
        return asked if carries(self._audit.charter) else asked[-1:]

    def _answered(self, batch: Batch, order: Order) -> bool:
        return order.id in batch.judged() or order.id in self._audit.run.late

    def _settings(self, asked: _Asked) -> Mapping[str, str | int]:
        threads = self._recorded(asked.content).get(_THREADS, 1) if asked.content else 1
        return {"data": str(self._data), _THREADS: threads if type(threads) is int else 1}

    def _recorded(self, content: str) -> Mapping[str, Any]:
        """The environment that the contribution names; empty if it names none."""
        records = self._audit.contents.records(content).config_records
        return dict(records[ENVIRONMENT]) if ENVIRONMENT in records else {}

    def _train(
        self,
        order: Order,
        records: RecordDict,
        carry: RecordDict,
        settings: Mapping[str, str | int],
    ) -> _Trained:
        seed = derive(self._secret, "order", order.id)
        mine = RecordDict(dict(carry.items()))
        handled = self._handlers.run(order, records, mine, seed, settings)
        return _Trained(handled, handled.carry if handled.carry is not None else carry)

    # --- what is compared ----------------------------------------------------------------------------

    def _compared(
        self, asked: _Asked, content: str, order: RecordDict, ends: Sequence[_Trained]
    ) -> tuple[Retrained, list[RecordDict]]:
        recorded = self._audit.contents.envelope(content)
        for end in ends:
            if end.handled.reply is not None and self._is_same(end.handled.reply, recorded):
                return Retrained(asked.number, True), [end.carry]
        if (reply := ends[0].handled.reply) is None:
            raise _another(
                self._member, asked.number, "its training fails here", ends[0].handled.log
            )
        here = dict(environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
        there = self._recorded(content)
        differs = {k: (v, here.get(k)) for k, v in there.items() if here.get(k) != v}
        gap = self._gap(reply, content, order)
        if differs and gap <= TOLERANCE:
            return Retrained(asked.number, False, gap, differs), [end.carry for end in ends]
        raise _another(
            self._member, asked.number, *self._how(reply, content, gap, differs, bool(there))
        )

    def _is_same(self, reply: RecordDict, recorded: Envelope) -> bool:
        own = flower.encode(reply, self._audit.contents)
        return _compared_records(own) == _compared_records(recorded)

    def _gap(self, reply: RecordDict, content: str, order: RecordDict) -> float:
        """The largest difference of the two models meant, over the norm of the recorded update."""
        base, rule = open_model(order.array_records[ARRAYS]), self._audit.bench.rule()
        try:
            recorded = rule.opened(self._audit.contents.records(content), base)
            own = rule.opened(reply, base)
        except SetAside:
            return float("inf")
        if own.keys() != recorded.keys():
            return float("inf")
        norm = distance(recorded, base).norm
        away = distance(own, recorded).largest
        return away / norm if norm else (0.0 if away == 0.0 else float("inf"))

    def _how(
        self,
        reply: RecordDict,
        content: str,
        gap: float,
        differs: Mapping[str, tuple[Any, Any]],
        named: bool,
    ) -> list[str]:
        there = self._audit.contents.records(content)
        lines = [
            f"{name} · {line}"
            for name in (ARRAYS, CONTROL)
            if name in there.array_records and name in reply.array_records
            for line in differing(
                open_model(reply.array_records[name]), open_model(there.array_records[name])
            )
        ]
        own, theirs = (dict(r.metric_records.items()) for r in (reply, there))
        if str(own) != str(theirs):
            lines.append(f"metrics · here {own}, on record {theirs}")
        lines.append(f"at most {gap:.2g} of the update's norm; {TOLERANCE:g} is allowed elsewhere")
        lines += [f"{key}: {v} on record, {w} here" for key, (v, w) in differs.items()]
        if not named:
            lines.append("the contribution does not say what it was made with")
        return lines


def carries(charter: Charter) -> bool:
    """Whether a member's training hangs on its rounds before: what its carry file holds is then used."""
    plan = charter.training
    plain = plan.optimizer == "sgd" and plan.warmup == 0 and plan.codec is None
    return not plain or charter.strategy.name == "scaffold"


def _compared_records(envelope: Envelope) -> list[tuple[str, Any]]:
    return [(name, record) for name, record in envelope.records if name != ENVIRONMENT]


def _another(member: str, number: int, *how: str) -> BarnraiseError:
    return BarnraiseError(
        "U108",
        f"what {member} contributed to round {number} is not what its training gives here",
        "\n".join(line for line in how if line),
        next=f"see that the data are those which {member} had in that round; else ask {member}",
    )
