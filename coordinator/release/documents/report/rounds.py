"""Section: what did not go as planned, as plainly as what did; and every round in a table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from barnraise.coordinator.release.documents.report import numbers
from barnraise.coordinator.release.documents.report.markup import Child, tag
from barnraise.coordinator.release.documents.report.section import Section, folded, table
from barnraise.coordinator.release.documents.report.story import Story, number
from barnraise.protocols.telling import RoundTold

MOST = 100
"""Rows of the table of incidents; of more the rest is counted."""

_Incident = tuple[str, str, str]  # what, member, why
_WORDS = {
    "void": "The round was void: too few replies counted, and the model stayed as it was.",
    "refused": "The reply was refused.",
    "late": "The reply came after its batch had closed, and did not count.",
    "absent": "No reply came in time.",
}
_ORDER = ("void", "refused", "late", "absent")


def rounds(story: Story) -> Section:
    """Incidents by kind, member and reason, with the rounds that each befell."""
    note = "A reply that is refused, late or missing does not stop a round as long as enough others count."
    found = _gathered(story)
    body: list[Child] = [tag("p", _summary(story), class_="verdict")]
    if found:
        shown = sorted(found, key=lambda one: (_ORDER.index(one[0]), one[1], found[one][0], one[2]))
        rows = [
            (what, who or "all", why, numbers.ranges(found[what, who, why]))
            for what, who, why in shown[:MOST]
        ]
        body.append(
            table(
                "What did not go as planned, and why",
                ("what", "member", "reason", "rounds"),
                rows,
                wide={2},
            )
        )
        if len(shown) > MOST:
            body.append(
                tag(
                    "p",
                    f"And {numbers.count(len(shown) - MOST)} more of these, which metrics.json lists.",
                )
            )
    body.append(folded(f"All {numbers.plural(len(story.facts.rounds), 'round')}", _all(story)))
    return Section("rounds", "Rounds", (tag("p", note),), body)


def _summary(story: Story) -> str:
    total, trained = sum(story.tally.values(), start=Counter()), story.trained
    good = [one for one in trained if not one.void and set(one.accepted) >= set(one.asked)]
    if not trained:
        return "No round was trained."
    if len(good) == len(trained) and not total["refused"] and not total["late"]:
        return f"In {_each(len(trained))} every reply that was asked for came, and counted."
    asked = f"{numbers.count(total['accepted'])} of {numbers.count(total['asked'])} replies counted"
    rest = ", ".join(
        f"{numbers.count(total[what])} {what}" for what in ("refused", "late", "absent")
    )
    void = (
        numbers.plural(len(story.void), "round")
        + f" of {len(trained)} {'was' if len(story.void) == 1 else 'were'} void"
    )
    return f"{asked}; {rest}. {void}."


def _each(many: int) -> str:
    return "the one round" if many == 1 else f"each of the {numbers.count(many)} rounds"


def _gathered(story: Story) -> Mapping[_Incident, list[int]]:
    found: defaultdict[_Incident, list[int]] = defaultdict(list)
    for one in story.facts.rounds:
        for incident in _incidents(one):
            found[incident].append(one.number)
    return found


def _incidents(one: RoundTold) -> Iterator[_Incident]:
    if one.void:
        yield "void", "", one.why or _WORDS["void"]
    for member, why in one.refused.items():
        yield "refused", member, why or _WORDS["refused"]
    for what, names in (("late", one.late), ("absent", one.absent)):
        for member in names:
            yield what, member, _WORDS[what]


def _all(story: Story) -> Child:
    measure = story.measure or "measure"
    return table(
        f"Every round; {measure} is over all members’ held-out data. metrics.json has each member’s.",
        ("round", measure, "counted", "refused", "late", "absent", "received", "seconds", ""),
        [_row(story, one) for one in story.facts.rounds],
        numeric=range(8),
        hidden={4, 6},
    )


def _row(story: Story, one: RoundTold) -> tuple[str, ...]:
    value = number(one.after.get(story.measure or "")) if one.members or not one.before else None
    return (
        str(one.number),
        numbers.NONE if value is None else numbers.measure(value),
        f"{len(one.accepted)} of {len(one.asked)}" if one.asked else numbers.NONE,
        str(len(one.refused)),
        str(len(one.late)),
        str(len(one.absent)),
        numbers.size(one.received),
        f"{sum(one.phases.values()):,.1f}",
        "void" if one.void else "",
    )
