"""`report.html`: one page for a board, a journalist and an engineer. It loads nothing and runs nothing.

markup, style, numbers      how it is written      scale, thin, plots      how it is drawn
story                       what sections ask of the facts                 section      what they are made of
head, learning, together, members, rounds, traffic, work, data, terms, checking        the sections
"""

from __future__ import annotations

from collections.abc import Mapping

from barnraise.coordinator.release.documents.report import checking, head, style, terms, traffic
from barnraise.coordinator.release.documents.report.data import data
from barnraise.coordinator.release.documents.report.learning import loss
from barnraise.coordinator.release.documents.report.markup import Element, page, tag
from barnraise.coordinator.release.documents.report.members import members
from barnraise.coordinator.release.documents.report.rounds import rounds
from barnraise.coordinator.release.documents.report.section import Section
from barnraise.coordinator.release.documents.report.story import Story
from barnraise.coordinator.release.documents.report.together import together
from barnraise.coordinator.release.documents.report.work import work
from barnraise.coordinator.release.facts import Facts

PATH = "report.html"


def report(facts: Facts) -> Mapping[str, bytes]:
    """The page, by its path. The same facts give the same bytes."""
    story = Story(facts)
    sections = _sections(story)
    title = f"{facts.title}: release report"
    root = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("title", title),
            tag("style", style.sheet()),
        ),
        tag(
            "body",
            head.top(story),
            head.contents([(one.name, one.heading) for one in sections]),
            tag("main", [one.drawn() for one in sections]),
            _foot(),
        ),
        lang="en",
    )
    return {PATH: page(root)}


def _sections(story: Story) -> list[Section]:
    drawn = [
        loss(story),
        together(story),
        members(story),
        rounds(story),
        work(story),
        data(story),
        traffic.traffic(story),
        traffic.time(story),
        terms.charter(story),
        checking.limits(story),
        terms.technical(story),
    ]
    return [one for one in drawn if one is not None]


def _foot() -> Element:
    said = (
        "Made by barnraise release from the federation’s record; the numbers by round stand in"
        " metrics.json too, and the same record gives the same page. It loads nothing from elsewhere"
        " and runs no script."
    )
    return tag("footer", tag("p", said))
