"""A federation's directory, its ledger, and the operator's decisions, without any port."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.coordinator import campaigns, proposals
from barnraise.coordinator.federation import DESCRIPTION, Description, Federation, found, opened
from barnraise.coordinator.ledger import LEFT, MEMBER, REVOKED, Standing
from barnraise.coordinator.lobby import Seen
from barnraise.coordinator.log_check import check_log
from barnraise.coordinator.operator import Operator, readiness
from barnraise.coordinator.proposals import Draft
from barnraise.coordinator.registry import Registry
from barnraise.coordinator.rounds import Decision
from barnraise.coordinator.word import Word
from barnraise.protocols import pki, statements
from barnraise.protocols.charter import Charter
from barnraise.protocols.errors import BarnraiseError


def code_of(act: object, *arguments: object) -> str:
    with pytest.raises(BarnraiseError) as error:
        act(*arguments)  # type: ignore[operator]
    return error.value.code


def enrol(federation: Federation, name: str, *, confirm: bool = False) -> Ed25519PrivateKey:
    key, tls = Ed25519PrivateKey.generate(), pki.new_tls_key()
    csr = pki.make_csr(tls, name)
    token = federation.authority.invite(name, time.time() + 60, f"{name} lab", confirm=confirm)
    public = key.public_key().public_bytes_raw()
    signature = pki.sign_csr(key, "enrol", csr)
    federation.authority.enrol(token, name, public, csr, signature)
    return key


# --- founding ------------------------------------------------------------------------------------


def test_a_federation_is_founded_once_and_its_log_begins_with_that(tmp_path: Path) -> None:
    said = found(tmp_path / "f", "neighbours", "train.example.org")
    assert (said.session, said.enrolment) == ("train.example.org:8440", "train.example.org:8441")
    assert said.listen == "0.0.0.0" and said.hosts == ("train.example.org",)
    assert Description.read(tmp_path / "f") == said
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o700
    assert code_of(found, tmp_path / "f", "neighbours", "train.example.org") == "F104"
    with opened(tmp_path / "f") as federation:
        (entry,) = [e for _, e in federation.journal.entries()]
        assert entry.type == "federation.founded"
        assert entry.body["log"] == federation.authority.vkey


def test_a_founding_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    first = found(tmp_path / "f", "neighbours", "127.0.0.1:9000")
    key = (tmp_path / "f" / "federation" / "log.key").read_bytes()
    (tmp_path / "f" / DESCRIPTION).unlink()
    assert found(tmp_path / "f", "neighbours", "127.0.0.1:9000") == first
    assert (tmp_path / "f" / "federation" / "log.key").read_bytes() == key
    with opened(tmp_path / "f") as federation:
        assert len(federation.journal) == 1


@pytest.mark.parametrize("host", ["", "a b", "host:0x1", "host:99999", "host:-1", "[::1"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, host: str) -> None:
    assert code_of(found, tmp_path / "f", "neighbours", host) == "F103"
    assert not (tmp_path / "f" / DESCRIPTION).exists()


def test_nothing_is_founded_where_something_else_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    assert code_of(found, tmp_path, "neighbours", "127.0.0.1") == "D101"
    assert code_of(lambda: opened(tmp_path).__enter__()) == "F101"
    assert code_of(found, tmp_path / "f", "No Name", "127.0.0.1") == "N117"
    assert code_of(found, tmp_path / "f", "sim", "127.0.0.1") == "N117"


def test_the_template_is_a_charter(tmp_path: Path) -> None:
    found(tmp_path / "f", "neighbours", "127.0.0.1:0")
    assert Charter.read(tmp_path / "f" / "charter.toml").name == "neighbours"


# --- the ledger ----------------------------------------------------------------------------------


def test_the_standing_is_a_fold_over_the_log(tmp_path: Path) -> None:
    found(tmp_path / "f", "neighbours", "127.0.0.1:0")
    with opened(tmp_path / "f") as federation:
        keys = {name: enrol(federation, name) for name in ("ada", "bob", "cyd")}
        operator = Operator(federation)
        for name in keys:
            operator.confirm(name)
            operator.confirm(name)
        operator.revoke("bob", "its disk was stolen")
        federation.ledger.left("cyd", statements.sign(keys["cyd"], "cyd", "leave", {}))
        kept = federation.ledger.read()
        assert list(kept.active()) == ["ada"]
        types = [entry.type for _, entry in federation.journal.entries()]
        assert types[1:] == ["member.enrolled"] * 3 + ["member.revoked", "member.left"]
    again = Standing()
    with opened(tmp_path / "f") as federation:
        for _, entry in federation.journal.entries():
            again.see(entry)
        assert again == kept == federation.ledger.read()
        said = {m["member"]: m["status"] for m in Operator(federation).members()["members"]}
        assert said == {"ada": MEMBER, "bob": REVOKED, "cyd": LEFT}
        assert (
            federation.authority.member(pki.fingerprint(bytes.fromhex(again.members["cyd"].key)))
            is None
        )


def test_what_a_killed_command_left_between_registry_and_log_is_put_on_record(
    tmp_path: Path,
) -> None:
    found(tmp_path / "f", "neighbours", "127.0.0.1:0")
    with opened(tmp_path / "f") as federation:
        enrol(federation, "ada")
        enrol(federation, "bob")
        federation.authority.revoke("bob")
    with opened(tmp_path / "f") as federation:
        assert list(federation.ledger.read().active()) == ["ada"]
        federation.authority.revoke("ada")
    with opened(tmp_path / "f") as federation:
        assert federation.ledger.read().members["ada"].status == REVOKED


def test_a_registry_of_an_older_barnraise_keeps_its_members(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "members.db")) as db, db:
        db.execute(
            "CREATE TABLE invites (token BLOB PRIMARY KEY, member TEXT NOT NULL,"
            " expires REAL NOT NULL, used_by TEXT) STRICT, WITHOUT ROWID"
        )
        db.execute(
            "CREATE TABLE members (fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL,"
            " identity_key BLOB NOT NULL, certificate BLOB, revoked REAL) STRICT, WITHOUT ROWID"
        )
        db.execute(
            "INSERT INTO members VALUES (?, 'ada', ?, NULL, NULL)", (pki.fingerprint(b"k"), b"k")
        )
    for _ in range(2):
        registry = Registry(tmp_path / "members.db")
        (record,) = registry.all()
        assert record.confirmed and [m.name for m in registry.members()] == ["ada"]
        registry.close()


# --- agreements and runs -------------------------------------------------------------------------


def test_a_run_is_created_once_its_quorum_has_signed_and_again_only_when_it_has_ended(
    tmp_path: Path,
) -> None:
    found(tmp_path / "f", "neighbours", "127.0.0.1:0")
    with opened(tmp_path / "f") as federation:
        draft = Draft.charter(federation.root / "charter.toml")
        assert code_of(proposals.propose, federation, draft) == "F114"
        key = enrol(federation, "ada")
        Operator(federation).confirm("ada")
        one = proposals.propose(federation, draft)
        assert proposals.propose(federation, draft) == one
        assert code_of(campaigns.create, federation, one) == "F110"
        payload = one.agreement.payload()
        federation.ledger.signed(one.digest, "ada", statements.sign(key, "ada", "charter", payload))
        run = campaigns.create(federation, one)
        assert run.name == "neighbours-1" and campaigns.open_run(federation) == run
        assert (run.root / "secret").stat().st_mode & 0o777 == 0o600
        assert code_of(campaigns.create, federation, one) == "F111"
        run.stopped(BarnraiseError("A201", "the ServerApp raised"))
        assert campaigns.state_of(federation, run) == campaigns.FAILED
        assert campaigns.create(federation, one) == run
        campaigns.abort(run, campaigns.log_of(federation, run))
        assert campaigns.state_of(federation, run) == campaigns.ABORTED
        assert check_log(federation.root).problems == []
        assert campaigns.create(federation, one).name == "neighbours-2"
        assert code_of(campaigns.named, federation, "nobody") == "F113"


def test_a_run_that_is_aborted_with_a_batch_open_leaves_a_log_that_holds_together(
    tmp_path: Path,
) -> None:
    found(tmp_path / "f", "neighbours", "127.0.0.1:0")
    with opened(tmp_path / "f") as federation:
        key = enrol(federation, "ada")
        Operator(federation).confirm("ada")
        one = proposals.propose(federation, Draft.charter(federation.root / "charter.toml"))
        payload = one.agreement.payload()
        federation.ledger.signed(one.digest, "ada", statements.sign(key, "ada", "charter", payload))
        run = campaigns.create(federation, one)
        conduct = campaigns.Conduct(federation, run, lambda _: None)
        log = campaigns.log_of(federation, run)
        order = {"content": "sha256:" + 64 * "0", "group": "", "members": ["ada"], "ttl": 9.0}
        sent = {"batch": 1, "kind": "send", "timeout": 9.0, "orders": [order | {"type": "train"}]}
        log.write(("run.opened", conduct._body(conduct.members)), ("batch.sent", sent))

        assert Operator(federation).abort() == {"run": "neighbours-1"}
        assert campaigns.state_of(federation, run) == campaigns.ABORTED
        seen = log.last("batch.closed")
        assert seen is not None and seen[1]["absent"] == ["ada"]
        problems = check_log(federation.root).problems
        assert not [p for p in problems if "never closed" in p], problems


def test_readiness_says_why_not() -> None:
    here = Seen("idle", "", 10.0, frozenset({"a"}))
    assert readiness(here, "a", True, 20.0) == ("ready", "")
    assert readiness(here, "b", True, 20.0)[0] == "refusing"
    assert readiness(here, "a", False, 20.0)[0] == "unsigned"
    assert readiness(Seen("held", "paused", 10.0), "a", True, 20.0) == ("held", "paused")
    assert readiness(Seen("absent", "", 10.0), "a", True, 20.0) == ("late", "absent since 10 s")
    assert readiness(Seen("absent", "", 0.0), "a", False, 20.0) == (
        "late",
        "never seen; has not signed",
    )


def test_the_operators_word_is_heeded_once_or_for_ever() -> None:
    word, waits = Word(), Decision(False, "1 of 3 have not answered")
    assert word.heeded(waits) is waits
    word.close()
    assert word.heeded(waits) == Decision(True, "closed by the operator")
    assert word.heeded(waits) is waits
    word.abort()
    for _ in range(2):
        assert code_of(word.heeded, waits) == "F115"
