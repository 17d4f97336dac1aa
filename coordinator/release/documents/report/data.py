"""Section: what each member states of its data. Statements are quoted, not believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barnraise.coordinator.release.documents.report import numbers
from barnraise.coordinator.release.documents.report.markup import Child, Element, tag
from barnraise.coordinator.release.documents.report.section import Section, pairs
from barnraise.coordinator.release.documents.report.story import Story
from barnraise.coordinator.release.facts import DataFacts, MemberFacts

LONGEST = 400
"""Characters of a quoted text; the statement itself has the rest."""

_KEPT = (
    "No private record is in a statement: it gives counts, and a salted Merkle root with which chosen"
    " records can later be opened to an auditor."
)


def data(story: Story) -> Section:
    """One card each: open or private, counts, licence, what the member says of bias and limits."""
    stated = [one for one in story.facts.members if one.data is not None]
    opened = sum(one.data.open for one in stated if one.data)
    many = len(story.facts.members)
    note = f"{len(stated)} of {many} members made a signed statement; {opened} of these are of open data."
    note = note if stated else "No member made a statement of its data."
    notes = [
        tag("p", note),
        tag("p", _KEPT) if opened < len(stated) else None,
        tag(
            "p",
            "A statement is the member’s word. Verifying shows who signed it, not that it is true.",
        ),
    ]
    cards = tag("ul", [_card(one) for one in story.facts.members], class_="tiles")
    return Section("data", "Data", notes, (cards,))


def _card(member: MemberFacts) -> Element:
    if member.data is None:
        return tag(
            "li", tag("h3", member.name), tag("p", "No statement of its data.", class_="text soft")
        )
    document, found = member.data.document, member.data
    said = _text(document.get("description")) or _text(document.get("name"))
    return tag(
        "li",
        tag("h3", member.name),
        tag("p", "Open data" if found.open else "Private data", class_="soft"),
        tag("p", said, class_="text") if said else None,
        pairs(
            ("records", _records(document)),
            ("files", numbers.count(len(files)))
            if (files := _list(document.get("distribution")))
            else None,
            ("licence", _text(document.get("license")) or "none stated"),
            *_declared(document),
        ),
        tag("p", tag("span", _statement(member.name, found), class_="digest"), class_="soft text"),
    )


def _statement(name: str, found: DataFacts) -> str:
    return f"data/{name}.croissant.json {found.digest}"


def _records(document: Mapping[str, Any]) -> str:
    for key, value in document.items():
        if key.rpartition(":")[2] == "recordCount" and type(value) is int and value >= 0:
            return numbers.count(value)
    return "not stated"


def _declared(document: Mapping[str, Any]) -> list[tuple[str, Child]]:
    asked = (
        ("personal data", "rai:personalSensitiveInformation"),
        ("known bias", "rai:dataBiases"),
        ("limits", "rai:dataLimitations"),
    )
    found = [(label, _text(document.get(key))) for label, key in asked]
    return [(label, text) for label, text in found if text]


def _text(value: Any) -> str:
    """What a JSON-LD value says in words: of a list all of it, of a language map one, of a thing its name."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"
    if isinstance(value, list | tuple):
        return _text("; ".join(filter(None, map(_text, value))))
    if isinstance(value, Mapping):
        named = [value[key] for key in ("name", "@value", "en", "url", "@id") if key in value]
        return _text(named[0]) if named and isinstance(named[0], str) else ""
    return ""


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
