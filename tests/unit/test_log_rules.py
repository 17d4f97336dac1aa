"""The rules of the log: a good log passes, and each thing that could be wrong with one is told."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from barnraise.coordinator.founding import Founding
from barnraise.coordinator.local import LocalMember
from barnraise.protocols import canonical, statements
from barnraise.protocols.entries import MAX_ENTRY, Entry
from barnraise.protocols.identity import order_id
from barnraise.protocols.log_rules import Rules
from barnraise.protocols.statements import NO_POLICY

Fact = tuple[str, dict[str, Any]]
Facts = list[Fact]

SECRET, RUN, OTHER_RUN = b"rules", "00000000000000aa", "00000000000000bb"
APP = canonical.digest(b"app")
MEMBERS = [LocalMember.simulated(SECRET, name, {}) for name in ("basel", "cusco")]
KEYS = {m.member.name: m for m in MEMBERS}
FOUNDING = Founding("sim", SECRET, MEMBERS, APP, "[model]\n")
BLOBS = {FOUNDING.agreed: FOUNDING.agreement.encode()} if FOUNDING.agreement else {}


def ordered(name: str, batch: int, run: str = RUN) -> str:
    return order_id(run, batch, name, "train", "", content("model"), 0)


def content(what: str) -> str:
    return canonical.digest(what.encode())


def reply(name: str, batch: int, run: str = RUN, signer: str = "") -> dict[str, Any]:
    order = ordered(name, batch, run)
    said = statements.reply_payload("sim", run, order, content(name), NO_POLICY)
    statement = statements.sign(KEYS[signer or name].key, name, "reply", said)
    return {
        "run": run,
        "batch": batch,
        "order": order,
        "member": name,
        "content": content(name),
        "statement": statement,
    }


def sent(batch: int, run: str = RUN, members: tuple[str, ...] = ("basel", "cusco")) -> Fact:
    group = {"type": "train", "group": "", "content": content("model"), "members": list(members)}
    return "batch.sent", {"run": run, "batch": batch, "kind": "send", "orders": [group]}


def opened(run: str = RUN) -> Fact:
    members = [[m.member.name, m.member.public_key.hex()] for m in MEMBERS]
    body = {"federation": "sim", "app": {"name": "x", "digest": APP}, "members": members}
    return "run.opened", {"run": run, "agreement": FOUNDING.agreed, **body}


def closed(batch: int, accepted: tuple[str, ...], absent: tuple[str, ...] = ()) -> Fact:
    counted = {ordered(name, batch): content(name) for name in accepted}
    body = {"accepted": counted, "set_aside": {}, "absent": list(absent), "void": False}
    return "batch.closed", {"run": RUN, "batch": batch, "reason": "all answered", **body}


def sealed(number: int, batches: int) -> Fact:
    body = {"round": number, "model": content("m"), "content": content("c"), "open": []}
    return "round.sealed", {"run": RUN, "batches": batches, **body}


def good() -> Facts:
    """Two rounds: in the second, cusco's reply comes late."""
    refused = {"code": "M106", "reason": "not finite", **reply("cusco", 1)}
    late = {"code": "M110", "reason": "late", **reply("cusco", 2)}
    return [
        *((t, dict(b)) for t, b in FOUNDING.facts()),
        opened(),
        ("roster.seen", {"run": RUN, "members": ["basel", "cusco"]}),
        sent(1),
        ("reply.accepted", reply("basel", 1)),
        ("reply.refused", refused),
        closed(1, ("basel",)),
        sealed(1, 1),
        sent(2),
        ("reply.accepted", reply("basel", 2)),
        closed(2, ("basel",), ("cusco",)),
        ("reply.late", late),
        sealed(2, 2),
        ("run.closed", {"run": RUN, "model": content("m"), "named": True}),
    ]


def encoded(facts: Facts) -> list[bytes]:
    return [Entry(t, "2026-01-01T00:00:00Z", b).encode() for t, b in facts]


def problems(entries: list[bytes]) -> list[str]:
    rules = Rules(BLOBS.get)
    return [why for i, data in enumerate(entries) for why in rules.see(i, data)]


def test_a_good_log_has_nothing_wrong() -> None:
    rules = Rules(BLOBS.get)
    assert [why for i, data in enumerate(encoded(good())) for why in rules.see(i, data)] == []
    assert rules.signatures == 2 + 2
    assert rules.federation == "sim" and set(rules.witnesses) == {"basel", "cusco"}


def at(facts: Facts, type_: str, nth: int = 0) -> int:
    return [i for i, fact in enumerate(facts) if fact[0] == type_][nth]


def change(type_: str, key: str, value: Any, nth: int = 0) -> Callable[[Facts], None]:
    def act(facts: Facts) -> None:
        facts[at(facts, type_, nth)][1][key] = value

    return act


