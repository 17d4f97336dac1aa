"""`eu-summary.md`: a summary of training content. Pure.

It follows the sections of the template that the European Commission published in July 2025 for the public
summary of the training content of general-purpose AI models, and fills them from the charter and the members'
statements. What neither says is marked as not stated. Whether a summary is owed is for its reader to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from barnraise.coordinator.release.documents.markup import code, count, markdown, table
from barnraise.coordinator.release.facts import SIMULATION, DataFacts, Facts, MemberFacts

PATH = "eu-summary.md"
BLANK = "**not stated**"
NONE = "None, by the statements of the members."
_ABOUT = (
    "Follows the sections of the template that the European Commission published in July 2025 for the "
    "public summary of training content of general-purpose AI models. Filled from the federation's charter "
    "and the members' signed data statements (`data/`): that they are true is not known here. What they do "
    f"not say is marked {BLANK}."
)
MODALITIES = {"document": "text", "row": "tables of numbers"}
BILLION = 10**9
SOURCES: Mapping[str, tuple[str, ...]] = {
    "2.1": ("public",),
    "2.2": ("third-party",),
    "2.3": ("crawled",),
    "2.4": ("users",),
    "2.5": ("synthetic",),
    "2.6": ("own", "other", ""),
}
"""Which statements stand under which section, by what they call their source; "" says nothing of it."""
Stated = tuple[MemberFacts, DataFacts]


def eu_summary(facts: Facts) -> Mapping[str, bytes]:
    """The file, by its path."""
    stated = [(one, one.data) for one in facts.members if one.data is not None]
    silent = [one.name for one in facts.members if one.data is None]
    parts = [
        f"# Summary of training content: {markdown(facts.title)}",
        _ABOUT,
        *_general(facts, stated),
        *_sources(stated, silent),
        *_processing(stated),
    ]
    return {PATH: ("\n\n".join(parts) + "\n").encode()}


def _said(text: Any) -> str:
    """A text that somebody may have written."""
    return markdown(text) if isinstance(text, str) and text.strip() else BLANK


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _field(data: DataFacts, field: str) -> str:
    """A field of a statement, several texts of it in one."""
    return _said("; ".join(_texts(data.document.get(field))))


def _number(data: DataFacts, field: str) -> int | None:
    found = data.document.get(field)
    return found if type(found) is int and found >= 0 else None


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    return table(("", ""), rows)


# --- 1 -------------------------------------------------------------------------------------------


def _general(facts: Facts, stated: Sequence[Stated]) -> Iterator[str]:
    if facts.simulated:
        yield SIMULATION
    yield "## 1. General information"
    yield "### 1.1 Provider"
    members = [
        f"{markdown(one.organisation)} ({markdown(one.name)})"
        if one.organisation
        else markdown(one.name)
        for one in facts.members
    ]
    yield _rows(
        [
            ("Provider", f"the federation {markdown(facts.federation)}: {', '.join(members)}"),
            ("Contact", _said(facts.terms.contact)),
            ("Authorised representative in the Union", BLANK),
        ]
    )
    yield "### 1.2 Model"
    yield _rows(
        [
            ("Name", markdown(facts.title)),
            ("Version", code(facts.model)),
            ("Description", _said(facts.terms.description)),
            ("Licence", _said(facts.licence)),
            ("Trained from", _trained_from(facts)),
            ("Trained", f"from {markdown(facts.opened_at)} to {markdown(facts.closed_at)}"),
            ("Date of placement on the Union market", BLANK),
        ]
    )
    yield "### 1.3 Modalities, overall size and other characteristics of the training data"
    yield _rows(
        [
            *_modalities(stated),
            ("Latest date of acquisition", _latest(facts, stated)),
            ("Languages", _languages(facts, stated)),
            ("Continued to be trained on newer data", BLANK),
        ]
    )


def _trained_from(facts: Facts) -> str:
    if facts.charter is None:
        return BLANK
    init = facts.charter.model.init
    if init is None and facts.charter.task.own is not None:
        return f"weights that the task's own code makes, in `code/app/`; from which model: {BLANK}"
    if init is None:
        return "weights drawn at random; no other model"
    return f"{code(init)} in `code/app/`; of which model it is: {BLANK}"


def _modalities(stated: Sequence[Stated]) -> Iterator[tuple[str, str]]:
    found: dict[str, list[DataFacts]] = {}
    for _, data in stated:
        kind = data.document.get("fed:recordKind")
        found.setdefault(MODALITIES.get(str(kind), ""), []).append(data)
    if not found:
        yield "Modality", BLANK
        yield "Size", BLANK
    for modality, statements in sorted(found.items()):
        yield "Modality", modality or BLANK
        yield "Size", _size(modality, statements)


def _size(modality: str, statements: Sequence[DataFacts]) -> str:
    """Records and bytes; of text the template's range, where the bytes decide it: no token is shorter."""
    records = [_number(data, "fed:recordCount") for data in statements]
    sizes = [_number(data, "fed:byteCount") for data in statements]
    said = [
        BLANK if None in records else f"{sum(filter(None, records)):,} records",
        f"bytes: {BLANK}" if None in sizes else f"{sum(filter(None, sizes)):,} bytes",
    ]
    if modality == "text" and None not in sizes and sum(filter(None, sizes)) < BILLION:
        said.append("less than 1 billion tokens")
    return f"{', '.join(said)}, by {count(len(statements), 'statement')}"


