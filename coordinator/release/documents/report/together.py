"""Section: what each member reached alone, beside what they reached together; plainly, whoever won."""

from __future__ import annotations

from collections.abc import Sequence

from barnraise.coordinator.release.documents.report import numbers, plots, scale
from barnraise.coordinator.release.documents.report.comparison import Comparison
from barnraise.coordinator.release.documents.report.learning import FEDERATION, MEMBER
from barnraise.coordinator.release.documents.report.markup import Child, Element, tag
from barnraise.coordinator.release.documents.report.plots import Line
from barnraise.coordinator.release.documents.report.section import Section, table
from barnraise.coordinator.release.documents.report.story import Story
from barnraise.coordinator.release.documents.report.thin import Point, thinned

_HEADING = "Together against alone"
_STRANGE = (
    "A comparison came with this release, in a shape that this page cannot draw:"
    " see comparison.json."
)
_NOTES = (
    (
        "Each member also trained alone, from the same start, for as many local steps. Of a member"
        " alone its best measurement counts; of the federation its last."
    ),
    (
        "The comparison was made by whoever made this release. The log does not hold it, and it is"
        " one run: it does not tell how much of a difference is chance."
    ),
)
_OWN = (
    "Each member’s own held-out data: alone (open circle) and with the shared model (full circle)."
    " Where less is better, a negative difference is a gain."
)


def together(story: Story) -> Section | None:
    """None where the release has no comparison."""
    if story.facts.comparison is None:
        return None
    found = Comparison.of(story.facts.comparison)
    if found is None:
        return Section("together", _HEADING, (), (tag("p", _STRANGE),))
    body = (
        tag("p", _verdict(story, found), class_="verdict"),
        _curves(story, found),
        _owns(found),
    )
    return Section("together", _HEADING, [tag("p", note) for note in _NOTES], body)


def _verdict(story: Story, found: Comparison) -> list[Child]:
    best, gain = found.best, found.best.loss - found.loss
    unit = f" {story.unit}" if story.unit != story.measure else ""
    shared, alone = numbers.measure(found.loss) + unit, numbers.measure(best.loss)
    share = f" ({numbers.percent(abs(gain) / best.loss)})" if best.loss > 0 else ""
    amount = f"{numbers.measure(abs(gain))}{share}"
    said = f" Over all members’ held-out data the shared model reaches {shared};"
    if gain > 0:
        won = "Together won."
        said += f" the best of the members alone, {best.member}, reached {alone}: {amount} more."
    elif gain < 0:
        won = "Together did not win."
        said += f" {best.member} alone reached {alone}: {amount} less, which is better."
    else:
        won = "It made no difference."
        said += f" {best.member} alone reached the same."
    return [tag("strong", won), said, _counted(found)]


def _counted(found: Comparison) -> str:
    both = found.owns()
    if not both:
        return ""
    better = sum(shared < alone for _, alone, shared in both)
    return (
        " On a member’s own held-out data the shared model is better than what that member reached"
        f" alone for {better} of {len(both)} members."
    )


def _curves(story: Story, found: Comparison) -> Child:
    alone = {one.member: one.history for one in found.alone if one.history}
    if not alone:
        return None
    best = found.best
    shared = _same_run(story, found)
    points = shared + [point for history in alone.values() for point in history]
    low, high, cut = scale.trimmed(points)
    x = scale.of_rounds(min(at for at, _ in points), max(at for at, _ in points))
    drawn = [_alone(n, "alone", points) for n, points in alone.items() if n != best.member]
    if best.member in alone:
        drawn.append(_alone(best.member, "best", alone[best.member]))
    keys = [("best", f"{best.member} alone, the best of them")]
    keys += [("alone", "each other member alone")] if len(alone) > 1 else []
    if shared:
        points = thinned(shared, FEDERATION)
        drawn.append(Line("together", "together", plots.whole(points), dots=True))
        keys.insert(0, ("together", "together"))
    told = (
        f"Together it ends at {numbers.measure(found.loss)};"
        f" {best.member} alone comes to {numbers.measure(best.loss)}."
    )
    y = scale.of_values(low, high, story.unit)
    drawing = plots.lines("alone-plot", f"{_HEADING}, by round", told, x, y, drawn, cut=cut)
    return plots.figure(drawing, plots.legend(*keys), _caption(points, cut=cut))


def _same_run(story: Story, found: Comparison) -> list[Point]:
    """The run's own curve, if the comparison speaks of this run's end."""
    ends = story.measured[-1][1] if story.measured else None
    same = ends is not None and abs(ends - found.loss) <= 1e-6 * max(1.0, abs(found.loss))
    return story.measured if same else []


def _caption(points: Sequence[Point], *, cut: bool) -> str:
    said = "Over all members’ held-out data. A round alone has as many local steps as one together."
    if not cut:
        return said
    before = max(value for at, value in points if at == 0)
    return f"{said} Before training it was {numbers.measure(before)}, above the plot."


def _alone(name: str, kind: str, history: Sequence[Point]) -> Line:
    return Line(f"{name} alone", kind, plots.whole(thinned(history, MEMBER)))


def _owns(found: Comparison) -> Child:
    rows = found.owns()
    if not rows:
        return None
    values = [value for _, alone, shared in rows for value in (alone, shared)]
    place = scale.of_values(min(values), max(values), "")
    return table(
        _OWN,
        ("member", "", "alone", "together", "difference"),
        [
            (
                member,
                _between(place.part(alone), place.part(shared)),
                numbers.measure(alone),
                numbers.measure(shared),
                numbers.moved(shared - alone),
            )
            for member, alone, shared in rows
        ],
        numeric={2, 3, 4},
    )


def _between(alone: float, shared: float) -> Element:
    """Two marks on one line; the numbers beside it say the same."""
    a, t = f"{100 * alone:.2f}%", f"{100 * shared:.2f}%"
    return tag(
        "svg",
        tag("line", x1=a, x2=t, y1="50%", y2="50%"),
        tag("circle", cx=a, cy="50%", r="5", class_="without"),
        tag("circle", cx=t, cy="50%", r="5", class_="with"),
        class_="between",
        aria_hidden="true",
    )
