"""What a site states: of its data nothing but counts and one hash; answers, kept statements, openings."""

from __future__ import annotations

import json
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.client.data import answers as answering
from barnraise.client.data import kept, made
from barnraise.client.data.answers import Answers
from barnraise.client.data.made import Made
from barnraise.client.data.quotes import PIECE, SURE, Quotes
from barnraise.client.data.reading import Reading, reading_of
from barnraise.client.keys import Membership, NodeKeys
from barnraise.protocols import notes, stating
from barnraise.protocols.charter import TaskSection
from barnraise.protocols.croissant import Statement
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import simulated_key

TEXT = TaskSection(name="causal-lm")
ROWS = TaskSection(name="classification", features=2, classes=2)
OWN = TaskSection(name="mine:Task")
SALT = b"s" * 32
SAID: dict[str, Any] = {
    "title": "Notes",
    "description": "Notes of one ward.",
    "organisation": "A ward",
    "licence": "CC-BY-4.0",
    "url": "https://ward.example",
    "collected": "On paper.",
    "source": "own",
    "sensitive": ["Health"],
    "biases": ["One ward"],
    "limitations": ["None known"],
    "use_cases": ["Tests"],
    "preprocessing": ["none"],
    "legal_basis": "Consent",
}
SECRETS = {
    "a-name-nobody-may-see.txt": "Rosalind was admitted with a fever that nobody could explain.",
    "two.jsonl": '{"text": "Her neighbour, of the same age, had the very same one a week later."}\n'
    '{"text": "short"}\n',
}


def answered(**changed: Any) -> Answers:
    return Answers.model_validate(SAID | changed)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, text in SECRETS.items():
        (folder / name).write_text(text)
    return folder


def statement_of(data: Path, section: TaskSection = TEXT, **changed: Any) -> Made:
    return made.made(data, reading_of(section), answered(**changed), data.parent, SALT)


def refused(code: str, act: Callable[[], Any]) -> BarnraiseError:
    with pytest.raises(BarnraiseError) as caught:
        act()
    assert caught.value.code == code, caught.value
    return caught.value


# --- what is stated ------------------------------------------------------------------------------


def test_of_private_data_there_are_counts_and_one_hash(data: Path) -> None:
    one = statement_of(data)
    document = one.statement.document
    assert (one.statement.open, one.statement.records, one.code) == (False, 3, {})
    assert document["fed:byteCount"] == sum(
        len(t) for t in (SECRETS["a-name-nobody-may-see.txt"], "short")
    ) + len(json.loads(SECRETS["two.jsonl"].splitlines()[0])["text"])
    said = one.statement.data.decode()
    for secret in ("Rosalind", "fever", "neighbour", "short", "nobody-may-see", "two.jsonl"):
        assert secret not in said
    assert str(data) not in said


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5), st.binary(min_size=32))
@settings(deadline=None, max_examples=30)
def test_no_record_enters_a_private_statement(records: list[bytes], salt: bytes) -> None:
    """Two sets of records of the same number and length give documents that differ in the root alone."""

    def document(each: list[bytes]) -> dict[str, Any]:
        reading = Reading("document", "bytes", lambda _: iter(each), lambda _: iter(()))
        held = made.made(Path(), reading, answered(), Path(), salt)
        return dict(held.statement.document)

    one, other = document(records), document([bytes(len(record)) for record in records])
    assert one.pop("fed:recordMerkleRoot") and other.pop("fed:recordMerkleRoot")
    assert one == other


def test_the_same_again_is_the_same_and_another_salt_another_root(data: Path) -> None:
    assert statement_of(data) == statement_of(data)
    other = made.made(data, reading_of(TEXT), answered(), data.parent, b"t" * 32)
    assert other.statement.root != statement_of(data).statement.root