def _latest(facts: Facts, stated: Sequence[Stated]) -> str:
    dates = [_texts(data.document.get("fed:acquiredUntil")) for _, data in stated]
    known = sorted(date for found in dates for date in found)
    if not known:
        return BLANK
    if len(known) < len(facts.members):
        return f"{markdown(known[-1])}, as far as stated ({len(known)} of {len(facts.members)} members)"
    return markdown(known[-1])


def _languages(facts: Facts, stated: Sequence[Stated]) -> str:
    said = set(facts.terms.languages)
    for _, data in stated:
        said |= set(_texts(data.document.get("inLanguage")))
    return ", ".join(markdown(one) for one in sorted(said)) or BLANK


# --- 2 -------------------------------------------------------------------------------------------


def _sources(stated: Sequence[Stated], silent: Sequence[str]) -> Iterator[str]:
    yield "## 2. List of data sources"
    if silent:
        names = ", ".join(markdown(name) for name in silent)
        yield f"No data statement, so that nothing is known of their data: {names}."
    titles = {
        "2.1": "Publicly available datasets",
        "2.2": "Private non-publicly available datasets obtained from third parties",
        "2.3": "Data crawled and scraped from online sources",
        "2.4": "User data",
        "2.5": "Synthetic data",
        "2.6": "Other sources of data",
    }
    for number, title in titles.items():
        yield f"### {number} {title}"
        under = [one for one in stated if _section(one[1]) == number]
        if not under:
            yield BLANK if silent else NONE
        for member, data in under:
            yield from _dataset(number, member, data)


def _section(data: DataFacts) -> str:
    source = data.document.get("fed:sourceCategory", "")
    return next((number for number, names in SOURCES.items() if source in names), "2.6")


def _dataset(number: str, member: MemberFacts, data: DataFacts) -> Iterator[str]:
    yield f"**{_field(data, 'name')}**, of {markdown(member.name)}: {_field(data, 'description')}"
    files = data.document.get("distribution")
    if data.open and isinstance(files, list):
        available = f"public: {count(len(files), 'file')}, each with its address and SHA-256"
    else:
        available = "not published; committed to record by record"
    rows = [
        ("Statement", code(f"data/{member.name}.croissant.json")),
        ("Availability", available),
        ("Address", _field(data, "url")),
        ("Licence or terms", _field(data, "license")),
        ("Records", _counted(data)),
        ("How collected", _field(data, "rai:dataCollection")),
        ("Period of collection", _field(data, "rai:dataCollectionTimeframe")),
        ("Legal basis", _field(data, "fed:legalBasis")),
        ("Personal or sensitive information", _field(data, "rai:personalSensitiveInformation")),
    ]
    if number == "2.2":
        rows.append(("Licensed commercially by rightsholders", BLANK))
    if number == "2.3":
        rows += [("Crawlers, and whose", BLANK), ("Domains crawled most", BLANK)]
    if number == "2.4":
        rows.append(("Services and products of the users", BLANK))
    if number == "2.5":
        rows.append(("Models that made the data", BLANK))
    if number == "2.6" and not data.document.get("fed:sourceCategory"):
        rows.append(("Kind of source", BLANK))
    yield _rows(rows)


def _counted(data: DataFacts) -> str:
    records = _number(data, "fed:recordCount")
    return BLANK if records is None else f"{records:,}"


# --- 3 -------------------------------------------------------------------------------------------


def _processing(stated: Sequence[Stated]) -> Iterator[str]:
    yield "## 3. Data processing aspects"
    for title, field in (
        (
            "3.1 Respect of reservation of rights from the text and data mining exception",
            "fed:rightsReservations",
        ),
        ("3.2 Removal of illegal content", "fed:illegalContent"),
        ("3.3 Other information: preparation of the data", "rai:dataPreprocessingProtocol"),
    ):
        yield f"### {title}"
        if not stated:
            yield BLANK
            continue
        yield _rows([(markdown(member.name), _field(data, field)) for member, data in stated])
