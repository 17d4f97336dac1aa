"""What sections ask of the facts more than once: the measure, its points, the task's words. No layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from barnraise.coordinator.release.documents.report import numbers
from barnraise.coordinator.release.facts import Facts, MemberFacts
from barnraise.protocols.telling import RoundTold

CONTEXT = 128
"""Bytes that a causal-lm looks back on where its charter does not say."""
_COUNTS = frozenset({"num-examples", "num_examples", "steps"})
_UNITS = {"causal-lm": "nats per byte", "classification": "nats"}
_MEANINGS = {
    "causal-lm": "Loss is how surprised the model is, on average, by each next byte of text that it was "
    "not trained on, in nats. Lower is better.",
    "classification": "Loss is how surprised the model is, on average, by the right class of examples "
    "that it was not trained on, in nats. Lower is better.",
}
_KINDS = {"causal-lm": "A language model", "classification": "A classifier"}


@dataclass(frozen=True)
class Story:
    """A run as this page tells it."""

    facts: Facts

    # --- what was learned ----------------------------------------------------------------------------

    @property
    def task(self) -> str:
        """The charter's task; empty for a Flower app."""
        return self.facts.charter.task.name if self.facts.charter else ""

    @property
    def kind(self) -> str:
        return _KINDS.get(self.task, "A model")

    @cached_property
    def measure(self) -> str | None:
        """The metric that the page follows: the loss if there is one, else the first by name."""
        found = {
            key
            for one in self.facts.rounds
            for key, v in one.after.items()
            if number(v) is not None
        }
        return "loss" if "loss" in found else min(found - _COUNTS, default=None)

    @property
    def unit(self) -> str:
        if self.measure == "loss":
            return _UNITS.get(self.task, "loss")
        return self.measure or ""

    @property
    def meaning(self) -> str:
        if self.measure == "loss" and self.task in _MEANINGS:
            return _MEANINGS[self.task]
        return f"“{self.measure}” is what the app itself measured on held-out data, and named so."

    # --- rounds --------------------------------------------------------------------------------------

    @cached_property
    def trained(self) -> tuple[RoundTold, ...]:
        """The rounds in which there was something to train."""
        return tuple(one for one in self.facts.rounds if one.number > 0)

    @cached_property
    def void(self) -> tuple[int, ...]:
        return tuple(one.number for one in self.trained if one.void)

    @cached_property
    def measured(self) -> list[tuple[int, float]]:
        """The federation's measure after each round that was evaluated, as far as it is a finite number."""
        told = [one for one in self.facts.rounds if one.members] or list(self.facts.rounds)
        values = [(one.number, number(one.after.get(self.measure or ""))) for one in told]
        return [(at, value) for at, value in values if value is not None]

    def of_member(self, name: str) -> list[tuple[int, float]]:
        """A member's own measure, by round."""
        key, rounds = self.measure or "", self.facts.rounds
        values = [(one.number, number(one.members.get(name, {}).get(key))) for one in rounds]
        return [(at, value) for at, value in values if value is not None]

    @cached_property
    def tally(self) -> Mapping[str, Counter[str]]:
        """How often each member was asked to train, accepted, refused, late and absent."""
        tally: dict[str, Counter[str]] = {m.name: Counter() for m in self.facts.members}
        for one in self.facts.rounds:
            for what in ("asked", "accepted", "refused", "late", "absent"):
                for name in getattr(one, what):
                    tally.setdefault(name, Counter())[what] += 1
        return tally

    # --- work ----------------------------------------------------------------------------------------

    def seen(self, member: MemberFacts) -> int:
        """Examples that a member's optimizer steps went over; 0 where that is not known."""
        charter = self.facts.charter
        return member.steps * charter.training.batch if charter is not None else 0

    @property
    def context(self) -> int:
        """Bytes of text in an example; 0 where the task is not of text."""
        charter = self.facts.charter
        if charter is None or self.task != "causal-lm":
            return 0
        context = charter.task.options.get("context", CONTEXT)
        return context if type(context) is int else 0

    # --- who -----------------------------------------------------------------------------------------

    @property
    def names(self) -> Sequence[str]:
        return [member.name for member in self.facts.members]

    @property
    def simulated(self) -> bool:
        return self.facts.simulated

    @property
    def who(self) -> str:
        """`four members: basel, geneva, lausanne and zurich`; of many only how many."""
        many = numbers.plural(len(self.names), "member")
        if len(self.names) <= 12:
            many = f"{numbers.word(len(self.names))} member{'s' if len(self.names) != 1 else ''}"
        if not 0 < len(self.names) <= 6:
            return many
        called = [member.organisation or member.name for member in self.facts.members]
        return f"{many}: {numbers.joined(called)}"


def number(value: Any) -> float | None:
    """A finite number of a metric; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None