@pytest.mark.parametrize(
    "key", ["description", "collected", "biases", "legal_basis", "organisation"]
)
def test_an_answer_that_quotes_the_data_is_refused(data: Path, key: str) -> None:
    long = (
        "It was a long and quiet night, and the ward slept, all but the nurse who wrote this down."
    )
    (data / "long.txt").write_text(f"Notes: {long} The end.")
    for quoted in (f"For example: {long}", "Such as: " + SECRETS["a-name-nobody-may-see.txt"]):
        value: Any = [quoted] if isinstance(SAID[key], list) else quoted
        error = refused("S105", lambda value=value: statement_of(data, **{key: value}))
        assert key in str(error)
        assert "nurse" not in str(error) and "Rosalind" not in str(error)


@given(st.binary(min_size=SURE, max_size=300), st.data())
@settings(deadline=None, max_examples=60)
def test_any_quotation_that_is_long_enough_is_found(text: bytes, draw: st.DataObject) -> None:
    said = text.decode("latin-1")
    encoded = said.encode()
    start = draw.draw(st.integers(0, len(encoded) - SURE))
    record = b"<" + encoded[start : start + SURE] + b">"
    assert Quotes({"key": said}).found_in(record) == "key"
    assert PIECE * 2 - 1 == SURE


def test_open_data_are_named_file_by_file_with_their_code(data: Path) -> None:
    (data.parent / "prepare.py").write_bytes(b"pass\n")
    (data / "sub dir").mkdir()
    (data / "sub dir" / "three.txt").write_text("Another one")
    one = statement_of(
        data,
        open={
            "address": "https://ward.example/{path}",
            "files": {"two.jsonl": "https://x.example"},
        },
        processing_code=["prepare.py"],
    )
    files = {f["name"]: f["contentUrl"] for f in one.statement.document["distribution"]}
    assert files == {
        "a-name-nobody-may-see.txt": "https://ward.example/a-name-nobody-may-see.txt",
        "sub dir/three.txt": "https://ward.example/sub%20dir/three.txt",
        "two.jsonl": "https://x.example",
    }
    assert one.statement.records == 4
    stating.check_code(one.statement, one.code)
    assert one.code == {"prepare.py": b"pass\n"}
    refused("S106", lambda: statement_of(data, open={"files": {"two.jsonl": "https://x.example"}}))
    refused("S104", lambda: statement_of(data, open={"address": "file:///{path}"}))
    refused("S107", lambda: statement_of(data, processing_code=["gone.py"]))


def test_rows_and_files_are_records_too(data: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "one.csv").write_text("b,a,label\n1,2,0\n3,4,1\n")
    np.savez(rows / "two.npz", x=np.array([[5.0, 6.0]]), y=np.array([1]))
    records = list(reading_of(ROWS).records(rows))
    assert [np.frombuffer(r[:8], "<f4").tolist() for r in records] == [[2, 1], [4, 3], [5, 6]]
    assert [int.from_bytes(r[8:], "little") for r in records] == [0, 1, 1]
    assert statement_of(rows, ROWS).statement.document["fed:recordKind"] == "row"
    (data / ".hidden").write_text("x")
    (data / "link").symlink_to(data / "two.jsonl")
    assert statement_of(data, OWN).statement.records == 2
    assert list(reading_of(None).records(data)) == [SECRETS[n].encode() for n in sorted(SECRETS)]
    refused("D201", lambda: statement_of(tmp_path / "nowhere", OWN))


# --- answers -------------------------------------------------------------------------------------


