"""`docs/federation.md`, as it stands: founded, joined, agreed, trained, paused, renewed, revoked, left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from walkthrough_kit import Deed, File, Typed, Walk, hosts, steps

from barnraise.client import enrol
from barnraise.coordinator.journal import Journal
from barnraise.protocols.errors import BarnraiseError

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = ("basel", "bern", "jena")


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Walk]:
    monkeypatch.setenv("COLUMNS", "200")
    with hosts(MEMBERS) as (address, apart):
        walk = Walk(tmp_path, MEMBERS, address, apart)
        for member in MEMBERS:
            data = walk.home(member) / "data"
            data.mkdir()
            for path in sorted((ROOT / "coordinator").glob("[a-g]*.py")):
                (data / path.name).write_bytes(path.read_bytes())
        try:
            yield walk
        finally:
            walk.close()


def write(walk: Walk, file: File) -> None:
    """A file that the page shows, at whoever has such a directory."""
    for who in ("operator", *MEMBERS):
        path = walk.home(who) / file.path
        if path.parent.is_dir():
            text = file.text.replace("/srv/barnraise/data", str(walk.home(who) / "data"))
            path.write_text(text)


def renewed(node: Path) -> bool:
    """As the daemon does it, which tries again while the coordinator begins anew."""
    try:
        enrol.renew(node)
    except BarnraiseError as error:
        assert error.code == "N110", error
        return False
    return True


def do(walk: Walk, words: tuple[str, ...]) -> None:
    match words:
        case ("renew", member):
            node = walk.home(member) / "node"
            before = (node / "tls.crt").read_bytes()
            walk.until(lambda: renewed(node), "a certificate")
            assert (node / "tls.crt").read_bytes() != before
        case ("ended", member, code):
            status, said = walk.ended(f"{member} node")
            assert status == 1 and code in said
        case ("ended", member):
            status, said = walk.ended(f"{member} node")
            assert status == 0, said
        case _:
            raise AssertionError(words)


def test_the_page_is_what_happens(walk: Walk) -> None:
    for step in steps((ROOT / "docs/federation.md").read_text()):
        match step:
            case Typed():
                walk.type(step)
            case File():
                write(walk, step)
            case Deed():
                do(walk, step.words)
    check_log(walk.home("operator") / "neighbours")


def check_log(root: Path) -> None:
    """What the log holds afterwards, in sequence, the runs' own entries apart."""
    walk = root / "journal.db"
    with closing(Journal(walk)) as journal:
        entries = [e for _, e in journal.entries()]
    assert [e.type for e in entries[:5]] == [
        "federation.founded",
        *["member.enrolled"] * 3,
        "charter.adopted",
    ]
    signed = [e.body["member"] for e in entries if e.type == "charter.signed"]
    assert sorted(signed) == list(MEMBERS)
    stated = {e.body["member"]: e.body["open"] for e in entries if e.type == "data.stated"}
    assert stated == dict.fromkeys(MEMBERS, False)
    opened = [e.body for e in entries if e.type == "run.opened"]
    assert [b["agreement"] for b in opened] == [entries[4].body["agreement"]] * 2
    assert [e.type for e in entries[-2:]] == ["member.revoked", "member.left"]
    closed = [e.body["batch"] for e in entries if e.type == "batch.closed"]
    assert len(closed) == 2 * (1 + 3 + 2), json.dumps(closed)
