"""Sections: bytes by round, both ways; and where each round's time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from barnraise.coordinator.release.documents.report import numbers, plots, scale
from barnraise.coordinator.release.documents.report.markup import tag
from barnraise.coordinator.release.documents.report.plots import Stack
from barnraise.coordinator.release.documents.report.section import Section
from barnraise.coordinator.release.documents.report.story import Story
from barnraise.coordinator.release.documents.report.thin import spans
from barnraise.protocols.telling import RoundTold

BARS = 100
"""More rounds than this share bars, as means."""
PHASES: Mapping[str, tuple[str, str]] = {
    "train": ("training", "training, with sending and receiving"),
    "evaluate": ("evaluation", "evaluation at the members"),
    "other": ("all else", "all else: aggregating, sealing, waiting"),
}
_CLOCK = (
    "By the coordinator’s wall clock, pauses included. Members work at the same time; a round takes as"
    " long as the slowest reply that it waits for."
)
Group = Sequence[RoundTold]


def traffic(story: Story) -> Section:
    """What members sent (up) and what they were sent (down)."""
    heading, told, sent = "Bytes by round", story.facts.rounds, story.facts.sent
    if not told:
        return Section("bytes", heading, (), (tag("p", "There was no round."),))
    groups = _groups(told)
    known = [[one for one in group if one.number in sent] for group in groups]
    up = [_bar(g, "received", _mean([one.received for one in g])) for g in groups]
    down = [_bar(g, "sent", _mean([sent[one.number] for one in g])) for g in known if g]
    axis = scale.of_amounts(max(v for one in (*up, *down) for _, v in one.parts), scale.BYTES)
    least, most = (numbers.size(f(one.received for one in told)) for f in (min, max))
    said = f"In a round between {least} and {most} were received."
    below = (axis, down) if down else None
    drawing = plots.bars("bytes-plot", heading, said, _axis(told), axis, up, below=below)
    keys = [("received", "received from members, upwards")]
    keys += [("sent", "sent to members, downwards")] if down else []
    figure = plots.figure(drawing, plots.legend(*keys), said + _shared(groups))
    return Section("bytes", heading, (tag("p", _sums(told, sent)),), (figure,))


def time(story: Story) -> Section:
    """Seconds of the coordinator's wall clock, by phase."""
    heading, told = "Time by round", story.facts.rounds
    if not told:
        return Section("time", heading, (), (tag("p", "There was no round."),))
    groups = _groups(told)
    drawn = [_phases(group) for group in groups]
    highest = max(sum(value for _, value in one.parts) for one in drawn)
    sums = {phase: sum(one.phases.get(phase, 0.0) for one in told) for phase in PHASES}
    parts = [f"{PHASES[phase][0]} {numbers.duration(sums[phase])}" for phase in PHASES]
    said = f"In all: {', '.join(parts)}."
    axis = scale.of_amounts(highest, scale.SECONDS)
    drawing = plots.bars("time-plot", heading, said, _axis(told), axis, drawn)
    keys = [(phase, words) for phase, (_, words) in PHASES.items()]
    figure = plots.figure(drawing, plots.legend(*keys), said + _shared(groups))
    return Section("time", heading, (tag("p", _CLOCK),), (figure,))


def _sums(told: Group, sent: Mapping[int, int]) -> str:
    said = (
        f"In all the coordinator received {numbers.size(sum(r.received for r in told))} of replies"
    )
    said += f" and sent orders of {numbers.size(sum(sent.values()))}." if sent else "."
    unknown = [one.number for one in told if one.number not in sent]
    if len(unknown) == len(told):
        return f"{said} What it sent is not known."
    gap = f" What it sent is not known of rounds {numbers.ranges(unknown)}." if unknown else ""
    return said + gap


def _groups(told: Group) -> list[Group]:
    return [told[span.start : span.stop] for span in spans(len(told), BARS)]


def _axis(told: Group) -> scale.Axis:
    first, last = told[0].number, told[-1].number
    return plots.rounds_of(scale.of_rounds(first, last), first, last)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _bar(group: Group, kind: str, value: float) -> Stack:
    return Stack(
        group[0].number,
        group[-1].number,
        [(kind, value)],
        f"{_which(group)}: {kind} {numbers.size(value)}",
    )


def _phases(group: Group) -> Stack:
    means = [(p, _mean([one.phases.get(p, 0.0) for one in group])) for p in PHASES]
    said = ", ".join(f"{PHASES[phase][0]} {numbers.duration(value)}" for phase, value in means)
    return Stack(group[0].number, group[-1].number, means, f"{_which(group)}: {said}")


def _which(group: Group) -> str:
    first, last = group[0].number, group[-1].number
    void = ", void" if any(one.void for one in group) else ""
    return f"round {first}{void}" if first == last else f"rounds {first}–{last}, on average"


def _shared(groups: Sequence[Group]) -> str:
    many = len(groups[0])
    return f" Each bar is the mean of {many} rounds." if many > 1 else ""
