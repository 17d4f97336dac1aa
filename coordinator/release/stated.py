"""The members' data statements as a release holds them: facts for the documents, and files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from barnraise.coordinator.release.facts import DataFacts
from barnraise.coordinator.release.source import Source
from barnraise.coordinator.release.write import Held
from barnraise.protocols import files
from barnraise.protocols.canonical import canonical, digest
from barnraise.protocols.croissant import CroissantFault, Statement
from barnraise.protocols.entries import Entry

Blob = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Stated:
    """By member, and by path in the release."""

    facts: Mapping[str, DataFacts] = field(default_factory=dict)
    files: Mapping[str, Held] = field(default_factory=dict)


@dataclass(frozen=True)
class OnRecord:
    """A member's statement: the document, its DSSE envelope, and the processing code of open data."""

    statement: Statement
    envelope: Mapping[str, Any]
    code: Mapping[str, bytes]


def statements_of(entries: Iterable[Entry], blob: Blob, run: str) -> dict[str, OnRecord]:
    """The last statement of each of the run's members before the run was closed. Raises D106."""
    last: dict[str, Mapping[str, Any]] = {}
    members: list[str] = []
    for entry in entries:
        if entry.type == "data.stated":
            last[entry.body["member"]] = entry.body
        elif entry.type == "member.enrolled":
            last.pop(entry.body["member"], None)
        elif entry.body.get("run") == run and entry.type == "run.opened":
            members = [name for name, _ in entry.body["members"]]
        elif entry.body.get("run") == run and entry.type == "run.closed":
            break
    return {name: _on_record(last[name], blob) for name in sorted(members) if name in last}


def _on_record(body: Mapping[str, Any], blob: Blob) -> OnRecord:
    try:
        statement = Statement.read(_held(body["document"], blob))
    except CroissantFault as error:
        raise files.damaged(f"{body['document']} is no data statement", str(error)) from None
    code: dict[str, bytes] = {}
    if statement.open:
        code = {path: _held(f"sha256:{name}", blob) for path, name in statement.code.items()}
    return OnRecord(statement, body["statement"], code)


def _held(name: str, blob: Blob) -> bytes:
    data = blob(name)
    if data is None or digest(data) != name:
        raise files.damaged(
            f"{name} is damaged", "a data statement's, and it is not there, or other"
        )
    return data


def statements(source: Source, entries: Iterable[Entry]) -> Stated:
    """What a release has of them, by those of the log's entries that tell of it. Raises D106."""
    found = statements_of(entries, source.shelf.read, source.run)
    facts: dict[str, DataFacts] = {}
    held: dict[str, Held] = {}
    for name, one in found.items():
        document = one.statement
        facts[name] = DataFacts(document.digest, document.open, document.document)
        held[f"data/{name}.croissant.json"] = document.data
        held[f"data/{name}.statement.json"] = canonical(dict(one.envelope))
        for path, data in one.code.items():
            held[f"code/processing/{name}/{path}"] = data
    return Stated(facts, held)
