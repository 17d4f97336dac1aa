"""Plots as inline SVG that keep their text readable at any width.

The drawing has no viewBox: shapes and labels stand at percentages, so letters are never scaled. Lines,
which SVG cannot give in percent, lie in an inner `svg` of 1000 by 1000 that is stretched over the plot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from barnraise.coordinator.release.documents.report.markup import Child, Element, tag
from barnraise.coordinator.release.documents.report.scale import Axis
from barnraise.coordinator.release.documents.report.thin import Point

INNER = 1000
DOTS = 40
"""More points than this are drawn without dots."""


@dataclass(frozen=True)
class Line:
    """A line through measured points, ascending in x; None in y breaks it. `kind` is a class of the style."""

    label: str
    kind: str
    points: Sequence[tuple[int, float | None]]
    dots: bool = False


@dataclass(frozen=True)
class Stack:
    """A bar from `first` to `last` (rounds, both included): its parts from zero, upwards or downwards."""

    first: int
    last: int
    parts: Sequence[tuple[str, float]]
    label: str


def figure(drawing: Element, keys: Child, caption: Child) -> Element:
    """A plot with its legend above and its caption below."""
    return tag("figure", keys, drawing, tag("figcaption", caption))


def legend(*entries: tuple[str, str]) -> Element:
    """(kind, label): each with a swatch drawn as the plot draws it."""
    items = [tag("li", _swatch(kind), label) for kind, label in entries]
    return tag("ul", *items, class_="legend")


def lines(
    name: str,
    title: str,
    told: str,
    x: Axis,
    y: Axis,
    drawn: Sequence[Line],
    *,
    marks: Iterable[int] = (),
    cut: bool = False,
) -> Element:
    """Lines over rounds. `told` says in words what is seen; `marks` are rounds that were void; with `cut`
    what lies outside of the axes is not drawn."""
    return tag(
        "svg",
        *_told(name, title, told),
        _grid(x, y),
        [_mark(at, x) for at in marks],
        _paths(drawn, x, y, cut),
        [_dots(line, x, y) for line in drawn if line.dots and len(line.points) <= DOTS],
        role="img",
        class_="plot",
        aria_labelledby=f"{name}-title {name}-told",
    )


def bars(
    name: str,
    title: str,
    told: str,
    x: Axis,
    up: Axis,
    drawn: Sequence[Stack],
    *,
    below: tuple[Axis, Sequence[Stack]] | None = None,
) -> Element:
    """Stacked bars over rounds from zero up; those `below`, on their own axis, from zero down.

    One unit has the same height on both sides.
    """
    down = below[0] if below else None
    depth = down.high if down else 0.0
    y = Axis(-depth, up.high, _both(up, down), up.unit)
    unit, zero = 1 / (up.high + depth), up.high / (up.high + depth)
    return tag(
        "svg",
        *_told(name, title, told),
        _grid(x, y),
        [_stack(one, x, zero, unit, upwards=True) for one in drawn],
        [_stack(one, x, zero, unit, upwards=False) for one in (below[1] if below else ())],
        _level(zero, "zero"),
        role="img",
        class_="plot bars",
        aria_labelledby=f"{name}-title {name}-told",
    )


def spark(name: str, title: str, x: Axis, y: Axis, drawn: Sequence[Line], *, cut: bool) -> Element:
    """A small plot without axes, for a tile."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        _level(1.0, "zero"),
        _paths(drawn, x, y, cut),
        role="img",
        class_="spark",
        aria_labelledby=f"{name}-title",
    )


def rounds_of(x: Axis, first: int, last: int) -> Axis:
    """The axis of bars: half a round wider on both sides."""
    return Axis(first - 0.5, last + 0.5, x.ticks, x.unit)


def whole(points: Sequence[Point]) -> list[tuple[int, float | None]]:
    """Points of which none is missing, as a `Line` takes them."""
    return list(points)


# --- parts ------------------------------------------------------------------------------------------


