"""A member states its data over the wire: taken once, verified, kept; anything else leaves no trace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from floor_kit import SOON, House, refusal

from barnraise.coordinator import stating as taking
from barnraise.coordinator.log_check import check_log
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import statements, stating
from barnraise.protocols.croissant import MAX_DOCUMENT, Statement
from barnraise.protocols.stating import Counted, File, Told

TOLD = Told(
    name="Notes",
    description="Notes of one ward.",
    licence="CC-BY-4.0",
    organisation="A ward",
    url="https://ward.example",
    version="1",
    collected="On paper.",
    sensitive=("none",),
    biases=("One ward",),
    limitations=("None known",),
    use_cases=("Tests",),
    preprocessing=("none",),
)
CODE = {"prepare.py": b"pass\n"}
DIGESTS = {path: hashlib.sha256(data).hexdigest() for path, data in CODE.items()}
PRIVATE = Counted("document", "bytes", 3, 120, "sha256:" + "1" * 64)
FILE = File("one.txt", "https://ward.example/one.txt", "2" * 64, 120)


def private(**changed: Any) -> Statement:
    return Statement.of(stating.build(replace(TOLD, **changed), PRIVATE, DIGESTS))


def opened() -> Statement:
    return Statement.of(stating.build(TOLD, replace(PRIVATE, root=""), DIGESTS, [FILE]))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as made:
        yield made


def message(
    house: House, statement: Statement, by: str = "ada", name: str = "ada", **changed: Any
) -> pb.DataStatement:
    payload = stating.payload("neighbours", name, statement) | changed
    said = statements.sign(house.members[by].key, name, "data", payload)
    code = CODE if statement.open else {}
    return pb.DataStatement(
        statement=json.dumps(said).encode(),
        document=statement.data,
        code=[pb.CodeFile(path=p, data=d) for p, d in code.items()],
    )


def test_a_statement_is_on_record_once_and_a_later_one_takes_its_place(house: House) -> None:
    state = house.membership("ada").StateData
    for statement in (private(), private(), opened(), opened()):
        state(message(house, statement), timeout=SOON)
    entries = [e for _, e in house.federation.journal.entries() if e.type == "data.stated"]
    assert [e.body["document"] for e in entries] == [private().digest, opened().digest]
    assert [e.body["open"] for e in entries] == [False, True]
    assert house.federation.ledger.read().data == {"ada": opened().digest}
    kept = house.federation.blobs.kept
    assert kept(private().digest).read_bytes() == private().data
    assert kept(f"sha256:{DIGESTS['prepare.py']}").read_bytes() == CODE["prepare.py"]
    assert check_log(house.root).problems == []


def wrong(house: House) -> Iterator[pb.DataStatement]:
    """Each is refused; what is changed is said beside it."""
    one, files = private(), [pb.CodeFile(path="prepare.py", data=b"pass\n")]
    yield message(house, one, by="bob")
    yield message(house, one, name="bob", by="bob")
    yield message(house, one, federation="others")
    yield message(house, one, member="bob")
    yield message(house, one, open=True)
    yield message(house, one, more="1")
    good = message(house, one)
    yield pb.DataStatement(statement=b"{", document=one.data)
    yield pb.DataStatement(statement=b" " * (1 << 15), document=one.data)
    yield pb.DataStatement(statement=good.statement, document=private(version="2").data)
    yield pb.DataStatement(statement=good.statement, document=one.data + b"\n")
    yield pb.DataStatement(statement=good.statement, document=one.data, code=files)
    said = dict(one.document)
    del said["license"]
    lacking = Statement(json.dumps(said, sort_keys=True, separators=(",", ":")).encode(), said)
    yield message(house, replace(lacking, document={**said, "distribution": []}))
    yield pb.DataStatement(statement=good.statement, document=b" " * (MAX_DOCUMENT + 1))
    published = message(house, opened())
    yield pb.DataStatement(statement=published.statement, document=opened().data)
    yield pb.DataStatement(
        statement=published.statement,
        document=opened().data,
        code=[pb.CodeFile(path="prepare.py", data=b"other")],
    )
    yield pb.DataStatement(
        statement=published.statement, document=opened().data, code=[*files, *files]
    )


def test_whatever_is_no_statement_of_the_caller_is_refused(house: House) -> None:
    state, before = house.membership("ada").StateData, house.types()
    blobs = sorted((house.root / "blobs").rglob("*"))
    for said in wrong(house):
        assert refusal(state, said) == ("INVALID_ARGUMENT", "F117"), said.document[:80]
    assert house.types() == before
    assert sorted((house.root / "blobs").rglob("*")) == blobs


def test_what_is_larger_than_a_message_never_arrives(house: House) -> None:
    said = message(house, opened())
    said.code.add(path="large.py", data=bytes(2 << 20))
    assert refusal(house.membership("ada").StateData, said)[0] == "RESOURCE_EXHAUSTED"


def test_a_member_cannot_fill_the_disk_with_statements(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "MOST", 2)
    state = house.membership("bob").StateData
    for version in "12":
        state(message(house, private(version=version), "bob", "bob"), timeout=SOON)
    last = message(house, private(version="3"), "bob", "bob")
    assert refusal(state, last) == ("INVALID_ARGUMENT", "F117")
    state(message(house, private(version="2"), "bob", "bob"), timeout=SOON)


def test_who_was_revoked_states_nothing(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        state = house.membership("ada").StateData
        house.operator.revoke("ada")
        assert refusal(state, message(house, private()))[1] == "N201"
        assert "data.stated" not in house.types()