def test_a_draft_asks_for_everything_and_is_not_enough(tmp_path: Path) -> None:
    path = tmp_path / "data.toml"
    answering.draft(path, open_=True)
    asked = tomllib.loads(path.read_text())
    assert set(asked) == set(Answers.model_fields)
    error = refused("S103", lambda: answering.read(path))
    for key in ("title", "sensitive", "legal_basis", "open.address"):
        assert f"{key} is blank" in str(error)
    path.write_text(path.read_text() + "more = 1\n")
    refused("S102", lambda: answering.read(path))
    path.write_bytes(b"\xff")
    refused("S102", lambda: answering.read(path))
    refused("S102", lambda: answering.read(tmp_path / "gone.toml"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("licence", "whatever we like"),
        ("url", "ward"),
        ("until", "last year"),
        ("sensitive", [""]),
        ("open", {"address": "https://ward.example"}),
    ],
)
def test_an_answer_of_another_form_is_named(key: str, value: Any) -> None:
    assert any(key in fault for fault in answered(**{key: value}).faults())
    assert answered().faults() == []


# --- kept ----------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    node = tmp_path / "node"
    NodeKeys.given(node, simulated_key(SALT, "basel"), SALT)
    log = notes.verifier_key("neighbours/log", bytes(32))
    Membership("neighbours", "basel", "127.0.0.1:1", "127.0.0.1:2", log).write(node)
    for name in ("ca.crt", "tls.crt"):
        (node / name).touch()
    return node


def test_what_is_signed_is_there_until_the_coordinator_has_it(home: Path, data: Path) -> None:
    assert kept.pending(home) is None and kept.as_dict(home) is None
    one = statement_of(data)
    stored = kept.keep(home, one, data, TEXT, 5.0)
    key = NodeKeys.open(home).public_key
    said = (one.statement.digest, False, dict(stored.envelope))
    stating.check_signed(key, "neighbours", "basel", *said)
    assert kept.pending(home) == stored
    assert kept.keep(home, one, data, TEXT, 9.0) == stored
    kept.has(home, one.statement.digest)
    assert kept.pending(home) is None
    assert kept.as_dict(home) == {
        "document": one.statement.digest,
        "at": 5.0,
        "open": False,
        "records": 3,
        "told": True,
    }
    (data / "more.txt").write_text("One more")
    later = kept.keep(home, statement_of(data), data, TEXT, 10.0)
    assert kept.pending(home) == later != stored
    assert later.section == TEXT


def test_the_salt_is_secret_and_made_once(home: Path) -> None:
    salt = kept.salt(home)
    assert salt == kept.salt(home) and len(salt) == 32
    path = home / kept.FOLDER / "salt.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    refused("N115", lambda: kept.salt(home))


def test_what_was_changed_on_disk_is_damaged(home: Path, data: Path) -> None:
    stored = kept.keep(home, statement_of(data), data, TEXT, 5.0)
    document = home / kept.FOLDER / stored.statement.digest[7:] / "croissant.json"
    document.write_bytes(document.read_bytes().replace(b"One ward", b"Two ward"))
    refused("D106", lambda: kept.current(home))
    (home / kept.FOLDER / kept.CURRENT).write_text('{"document": "../../x"}')
    refused("D106", lambda: kept.current(home))


# --- opened --------------------------------------------------------------------------------------


def opened(data: Path, statement: Statement, *chosen: int) -> Any:
    return made.opening(data, reading_of(TEXT), statement, SALT, chosen)


def test_what_is_opened_is_what_was_stated_and_no_more(data: Path) -> None:
    statement = statement_of(data).statement
    assert statement.root is not None
    opening = opened(data, statement, 2, 0, 0)
    opening.check(statement.digest, statement.records, statement.root)
    assert [one.record for one in opening.records] == [
        SECRETS["a-name-nobody-may-see.txt"].encode(),
        b"short",
    ]
    assert b"neighbour" not in b"".join(one.record for one in opening.records)
    for wrong in (3, -1):
        refused("S108", lambda wrong=wrong: opened(data, statement, wrong))
    (data / "two.jsonl").write_text(SECRETS["two.jsonl"].replace("short", "other"))
    refused("S109", lambda: opened(data, statement, 0))
    public = statement_of(data, open={"address": "https://ward.example/{path}"}).statement
    refused("S108", lambda: opened(data, public, 0))
