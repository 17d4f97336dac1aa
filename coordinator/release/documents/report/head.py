"""The page's top: what was made, by whom, when; the figures that matter; how to verify."""

from __future__ import annotations

from barnraise.coordinator.release.documents.report import numbers
from barnraise.coordinator.release.documents.report.markup import Element, tag
from barnraise.coordinator.release.documents.report.story import Story
from barnraise.coordinator.release.facts import SIMULATION

_SIMULATED = (
    f"{SIMULATION} Its signatures show that the record is whole, not that institutions took part."
)


def top(story: Story) -> Element:
    """Title, summary, key figures, and the command to verify all of it."""
    facts = story.facts
    return tag(
        "header",
        tag("p", f"Release report · federation {facts.federation}", class_="eyebrow"),
        tag("h1", facts.title),
        tag("p", _lede(story), class_="lede"),
        tag("p", facts.terms.description) if facts.terms.description else None,
        tag("p", tag("strong", "Simulated. "), _SIMULATED) if story.simulated else None,
        tag("dl", [_figure(value, label) for value, label in _figures(story)], class_="figures"),
        _verify(story),
        class_="top",
    )


def _lede(story: Story) -> str:
    facts = story.facts
    size = f"{story.kind} of {numbers.large(facts.parameters)} parameters"
    rounds = len(story.trained)
    said = f"{numbers.word(rounds)} round{'' if rounds == 1 else 's'}"
    when = numbers.span(facts.opened_at, facts.closed_at)
    return f"{size}, trained in {said} {when} by {story.who}.{_void(story)}"


def _void(story: Story) -> str:
    many = len(story.void)
    if not many:
        return ""
    if many == 1:
        return f" Round {story.void[0]} was void: it left the model as it was."
    return f" {numbers.word(many).capitalize()} of the rounds were void: they left the model as it was."


def _figures(story: Story) -> list[tuple[str, str]]:
    facts, measured = story.facts, story.measured
    found: list[tuple[str, str]] = []
    if measured:
        first, last = measured[0], measured[-1]
        name = f"held-out {story.measure}" + (
            f", {story.unit}" if story.unit != story.measure else ""
        )
        before = (
            f"; {numbers.measure(first[1])} before training" if first[0] == 0 and last[0] else ""
        )
        found.append((numbers.measure(last[1]), name + before))
    found.append((numbers.count(len(facts.members)), f"members; {_signed(story)}"))
    good = len(story.trained) - len(story.void)
    found.append(
        (f"{numbers.count(good)} of {numbers.count(len(story.trained))}", "rounds gave a new model")
    )
    bytes_in = sum(one.received for one in facts.rounds)
    found.append((numbers.size(bytes_in), "received from members"))
    taken = numbers.seconds_between(facts.opened_at, facts.closed_at)
    if taken is not None:
        found.append((numbers.duration(taken), "from opening to close"))
    found.append((facts.licence or "none stated", "licence of the model"))
    return found


def _signed(story: Story) -> str:
    facts = story.facts
    if facts.agreement is None:
        return "no charter was signed"
    many = len(set(facts.signed))
    return "all signed the charter" if many == len(facts.members) else f"{many} signed the charter"


def _figure(value: str, label: str) -> Element:
    return tag("div", tag("dt", label), tag("dd", value, class_="figure-of"))


def _verify(story: Story) -> Element:
    facts = story.facts
    return tag(
        "div",
        tag(
            "p",
            "Nothing on this page needs to be believed. Beside this file lie the signed log, the model and"
            " what the members signed; this command holds them against each other, offline:",
        ),
        tag("code", facts.clause, class_="command"),
        tag(
            "p",
            f"model.safetensors, {numbers.size(facts.model_bytes)}, is ",
            tag("span", facts.model, class_="digest"),
        ),
        class_="verify",
    )


def contents(entries: list[tuple[str, str]]) -> Element:
    """Links to the sections: (id, heading)."""
    links = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading in entries]
    return tag("nav", tag("ul", links), aria_label="Contents")