def drop(type_: str, nth: int = 0) -> Callable[[Facts], None]:
    return lambda facts: facts.pop(at(facts, type_, nth)) and None


def again(type_: str, nth: int = 0, where: int = 1) -> Callable[[Facts], None]:
    def act(facts: Facts) -> None:
        index = at(facts, type_, nth)
        facts.insert(index + where, copy.deepcopy(facts[index]))

    return act


def replace(type_: str, fact: Fact, nth: int = 0) -> Callable[[Facts], None]:
    def act(facts: Facts) -> None:
        facts[at(facts, type_, nth)] = fact

    return act


def after(type_: str, fact: Fact, nth: int = 0) -> Callable[[Facts], None]:
    return lambda facts: facts.insert(at(facts, type_, nth) + 1, fact)


def from_another_run() -> Fact:
    """A reply of this run's order, whose statement was made for the same order of another run."""
    body = reply("basel", 1)
    body["statement"] = reply("basel", 1, OTHER_RUN)["statement"]
    return "reply.accepted", body


def from_another_round() -> Fact:
    body = reply("basel", 2)
    body["statement"] = reply("basel", 1)["statement"]
    return "reply.accepted", body


def another_content() -> Fact:
    return "reply.accepted", {**reply("basel", 1), "content": content("another")}


