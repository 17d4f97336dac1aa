"""What members of a simulation state: from answers beside their data to the log, and into a release."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from statement_kit import CODE, MEMBER, OTHER, opened, private

from barnraise.builtin import charter_plan
from barnraise.coordinator.founding import Founding, Stating
from barnraise.coordinator.release.stated import statements_of
from barnraise.demo.federation import prepare
from barnraise.demo.text import PACKAGES
from barnraise.protocols.canonical import digest
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.log_rules import Rules

RUN = "00000000000000aa"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("demo") / "demo"
    prepare(home, None)
    return home


def test_the_demos_members_state_open_data_that_others_tools_read(demo: Path) -> None:
    import mlcroissant

    plan = charter_plan(demo / "charter.toml", demo / "data", {})
    assert plan.stating is not None
    stated = plan.stating()
    assert sorted(stated) == sorted(PACKAGES)
    assert plan.stating() == stated
    for member, one in stated.items():
        document = one.statement.document
        assert one.statement.open and list(one.code) == ["text.py"]
        files = {f["name"]: f["sha256"] for f in document["distribution"]}
        found = {
            p.relative_to(demo / "data" / member).as_posix(): p
            for p in (demo / "data" / member).rglob("*.py")
        }
        assert files == {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in found.items()}
        assert all(f["contentUrl"].endswith(f"/Lib/{f['name']}") for f in document["distribution"])
        dataset = mlcroissant.Dataset(jsonld=json.loads(one.statement.data))
        assert dataset.metadata.name == document["name"]


def test_a_member_alone_states_nothing_and_wrong_answers_are_refused(demo: Path) -> None:
    alone = charter_plan(demo / "alone.toml", demo / "data", {}, trainers=["basel"])
    assert alone.stating is None
    answers = demo / "data" / "basel.data.toml"
    said = answers.read_text()
    answers.write_text(said.replace("legal_basis", "# legal_basis"))
    plan = charter_plan(demo / "charter.toml", demo / "data", {})
    assert plan.stating is not None
    with pytest.raises(BarnraiseError) as caught:
        plan.stating()
    assert caught.value.code == "S103" and "legal_basis" in str(caught.value)
    answers.write_text(said)


def entries() -> tuple[list[Entry], dict[str, bytes]]:
    """Two members, of whom one states its data, then a run; and what the statement names."""
    data = {"basel": Stating(opened(), CODE)}
    founding = Founding("sim", b"stated", [OTHER, MEMBER], digest(b"app"), None, data)
    members = [[m.member.name, m.member.public_key.hex()] for m in (MEMBER, OTHER)]
    body = {"run": RUN, "federation": "sim", "members": members}
    app = {"name": "x", "digest": digest(b"app")}
    closed = {"run": RUN, "model": digest(b"m"), "named": True}
    later = Founding("sim", b"stated", [MEMBER], "", None, {"basel": Stating(private(), {})})
    facts = [
        *founding.facts(),
        ("run.opened", body | {"app": app}),
        ("run.closed", closed),
        later.facts()[-1],
    ]
    held = [opened().data, *CODE.values(), private().data]
    return [Entry(t, "2026-01-01T00:00:00Z", dict(b)) for t, b in facts], {
        digest(one): one for one in held
    }


def test_a_release_has_what_was_stated_before_its_run_was_closed() -> None:
    log, blobs = entries()
    rules = Rules(blobs.get)
    assert [why for i, e in enumerate(log) for why in rules.see(i, e.encode())] == []
    assert rules.data == {"basel": private().digest}
    found = statements_of(log, blobs.get, RUN)
    assert list(found) == ["basel"]
    assert found["basel"].statement == opened()
    assert found["basel"].code == CODE
    assert found["basel"].envelope == next(
        e.body["statement"] for e in log if e.type == "data.stated"
    )


@pytest.mark.parametrize("lost", ["the document", "the code"])
def test_what_is_not_there_any_more_is_damage(lost: str) -> None:
    log, blobs = entries()
    gone = opened().data if lost == "the document" else CODE["prepare.py"]
    del blobs[digest(gone)]
    with pytest.raises(BarnraiseError) as caught:
        statements_of(log, blobs.get, RUN)
    assert caught.value.code == "D106"
