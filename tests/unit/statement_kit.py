"""Data statements to test with: a private one, an open one, and the member that signs them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from barnraise.coordinator.local import LocalMember
from barnraise.protocols import statements, stating
from barnraise.protocols.croissant import Statement
from barnraise.protocols.stating import Counted, File, Told

TOLD = Told(
    name="Ward notes",
    description="De-identified notes of one ward.",
    licence="https://basel.example/terms",
    organisation="Basel University Hospital",
    url="https://basel.example/notes",
    version="1.0.0",
    collected="Extract of the ward's records.",
    sensitive=("Health",),
    biases=("A single site",),
    limitations=("Not for clinical decisions",),
    use_cases=("Training",),
    preprocessing=("De-identified",),
    source="third-party",
    legal_basis="Broad consent",
    published="2026-01-15",
    since="2019-01-01",
    until="2024-12-31",
    languages=("de-CH",),
)
CODE = {"prepare.py": b"print('prepared')\n"}
DIGESTS = {path: hashlib.sha256(data).hexdigest() for path, data in CODE.items()}
COUNTED = Counted("document", "the document's bytes", 3, 120, "sha256:" + "1" * 64)
FILES = (
    File("a b/one.txt", "https://basel.example/a%20b/one.txt", "2" * 64, 60),
    File("two.py", "https://basel.example/two.py", "3" * 64, 60),
)
MEMBER = LocalMember.simulated(b"stated", "basel", {})
OTHER = LocalMember.simulated(b"stated", "bern", {})


def private(**changed: Any) -> Statement:
    return Statement.of(stating.build(replace(TOLD, **changed), COUNTED, DIGESTS))


def opened(**changed: Any) -> Statement:
    told = replace(TOLD, licence="Python-2.0", **changed)
    return Statement.of(stating.build(told, replace(COUNTED, root=""), DIGESTS, FILES))


def signed(
    statement: Statement,
    by: LocalMember = MEMBER,
    federation: str = "sim",
    **changed: Any,
) -> dict[str, Any]:
    """The DSSE envelope of `by` over the statement."""
    name = by.member.name
    payload = stating.payload(federation, name, statement) | changed
    return statements.sign(by.key, name, "data", payload)
