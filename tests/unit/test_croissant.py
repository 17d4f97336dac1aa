"""Data statements: what one must have, who signs it, and that others' tools read it."""

from __future__ import annotations

import copy
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import statement_kit as kit

from barnraise.protocols import canonical, croissant, stating
from barnraise.protocols.croissant import MAX_DOCUMENT, CroissantFault, Statement
from barnraise.protocols.statements import StatementError

EXAMPLE = Path(__file__).parent / "vectors" / "croissant-private.json"
STATEMENTS = {"private": kit.private(), "open": kit.opened()}
REQUIRED = (
    "@context",
    "@type",
    "conformsTo",
    "name",
    "description",
    "license",
    "version",
    "url",
    "creator",
    "prov:wasGeneratedBy",
    "distribution",
    "fed:recordCount",
    "rai:dataCollection",
    "rai:personalSensitiveInformation",
    "rai:dataBiases",
    "rai:dataLimitations",
    "rai:dataUseCases",
    "rai:dataPreprocessingProtocol",
)


@pytest.mark.parametrize("kind", STATEMENTS)
def test_what_is_made_is_a_statement(kind: str) -> None:
    statement = STATEMENTS[kind]
    assert statement.open == (kind == "open")
    assert (statement.root is None) == statement.open
    assert Statement.read(statement.data) == statement


def test_the_example_is_a_statement() -> None:
    croissant.check(json.loads(EXAMPLE.read_bytes()))


@pytest.mark.parametrize("kind", [*STATEMENTS, "example"])
def test_mlcroissant_takes_it_without_a_network(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlcroissant

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(socket.socket, "connect", asked)
    held = EXAMPLE.read_bytes() if kind == "example" else STATEMENTS[kind].data
    dataset = mlcroissant.Dataset(jsonld=json.loads(held))
    assert dataset.metadata.ctx.issues.report() == ""
    assert dataset.metadata.name == json.loads(held)["name"]


@pytest.mark.parametrize("field", REQUIRED)
def test_a_field_that_is_missing_is_named(field: str) -> None:
    document = copy.deepcopy(dict(kit.private().document))
    del document[field]
    with pytest.raises(CroissantFault) as caught:
        croissant.check(document)
    assert field in str(caught.value)


def at(document: Any, path: str, value: Any) -> None:
    *folders, last = path.split("/")
    for part in folders:
        document = document[int(part) if part.isdigit() else part]
    document[last] = value


@pytest.mark.parametrize(
    ("kind", "path", "value", "named"),
    [
        ("private", "@context/@vocab", "http://schema.org/", "@vocab"),
        ("private", "@context/rai", "http://example.org/", "rai"),
        ("private", "@context/@base", "http://example.org/", "@base"),
        ("private", "conformsTo", ["http://mlcommons.org/croissant/1.0"], "conformsTo"),
        ("private", "name", "  ", "name"),
        ("private", "description", "x" * 20_001, "description"),
        ("private", "license", "whatever we like", "license"),
        ("private", "url", "file:///etc/passwd", "url"),
        ("private", "creator/name", "", "creator"),
        ("private", "rai:dataBiases", [], "rai:dataBiases"),
        ("private", "rai:dataBiases", [1], "rai:dataBiases"),
        ("private", "fed:recordCount", 0, "fed:recordCount"),
        ("private", "fed:recordCount", True, "fed:recordCount"),
        ("private", "fed:byteCount", -1, "fed:byteCount"),
        ("private", "fed:recordMerkleRoot", "1" * 64, "fed:recordMerkleRoot"),
        ("private", "prov:wasGeneratedBy/prov:label", "prepare.py", "prov:wasGeneratedBy"),
        ("open", "fed:recordMerkleRoot", "sha256:" + "1" * 64, "fed:recordMerkleRoot"),
        ("open", "distribution/1/sha256", "x" * 64, "distribution[1]"),
        ("open", "distribution/1/contentUrl", "two.py", "distribution[1]"),
        ("open", "distribution/1/@id", "file-1", "distribution[1]"),
        ("open", "distribution/0/name", "", "distribution[0]"),
        ("open", "fed:processingCode/0/name", "../x.py", "fed:processingCode"),
        ("open", "fed:processingCode", [], "prov:wasGeneratedBy"),
    ],
)
def test_a_field_that_is_wrong_is_named(kind: str, path: str, value: Any, named: str) -> None:
    document = copy.deepcopy(dict(STATEMENTS[kind].document))
    at(document, path, value)
    with pytest.raises(CroissantFault) as caught:
        croissant.check(document)
    assert named in str(caught.value)


def test_a_document_is_read_strictly() -> None:
    data = kit.private().data
    for other in (data + b"\n", data.replace(b'":', b'" :', 1), b"[]", b"", b"[" * 100_000):
        with pytest.raises(CroissantFault):
            Statement.read(other)
    with pytest.raises(CroissantFault, match="bytes"):
        Statement.read(b" " * (MAX_DOCUMENT + 1))


# --- signed --------------------------------------------------------------------------------------


def check(statement: Statement, envelope: Any, key: bytes = kit.MEMBER.member.public_key) -> None:
    stating.check_signed(key, "sim", "basel", statement.digest, statement.open, envelope)


@pytest.mark.parametrize("kind", STATEMENTS)
def test_a_signed_statement_verifies(kind: str) -> None:
    check(STATEMENTS[kind], kit.signed(STATEMENTS[kind]))


@pytest.mark.parametrize(
    "changed",
    [
        {"federation": "other"},
        {"member": "bern"},
        {"document": canonical.digest(b"other")},
        {"open": True},
        {"open": 0},
        {"more": "x"},
    ],
)
def test_a_statement_of_something_else_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(StatementError):
        check(kit.private(), kit.signed(kit.private(), **changed))


def test_a_signature_by_another_is_refused() -> None:
    with pytest.raises(StatementError):
        check(kit.private(), kit.signed(kit.private()), kit.OTHER.member.public_key)
    with pytest.raises(StatementError):
        check(kit.private(), kit.signed(kit.private(), kit.OTHER))


def test_code_is_what_the_statement_names() -> None:
    stating.check_code(kit.opened(), kit.CODE)
    for other in ({}, {"prepare.py": b"other"}, kit.CODE | {"more.py": b""}):
        with pytest.raises(CroissantFault, match=r"\.py"):
            stating.check_code(kit.opened(), other)
    with pytest.raises(CroissantFault, match="bytes"):
        stating.check_code(kit.opened(), {"prepare.py": b"x" * (stating.MAX_CODE + 1)})