WRONG: dict[str, tuple[Callable[[Facts], Any], str]] = {
    "no founding": (drop("federation.founded"), "a log begins with federation.founded"),
    "founded twice": (again("federation.founded"), "and has no other"),
    "another log's key": (
        change("federation.founded", "log", "sim/log+00000000+AAAA"),
        "its log's key is",
    ),
    "enrolled twice": (again("member.enrolled"), "basel is a member already"),
    "revoked without keys": (
        after(
            "member.enrolled", ("member.revoked", {"member": "basel", "key": "00", "reason": ""})
        ),
        "basel is no member with these keys",
    ),
    "left by another's word": (
        after(
            "member.enrolled",
            (
                "member.left",
                {
                    "member": "basel",
                    "key": KEYS["basel"].member.public_key.hex(),
                    "statement": statements.sign(
                        KEYS["cusco"].key,
                        "basel",
                        "leave",
                        {"federation": "sim", "member": "basel"},
                    ),
                },
            ),
        ),
        "not by this member's identity key",
    ),
    "an agreement that is not there": (
        change("charter.adopted", "agreement", content("none")),
        "is not there",
    ),
    "another charter": (change("charter.adopted", "charter", content("x")), "another charter"),
    "signed twice": (again("charter.signed"), "basel has signed it before"),
    "a charter signed by another": (
        change("charter.signed", "member", "cusco"),
        "signed as 'basel', not as 'cusco'",
    ),
    "too few signatures": (drop("charter.signed"), "1 have signed, 2 must"),
    "a run opened twice": (again("run.opened"), "was opened before"),
    "an invented member": (
        change("run.opened", "members", [["mallory", "00" * 32]]),
        "mallory is no member with these keys",
    ),
    "another app": (
        change("run.opened", "app", {"name": "x", "digest": content("x")}),
        "agreed on was",
    ),
    "another federation": (change("run.opened", "federation", "other"), "of the federation other"),
    "a run never opened": (drop("run.opened"), "was never opened"),
    "a roster of strangers": (
        change("roster.seen", "members", ["mallory"]),
        "mallory is no member of the run",
    ),
    "an order to a stranger": (
        replace("batch.sent", sent(1, members=("mallory",))),
        "mallory is no member of the run",
    ),
    "a batch left out": (drop("batch.sent"), "no batch 1 was sent"),
    "a batch sent twice": (again("batch.sent"), "batch 1 follows batch 1"),
    "a verdict on no order": (
        change("reply.accepted", "order", ordered("basel", 7)),
        "no order",
    ),
    "a verdict on another's order": (
        change("reply.refused", "order", ordered("basel", 1)),
        "was sent to cusco",
    ),
    "two verdicts": (again("reply.accepted"), "a verdict on the order"),
    "accepted after the close": (again("batch.closed", where=-1), "was closed before"),
    "late before the close": (
        after("batch.sent", ("reply.late", reply("cusco", 2)), 1),
        "batch 2 was not closed",
    ),
    "a reply signed by another": (
        replace("reply.accepted", ("reply.accepted", reply("basel", 1, signer="cusco"))),
        "not by this member's identity key",
    ),
    "a reply that nobody signed": (change("reply.accepted", "statement", None), "DSSE"),
    "a statement of another run": (
        replace("reply.accepted", from_another_run()),
        "its statement names another run",
    ),
    "a statement of another round": (
        replace("reply.accepted", from_another_round(), 1),
        "its statement names another order",
    ),
    "another content": (
        replace("reply.accepted", another_content()),
        "its statement names another content",
    ),
    "a contribution invented": (
        replace("batch.closed", closed(1, ("basel", "cusco"))),
        "other contributions than were accepted",
    ),
    "a contribution left out": (
        replace("batch.closed", closed(1, ())),
        "other contributions than were accepted",
    ),
    "set aside what never came": (
        change("batch.closed", "set_aside", {ordered("cusco", 1): "odd"}),
        "sets aside what was not accepted",
    ),
    "silence invented": (
        replace("batch.closed", closed(1, ("basel",), ("cusco",))),
        "other members as silent",
    ),
    "a seal out of sequence": (change("round.sealed", "round", 1, 1), "round 1 follows round 1"),
    "a seal over other batches": (change("round.sealed", "batches", 9), "on 9 batches of 1"),
    "a seal over open batches": (change("round.sealed", "open", [4]), "are not open"),
    "closed with an open batch": (drop("batch.closed", 1), "batch 2 was never closed"),
    "anything after the end": (again("run.closed"), "was closed before"),
    "a field that is missing": (lambda f: f[at(f, "batch.sent")][1].pop("orders"), "has no orders"),
    "a field of another kind": (change("batch.sent", "orders", 5), "not of the kind"),
    "a body that is not there": (
        replace("batch.sent", ("batch.sent", {"run": RUN, "blob": content("gone")})),
        "its body is not there",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_its_reason(name: str) -> None:
    act, reason = WRONG[name]
    facts = copy.deepcopy(good())
    act(facts)
    found = problems(encoded(facts))
    assert any(reason in why for why in found), found


def test_revoked_keys_never_come_back() -> None:
    key = KEYS["basel"].member.public_key.hex()
    gone = ("member.revoked", {"member": "basel", "key": key, "reason": "left"})
    facts = [*good()[:2], gone, good()[1]]
    assert any("were revoked before" in why for why in problems(encoded(facts)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"type":"run.opened","time":"t","body":{}}', "RFC 8785"),
        (b'{"body":{},"time":"t","type":"run.invented"}', "unknown type"),
        (b'{"body":{},"time":"t"}', "other fields"),
        (b"{", "not JSON"),
        (b" " * (MAX_ENTRY + 1), "the limit is 65535"),
        (b'{"body":{},"time":1,"type":"run.opened"}', "time is not text"),
    ],
)
def test_what_is_no_entry_is_told(data: bytes, reason: str) -> None:
    assert any(reason in why for why in problems([*encoded(good())[:3], data]))


def test_a_body_that_was_too_large_is_read_from_its_blob() -> None:
    facts = good()
    index = at(facts, "batch.sent")
    body = canonical.canonical(facts[index][1])
    name = canonical.digest(body)
    facts[index] = ("batch.sent", {"run": RUN, "blob": name})
    rules = Rules({**BLOBS, name: body}.get)
    assert [w for i, data in enumerate(encoded(facts)) for w in rules.see(i, data)] == []
    other = canonical.canonical({**json.loads(body), "run": OTHER_RUN})
    facts[index] = ("batch.sent", {"run": RUN, "blob": canonical.digest(other)})
    rules = Rules({**BLOBS, canonical.digest(other): other}.get)
    found = [w for i, data in enumerate(encoded(facts)) for w in rules.see(i, data)]
    assert any("its body is of another run" in why for why in found)


# --- a run in which nobody signs ----------------------------------------------------------------------


def unsigned() -> Facts:
    """What Flower's own engines leave: members without keys, replies without statements."""
    about = {"federation": "sim", "app": {"name": "x", "digest": APP}, "agreement": ""}
    members = [["basel", ""], ["cusco", ""]]
    return [
        FOUNDING.facts()[0],
        ("run.opened", {"run": RUN, **about, "members": members, "unsigned": True}),
        sent(1),
        ("reply.accepted", {**reply("basel", 1), "statement": None}),
        closed(1, ("basel",), ("cusco",)),
    ]


def test_an_unsigned_run_is_counted_and_has_no_witnesses() -> None:
    rules = Rules(BLOBS.get)
    assert [why for i, d in enumerate(encoded(unsigned())) for why in rules.see(i, d)] == []
    assert (rules.signatures, rules.unsigned, rules.witnesses) == (0, 1, {})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (change("run.opened", "members", [["basel", "ab" * 32], ["cusco", ""]]), "has a key"),
        (change("run.opened", "agreement", FOUNDING.agreed), "names an agreement"),
        (change("reply.accepted", "statement", reply("basel", 1)["statement"]), "says it is"),
        (change("run.opened", "unsigned", False), "no member with these keys"),
    ],
)
def test_what_may_be_wrong_with_an_unsigned_run(wrong: Callable[[Facts], None], said: str) -> None:
    facts = unsigned()
    wrong(facts)
    assert said in problems(encoded(facts))[0]


def test_a_run_that_is_signed_takes_no_reply_without_a_statement() -> None:
    facts = good()
    change("reply.accepted", "statement", None)(facts)
    assert problems(encoded(facts))
