"""A log as a history that a person reads: a line for each thing that happened, rounds above all.

Entries in, lines out; it remembers what belongs to the round that is going on. Entries that only the
engine needs (what was sent, pulled, which members were admitted) make no line of their own.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from barnraise.cli import words
from barnraise.protocols.entries import Entry


@dataclass
class _Round:
    """Since the last seal: who answered in training, who was refused, late or silent."""

    asked: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    void: bool = False


class History:
    """Owned by whoever prints. `lines(entry)` are those that this entry completes."""

    def __init__(self) -> None:
        self._round = _Round()
        self._train: set[int] = set()
        self._closed: dict[tuple[str, int], datetime.datetime] = {}
        self._members: dict[str, str] = {}
        self._seals = False

    def lines(self, entry: Entry) -> list[str]:
        handler = getattr(self, f"_{entry.type.replace('.', '_')}", None)
        return list(handler(entry, entry.body)) if handler is not None else []

    # --- the federation ------------------------------------------------------------------------------

    def _federation_founded(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        yield f"Federation {body['federation']} founded; its log's key is {body['log']}"

    def _member_enrolled(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        of = f" ({body['organisation']})" if body["organisation"] else ""
        yield f"{body['member']}{of} enrolled"

    def _member_revoked(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        yield f"{body['member']} revoked: {body['reason']}"

    def _member_left(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        yield f"{body['member']} left"

    def _charter_adopted(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        yield f"Charter {body['charter'][:19]}… proposed, in the agreement {body['agreement'][:19]}…"

    def _charter_signed(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        yield f"{body['member']} signed the agreement {body['agreement'][:19]}…"

    def _data_stated(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        kind = "open" if body["open"] else "private"
        yield f"{body['member']} stated its data ({kind}): {body['document'][:19]}…"

    # --- runs ----------------------------------------------------------------------------------------

    def _run_opened(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        names = [name for name, _ in body["members"]]
        who = f"{words.count(len(names), 'member')}: {words.listed(names)}"
        self._round, self._seals = _Round(), False
        self._train.clear()  # batches are counted anew in each run
        yield f"Run {body['run']} of {body['app']['name']} opened; {who}"

    def _batch_sent(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        for group in body["orders"]:
            if group["type"].partition(".")[0] == "train":
                self._train.add(body["batch"])
                self._round.asked |= set(group["members"])
        yield from ()

    def _reply_accepted(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        self._members[body["order"]] = body["member"]
        yield from ()

    def _reply_refused(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        self._members[body["order"]] = body["member"]
        yield f"  {body['member']} refused in batch {body['batch']}: {body['code']} {body['reason']}"

    def _reply_late(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        closed = self._closed.get((body["run"], body["batch"]))
        by = ""
        if closed is not None:
            by = f" by {words.duration(max(0.0, (_time(entry) - closed).total_seconds()))}"
        self._round.notes.append(f"{body['member']} late{by}")
        yield from ()

    def _batch_closed(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        self._closed[body["run"], body["batch"]] = _time(entry)
        for order, reason in body["set_aside"].items():
            yield f"  {self._members.get(order, '?')} set aside in batch {body['batch']}: {reason}"
        if body["batch"] in self._train:
            self._round.accepted |= {self._members.get(o, "?") for o in body["accepted"]}
            self._round.notes += [f"{name} silent" for name in body["absent"]]
            self._round.void = self._round.void or body["void"]
        self._members.clear()
        if not self._seals and body["batch"] in self._train:
            yield f"Batch {body['batch']} closed: {self._who()}; {body['reason']}{self._rest()}"

    def _round_sealed(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        self._seals = True
        report = body["report"]
        before, after = (report.get(key) or {} for key in ("before", "after"))
        moved = words.change(before, after) if isinstance(after, Mapping) else ""
        parts = [
            self._who() if self._round.asked else "the initial model",
            *([moved] if moved else []),
        ]
        yield f"Round {body['round']} sealed: {', '.join(parts)}{self._rest()}"
        self._round = _Round()

    def _run_closed(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        model = f"the model is {body['model']}" if body["model"] else "without a result"
        yield f"Run {body['run']} closed: {model}"

    def _release_published(self, entry: Entry, body: Mapping[str, Any]) -> Iterator[str]:
        yield f"Released: {body.get('manifest', '')}"

    def _who(self) -> str:
        return f"{len(self._round.accepted)} of {words.count(len(self._round.asked), 'member')}"

    def _rest(self) -> str:
        void = "; void: below quorum, the model stays" if self._round.void else ""
        noted = "".join(f"; {note}" for note in self._round.notes)
        if not self._seals:
            self._round = _Round()
        return void + noted


def _time(entry: Entry) -> datetime.datetime:
    return datetime.datetime.fromisoformat(entry.time)
