"""Section: the compute that each member gave, with an estimate of energy whose assumption is stated."""

from __future__ import annotations

from barnraise.coordinator.release.documents.report import numbers
from barnraise.coordinator.release.documents.report.markup import Child, tag
from barnraise.coordinator.release.documents.report.section import Section, table
from barnraise.coordinator.release.documents.report.story import Story
from barnraise.coordinator.release.facts import MemberFacts

WATTS = 100
"""Assumed of a member's machine while it works on an order; a round number, easily scaled."""

_HOURS = (
    "Steps and examples are what members reported with replies that counted. Hours run from an order"
    " to train to the verdict on its reply, so they hold transfers and waiting too."
)
_ENERGY = (
    f"Energy is an estimate: those hours at an assumed {WATTS} watts a member. Nobody measured it. For"
    f" machines that draw 400 watts, multiply by {400 // WATTS}. It covers training only, not"
    " evaluation or the coordinator."
)


def work(story: Story) -> Section:
    """Steps, examples, tokens, hours and energy, as far as each is known."""
    notes = [tag("p", note) for note in (_HOURS, _ENERGY)]
    texts = any(story.tokens(one) is not None for one in story.facts.members)
    heads = [
        "member",
        "steps",
        "examples",
        *(["tokens (bytes of text)"] if texts else []),
        "hours",
        f"energy at {WATTS}\N{NO-BREAK SPACE}W",
    ]
    rows = [_row(story, one, texts) for one in story.facts.members]
    given = table(
        "Compute given by each member, in alphabetical order",
        heads,
        rows,
        numeric=range(1, 6),
        total=_total(story, texts),
    )
    return Section("compute", "Compute given", notes, (given,))


def _row(story: Story, one: MemberFacts, texts: bool) -> list[Child]:
    return [
        one.name,
        *_cells(one.steps, one.examples, story.tokens(one) if texts else -1, one.seconds),
    ]


def _total(story: Story, texts: bool) -> list[Child]:
    members = story.facts.members
    tokens = sum(story.tokens(one) or 0 for one in members) if texts else -1
    return [
        "all",
        *_cells(
            sum(m.steps for m in members),
            sum(m.examples for m in members),
            tokens,
            sum(m.seconds for m in members),
        ),
    ]


def _cells(steps: int, examples: int, tokens: int | None, seconds: float) -> list[Child]:
    """`tokens` is -1 where there is no such column."""
    counts = [steps, examples, *([] if tokens == -1 else [tokens or 0])]
    said: list[Child] = [numbers.count(n) if n else numbers.NONE for n in counts]
    if not seconds:
        return [*said, numbers.NONE, numbers.NONE]
    return [*said, numbers.hours(seconds), numbers.energy(seconds / 3600 * WATTS / 1000)]
