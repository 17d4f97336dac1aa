"""How a data statement is made, and what a member signs of it. Pure.

Of the data nothing can enter a statement but counts and digests: `build` is given nothing else, beside the
words of a person. It knows no file and no task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from barnraise.protocols import canonical, statements
from barnraise.protocols.croissant import (
    CONTEXT,
    CROISSANT,
    RAI,
    RAI_TEXT,
    CroissantFault,
    Processing,
    Statement,
    processing_digest,
)
from barnraise.protocols.statements import StatementError
from barnraise.protocols.values import is_licence, shortened

MAX_CODE = 1 << 19
"""Bytes of all processing code of one statement together: with its document it is one message."""
_SIMPLE_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


@dataclass(frozen=True)
class Told:
    """What only a person can say. Texts; lists of texts; "" and () where nothing was said.

    `licence` is an SPDX expression or the address of the terms, `url` where people read about the data,
    `until` the date up to which they were acquired, `languages` BCP 47 tags.
    """

    name: str
    description: str
    licence: str
    organisation: str
    url: str
    version: str
    collected: str
    sensitive: Sequence[str]
    biases: Sequence[str]
    limitations: Sequence[str]
    use_cases: Sequence[str]
    preprocessing: Sequence[str]
    source: str = ""
    legal_basis: str = ""
    access: str = ""
    reservations: str = ""
    illegal_content: str = ""
    published: str = ""
    since: str = ""
    until: str = ""
    languages: Sequence[str] = ()


@dataclass(frozen=True)
class Counted:
    """What was counted: records of a kind ("document", "row", "file"), their bytes, the form in which a
    record is a leaf of the tree, and the tree's root (a digest; "" for open data)."""

    kind: str
    form: str
    records: int
    bytes: int
    root: str = ""


@dataclass(frozen=True)
class File:
    """A file of open data: its path, where it can be had, its SHA-256 (hex) and length in bytes."""

    path: str
    url: str
    sha256: str
    bytes: int


def build(
    told: Told, counted: Counted, code: Processing, files: Sequence[File] = ()
) -> dict[str, Any]:
    """The document. With `files` the data are open, and the code is named file by file."""
    document: dict[str, Any] = {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": [CROISSANT, RAI],
        "name": told.name,
        "description": told.description,
        "license": licence_url(told.licence),
        "url": told.url,
        "version": told.version,
        "citeAs": f"{told.organisation}, {told.name}, version {told.version}.",
        "creator": {"@type": "sc:Organization", "name": told.organisation},
        "isAccessibleForFree": bool(files),
        "prov:wasGeneratedBy": {"@type": "prov:Activity", "prov:label": _label(code)},
        "fed:recordKind": counted.kind,
        "fed:recordCount": counted.records,
        "fed:byteCount": counted.bytes,
        "distribution": [_distributed(n, file) for n, file in enumerate(files, 1)],
    }
    for ours, theirs in RAI_TEXT.items():
        said = getattr(told, ours)
        document[theirs] = said if isinstance(said, str) else list(said)
    optional = {
        "datePublished": told.published,
        "conditionsOfAccess": told.access,
        "inLanguage": list(told.languages),
        "rai:dataCollectionTimeframe": [date for date in (told.since, told.until) if date],
        "fed:acquiredUntil": told.until,
        "fed:sourceCategory": told.source,
        "fed:legalBasis": told.legal_basis,
        "fed:rightsReservations": told.reservations,
        "fed:illegalContent": told.illegal_content,
    }
    document |= {key: value for key, value in optional.items() if value}
    if files:
        document["fed:processingCode"] = [
            {"@type": "sc:SoftwareSourceCode", "name": path, "sha256": code[path]}
            for path in sorted(code)
        ]
    else:
        document |= {"fed:recordMerkleRoot": counted.root, "fed:recordForm": counted.form}
    return document


def licence_url(licence: str) -> str:
    """SPDX's page of a licence that is named by one identifier; whatever else was written as it is."""
    if is_licence(licence) and _SIMPLE_LICENCE.fullmatch(licence):
        return f"https://spdx.org/licenses/{licence}.html"
    return licence


def _label(code: Processing) -> str:
    names = sorted(code)
    said = names[0] if len(names) == 1 else f"{len(names) or 'no'} files of processing code"
    return f"{said} {processing_digest(code)}"


def _distributed(number: int, file: File) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": f"file-{number}",
        "name": file.path,
        "contentUrl": file.url,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": _format(file.path),
        "sha256": file.sha256,
    }


def _format(path: str) -> str:
    known = {"py": "text/x-python", "csv": "text/csv", "jsonl": "application/jsonlines"}
    known |= {"txt": "text/plain", "md": "text/markdown", "rst": "text/x-rst"}
    return known.get(path.rpartition(".")[2], "application/octet-stream")


# --- signed --------------------------------------------------------------------------------------


def payload(federation: str, member: str, statement: Statement) -> dict[str, Any]:
    """What a member signs, as DSSE kind "data"."""
    return signed_payload(federation, member, statement.digest, statement.open)


def signed_payload(federation: str, member: str, document: str, open_: bool) -> dict[str, Any]:
    """The same, of a document by its digest."""
    return {"federation": federation, "member": member, "document": document, "open": open_}


def check_signed(
    key: bytes, federation: str, member: str, document: str, open_: bool, envelope: Any
) -> None:
    """`StatementError` unless the envelope is this member's signature under this document."""
    said = statements.verify(key, member, "data", envelope)
    wanted = signed_payload(federation, member, document, open_)
    for field, value in wanted.items():
        if said.get(field) is not value and said.get(field) != value:
            raise StatementError(f"it names another {field}")
    if said.keys() != wanted.keys() or type(said["open"]) is not bool:
        raise StatementError("it has other fields than a data statement's")


def check_code(statement: Statement, code: Mapping[str, bytes]) -> None:
    """`CroissantFault` unless these are the files of processing code that the statement names."""
    if sum(map(len, code.values())) > MAX_CODE:
        raise CroissantFault(f"its processing code has more than {MAX_CODE} bytes")
    found = {path: canonical.digest(data)[7:] for path, data in code.items()}
    if found != dict(statement.code):
        wrong = sorted(set(found.items()) ^ set(statement.code.items()))[0][0]
        raise CroissantFault(f"its processing code is not what it names: {shortened(wrong)}")
