"""Section: the members as equal tiles, in canonical order. Nothing here compares one with another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from barnraise.coordinator.release.documents.report import numbers, plots
from barnraise.coordinator.release.documents.report.learning import MEMBER, Ground, axes
from barnraise.coordinator.release.documents.report.markup import Child, Element, tag
from barnraise.coordinator.release.documents.report.plots import Line
from barnraise.coordinator.release.documents.report.section import Section, pairs
from barnraise.coordinator.release.documents.report.story import Story
from barnraise.coordinator.release.documents.report.thin import thinned
from barnraise.coordinator.release.facts import MemberFacts

Mean: TypeAlias = Sequence[tuple[int, float | None]]


def members(story: Story) -> Section:
    """One tile each: who it is, how its own held-out measure went, what became of its work."""
    notes: list[Child] = [
        tag("p", "In alphabetical order; all tiles are of one size and one scale.")
    ]
    if story.measured:
        keys = [("own", "on the member’s own held-out data"), ("mean", "over all members’ data")]
        notes += [
            tag("p", f"The lines are the {story.measure} of the shared model, by round:"),
            plots.legend(*keys),
        ]
    mean = plots.whole(thinned(story.measured, MEMBER))
    ground = axes(story) if story.measured else None
    tiles = [_tile(story, one, ground, mean) for one in story.facts.members]
    return Section("members", "Members", notes, (tag("ul", tiles, class_="tiles small"),))


def _tile(story: Story, member: MemberFacts, ground: Ground | None, mean: Mean) -> Element:
    tally = story.tally[member.name]
    signed = story.facts.agreement is not None
    return tag(
        "li",
        tag("h3", member.name),
        tag("p", member.organisation or "no organisation stated", class_="soft"),
        _spark(story, member, ground, mean),
        pairs(
            ("counted", f"{numbers.count(tally['accepted'])} of {numbers.count(tally['asked'])}"),
            ("refused", str(tally["refused"])),
            ("late", str(tally["late"])),
            ("absent", str(tally["absent"])),
            ("charter", "signed" if member.name in story.facts.signed else "not signed")
            if signed
            else None,
            ("examples", numbers.count(member.examples)) if member.examples else None,
            ("data", _data(member)),
        ),
    )


def _data(member: MemberFacts) -> str:
    if member.data is None:
        return "unstated"
    return "open" if member.data.open else "private"


def _spark(story: Story, member: MemberFacts, ground: Ground | None, mean: Mean) -> Child:
    own = story.of_member(member.name)
    if ground is None:
        return None
    if not own:
        return tag("p", "No measurement of its own.", class_="soft")
    x, y, above = ground
    drawn = [
        Line("over all members’ data", "mean", mean),
        Line(member.name, "own", plots.whole(thinned(own, MEMBER))),
    ]
    ends = f"{numbers.measure(own[0][1])} → {numbers.measure(own[-1][1])}"
    title = f"{story.measure} on the held-out data of {member.name}: {ends}"
    spark = plots.spark(f"of-{member.name}", title, x, y, drawn, cut=above is not None)
    return [spark, tag("p", f"{story.measure} {ends}", class_="ends")]
