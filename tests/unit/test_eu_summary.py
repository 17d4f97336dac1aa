"""The summary of training content: the sections, what is stated, what is not, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import release_kit as kit

from barnraise.coordinator.release.documents.eu import BLANK, NONE, PATH, eu_summary
from barnraise.coordinator.release.facts import DataFacts, Facts

ALL = {
    "private": kit.private(),
    "open": kit.opened(),
    "mixed": kit.mixed(),
    "app": kit.flower_app(),
    "odd": kit.make(kit.ODD, "private"),
}
SECTIONS = ("1.1", "1.2", "1.3", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3.1", "3.2", "3.3")


def text(facts: Facts) -> str:
    made = eu_summary(facts)
    assert set(made) == {PATH}
    return made[PATH].decode()


def with_sources(facts: Facts, *sources: str) -> Facts:
    """The members' data, called after these sources."""
    members = []
    for member, source in zip(facts.members, sources, strict=True):
        assert member.data is not None
        document = {**member.data.document, "fed:sourceCategory": source}
        document |= {"fed:byteCount": 1000, "fed:recordKind": "document"}
        document |= {"fed:acquiredUntil": "2024-12-31", "inLanguage": ["it"]}
        members.append(replace(member, data=replace(member.data, document=document)))
    return replace(facts, members=tuple(members))


@pytest.mark.parametrize("name", ALL)
def test_it_has_every_section_once_and_the_same_bytes(name: str) -> None:
    said = text(ALL[name])
    assert said == text(ALL[name])
    assert tuple(re.findall(r"^### (\d\.\d) ", said, re.MULTILINE)) == SECTIONS
    assert [line for line in said.splitlines() if re.match("##? ", line)][1:] == [
        "## 1. General information",
        "## 2. List of data sources",
        "## 3. Data processing aspects",
    ]


def section(said: str, number: str) -> str:
    return re.split(r"^##+ ", said.partition(f"### {number} ")[2], flags=re.MULTILINE)[0]


def test_each_dataset_stands_under_what_its_member_calls_it() -> None:
    facts = with_sources(kit.private(), "public", "third-party", "synthetic", "own")
    said = text(facts)
    for number, name in (
        ("2.1", "basel"),
        ("2.2", "geneva"),
        ("2.5", "lausanne"),
        ("2.6", "zurich"),
    ):
        assert f"data/{name}.croissant.json" in section(said, number)
        assert said.count(f"data/{name}.croissant.json") == 1
    assert section(said, "2.3").strip().endswith(NONE)
    assert "4,800 records, 4,000 bytes, less than 1 billion tokens" in section(said, "1.3")
    assert "2024-12-31" in section(said, "1.3")
    assert "de, fr, it" in section(said, "1.3")


def test_what_nobody_states_is_blank() -> None:
    said = text(kit.flower_app())
    assert "No data statement" in said
    assert NONE not in said
    for number in ("1.3", *SECTIONS[3:]):
        assert BLANK in section(said, number)
    assert "tokens" not in said


def test_a_date_that_some_do_not_state_is_told_as_such() -> None:
    facts = with_sources(kit.private(), "own", "own", "own", "own")
    first = facts.members[0]
    assert first.data is not None
    document = {k: v for k, v in first.data.document.items() if k != "fed:acquiredUntil"}
    member = replace(first, data=DataFacts(first.data.digest, False, document))
    said = text(replace(facts, members=(member, *facts.members[1:])))
    assert "2024-12-31, as far as stated (3 of 4 members)" in said


def test_what_members_wrote_is_escaped() -> None:
    said = text(ALL["odd"])
    assert "<script>" not in said
    assert "\n# A heading" not in said
    assert re.search(r"(?<!\\)\]\(", said) is None
    rows = [line for line in said.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