def _told(name: str, title: str, told: str) -> list[Element]:
    return [tag("title", title, id=f"{name}-title"), tag("desc", told, id=f"{name}-told")]


def _percent(part: float) -> str:
    return f"{100 * part:.3f}".rstrip("0").rstrip(".") + "%"


def _level(part: float, kind: str) -> Element:
    at = _percent(part)
    return tag("line", x1="0", x2="100%", y1=at, y2=at, class_=kind)


def _grid(x: Axis, y: Axis) -> Element:
    levels = [(_percent(1 - y.part(value)), label) for value, label in y.ticks]
    places = [(_percent(x.part(value)), label) for value, label in x.ticks]
    return tag(
        "g",
        [tag("line", x1="0", x2="100%", y1=at, y2=at) for at, _ in levels],
        [tag("text", label, x="0", y=at, dx="-8", dy="4", class_="y") for at, label in levels],
        [tag("text", label, x=at, y="100%", dy="20", class_="x") for at, label in places],
        tag("text", y.unit, x="0", y="0", dy="-16", class_="unit"),
        tag("text", x.unit, x="100%", y="100%", dy="38", class_="unit end"),
        class_="grid",
    )


def _paths(drawn: Sequence[Line], x: Axis, y: Axis, cut: bool) -> Element:
    """The lines alone, stretched over the whole plot; with `cut`, nothing of them outside."""
    return tag(
        "svg",
        [_path(line, x, y) for line in drawn],
        viewBox=f"0 0 {INNER} {INNER}",
        preserveAspectRatio="none",
        class_="lines cut" if cut else "lines",
    )


def _path(line: Line, x: Axis, y: Axis) -> Element:
    steps, pen = [], "M"
    for at, value in line.points:
        if value is None:
            pen = "M"
            continue
        steps.append(f"{pen}{_place(x.part(at))} {_place(1 - y.part(value))}")
        pen = "L"
    return tag("path", tag("title", line.label), d="".join(steps), class_=line.kind)


def _place(part: float) -> str:
    return f"{INNER * part:.1f}".removesuffix(".0")


def _dots(line: Line, x: Axis, y: Axis) -> Element:
    inside = [(at, v) for at, v in line.points if v is not None and 0 <= y.part(v) <= 1]
    return tag(
        "g",
        [
            tag("circle", cx=_percent(x.part(at)), cy=_percent(1 - y.part(v)), r="3.5")
            for at, v in inside
        ],
        class_=f"dots {line.kind}",
    )


def _mark(at: int, x: Axis) -> Element:
    place = _percent(x.part(at))
    return tag(
        "line",
        tag("title", f"round {at}: void"),
        x1=place,
        x2=place,
        y1="0",
        y2="100%",
        class_="void",
    )


def _both(up: Axis, down: Axis | None) -> tuple[tuple[float, str], ...]:
    below = [(-value, label) for value, label in down.ticks if value > 0] if down else []
    return (*reversed(below), *up.ticks)


def _stack(one: Stack, x: Axis, zero: float, unit: float, *, upwards: bool) -> Element:
    """`zero` is where zero stands and `unit` the height of one, as parts of the plot's height."""
    span = one.last - one.first + 1
    left, wide = x.part(one.first - 0.5 + span * 0.12), span * 0.76 / (x.high - x.low)
    shapes, base = [], 0.0
    for kind, value in one.parts:
        top = zero - (base + value) * unit if upwards else zero + base * unit
        place = {"x": left, "y": top, "width": wide, "height": value * unit}
        if value > 0:
            shapes.append(tag("rect", **{k: _percent(v) for k, v in place.items()}, class_=kind))
        base += value
    return tag("g", tag("title", one.label), shapes)


def _swatch(kind: str) -> Element:
    shape = (
        tag("rect", x="1", y="2", width="20", height="10", class_=kind)
        if kind in ("train", "evaluate", "other", "received", "sent")
        else tag("line", x1="1", x2="21", y1="7", y2="7", class_=kind)
    )
    return tag("svg", shape, width="22", height="14", class_="swatch", aria_hidden="true")
