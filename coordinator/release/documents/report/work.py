"""Section: the compute that each member gave, with an estimate of energy whose assumption is stated."""

from __future__ import annotations

from barnraise.coordinator.release.documents.report import numbers
from barnraise.coordinator.release.documents.report.markup import Child, tag
from barnraise.coordinator.release.documents.report.section import Section, table
from barnraise.coordinator.release.documents.report.story import Story

WATTS = 100
"""Assumed of a member's machine while it works on an order; a round number, easily scaled."""

_HEAD = f"energy at {WATTS}\N{NO-BREAK SPACE}W"
_HOURS = (
    "Steps are what members reported with replies that counted; examples are steps times the charter’s"
    " batch, each as often as it was used. Hours run from an order to train to the verdict on its"
    " reply, so they hold transfers and waiting too."
)
_ENERGY = (
    f"Energy is an estimate: those hours at an assumed {WATTS} watts a member. Nobody measured it. For"
    f" machines that draw 400 watts, multiply by {400 // WATTS}. It covers training only, not"
    " evaluation or the coordinator."
)


def work(story: Story) -> Section:
    """Steps, examples, bytes of text, hours and energy, as far as each is known."""
    members, texts = story.facts.members, story.context
    heads = ["member", "steps", "examples", *(["bytes of text"] if texts else []), "hours", _HEAD]
    rows: list[list[Child]] = [
        [one.name, *_cells(one.steps, story.seen(one), texts, one.seconds)] for one in members
    ]
    steps, seen = sum(one.steps for one in members), sum(map(story.seen, members))
    total: list[Child] = ["all", *_cells(steps, seen, texts, sum(one.seconds for one in members))]
    caption = "Compute given by each member, in alphabetical order"
    given = table(caption, heads, rows, numeric=range(1, len(heads)), total=total)
    return Section("compute", "Compute given", [tag("p", n) for n in (_HOURS, _ENERGY)], (given,))


def _cells(steps: int, seen: int, context: int, seconds: float) -> list[Child]:
    counts = [steps, seen, *([seen * context] if context else [])]
    said: list[Child] = [numbers.count(n) if n else numbers.NONE for n in counts]
    if not seconds:
        return [*said, numbers.NONE, numbers.NONE]
    return [*said, numbers.hours(seconds), numbers.energy(seconds / 3600 * WATTS / 1000)]
