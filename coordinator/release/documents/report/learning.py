"""Section: the measure by round, the federation's and each member's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from barnraise.coordinator.release.documents.report import numbers, plots, scale
from barnraise.coordinator.release.documents.report.markup import Child, Element, tag
from barnraise.coordinator.release.documents.report.plots import Line
from barnraise.coordinator.release.documents.report.scale import Axis
from barnraise.coordinator.release.documents.report.section import Section, table
from barnraise.coordinator.release.documents.report.story import Story, number
from barnraise.coordinator.release.documents.report.thin import Point, off, thinned

FEDERATION, MEMBER = 300, 80
"""Points of a line, the federation's and a member's; of more measurements some are left out."""
Ground: TypeAlias = tuple[Axis, Axis, Point | None]


def loss(story: Story) -> Section:
    """Held-out loss by round: the federation's, and each member's as a thin line."""
    if not story.measured:
        why = "The app put no held-out measure on record, so there is no curve to draw."
        return Section("loss", "Learning", (), (tag("p", why),))
    heading = f"Held-out {story.measure} by round"
    notes = (tag("p", story.meaning), tag("p", _read(story)))
    return Section("loss", heading, notes, (_plot(story, heading), _finals(story)))


def axes(story: Story) -> Ground:
    """The axes of the plot and of the tiles; and the federation's measure before training, where it lies
    so far above all others that it is left out of them."""
    points = story.measured + [p for name in story.names for p in story.of_member(name)]
    x = scale.of_rounds(min(at for at, _ in points), max(at for at, _ in points))
    low, high, cut = scale.trimmed(points)
    above = story.measured[0] if cut else None
    return x, scale.of_values(low, high, story.unit), above


def _read(story: Story) -> str:
    if len(story.measured) < 2:
        return "It was measured once."
    (first, was), (last, now) = story.measured[0], story.measured[-1]
    start = "before training" if first == 0 else f"after round {first}"
    way = "fell" if now < was else "rose" if now > was else "stayed as it was"
    return (
        f"Over all members’ held-out data it {way}: {numbers.measure(was)} {start},"
        f" {numbers.measure(now)} after round {last}."
    )


def _plot(story: Story, heading: str) -> Element:
    x, y, above = axes(story)
    lines = {name: thinned(story.of_member(name), MEMBER) for name in story.names}
    drawn = [Line(name, "member", plots.whole(points)) for name, points in lines.items()]
    points = thinned(story.measured, FEDERATION)
    drawn.append(Line("the federation", "together", plots.whole(points), dots=True))
    keys = [
        ("together", "over all members’ held-out data"),
        ("member", "each member’s own held-out data"),
        *([("void", "void round")] if story.void else []),
    ]
    drawing = plots.lines(
        "loss-plot", heading, _read(story), x, y, drawn, marks=story.void, cut=above is not None
    )
    return plots.figure(drawing, plots.legend(*keys), _caption(story, above, points))


def _caption(story: Story, above: Point | None, drawn: Sequence[Point]) -> str:
    said = ["Members’ lines are drawn alike; each stands by itself under “Members”."]
    if above is not None:
        said.append(f"Before training it was {numbers.measure(above[1])}, above the plot.")
    if len(drawn) < len(story.measured):
        said.append(
            f"Of {numbers.count(len(story.measured))} measurements {len(drawn)} are drawn; none of the"
            f" others is off the line by more than {numbers.measure(off(story.measured, drawn))}."
            " metrics.json has all."
        )
    return " ".join(said)


def _finals(story: Story) -> Child:
    """The last metrics besides the measure, if there are any."""
    found = [(key, number(value)) for key, value in sorted(story.facts.final.items())]
    rows = [
        (key, numbers.measure(value))
        for key, value in found
        if value is not None and key not in (story.measure, "num-examples")
    ]
    if not rows:
        return None
    caption = "Other measures of the final model, on held-out data"
    return table(caption, ("measure", "value"), rows, numeric={1})
