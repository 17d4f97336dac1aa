"""`data.stated` in a log: taken from a member of this moment, signed, once more for a later one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import statement_kit as kit

from barnraise.coordinator.founding import Founding
from barnraise.protocols import canonical
from barnraise.protocols.croissant import Statement
from barnraise.protocols.entries import Entry
from barnraise.protocols.log_rules import Rules

FACTS = Founding("sim", b"stated", [kit.MEMBER], canonical.digest(b"app"), None).facts()
KEY = kit.MEMBER.member.public_key.hex()


def stated(statement: Statement, **signed: Any) -> tuple[str, dict[str, Any]]:
    return "data.stated", {
        "member": "basel",
        "document": statement.digest,
        "open": statement.open,
        "statement": kit.signed(statement, **signed),
    }


def seen(*more: Any) -> tuple[Rules, list[str]]:
    rules = Rules({}.get)
    entries = [Entry(t, "2026-01-01T00:00:00Z", dict(b)).encode() for t, b in (*FACTS, *more)]
    return rules, [why for i, data in enumerate(entries) for why in rules.see(i, data)]


def test_the_last_statement_counts() -> None:
    rules, problems = seen(stated(kit.private()), stated(kit.opened()))
    assert problems == []
    assert rules.data == {"basel": kit.opened().digest}
    assert rules.named == [kit.opened().digest]
    assert rules.signatures == 2


def test_new_keys_have_stated_nothing() -> None:
    revoked = ("member.revoked", {"member": "basel", "key": KEY, "reason": "stolen"})
    key = kit.OTHER.member.public_key.hex()
    again = ("member.enrolled", {"member": "basel", "key": key, "organisation": ""})
    rules, problems = seen(stated(kit.private()), revoked, again)
    assert problems == []
    assert rules.data == {}


def _with(**changed: Any) -> Callable[[], Any]:
    def fact() -> Any:
        kind, body = stated(kit.private())
        return kind, body | changed

    return fact


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (_with(member="bern"), "bern is no member"),
        (_with(document="x"), "is no digest"),
        (_with(document=canonical.digest(b"other")), "another document"),
        (_with(open=True), "another open"),
        (_with(open=0), "whether it is open"),
        (_with(statement=kit.signed(kit.private(), kit.OTHER)), "signed as"),
        (lambda: stated(kit.private(), federation="other"), "another federation"),
        (lambda: stated(kit.private(), more="x"), "other fields"),
    ],
)
def test_what_is_no_statement_of_this_member_is_told(fact: Callable[[], Any], reason: str) -> None:
    rules, problems = seen(fact())
    assert any(reason in why for why in problems), problems
    assert rules.data == {}


def test_a_member_that_was_revoked_states_nothing() -> None:
    revoked = ("member.revoked", {"member": "basel", "key": KEY, "reason": "stolen"})
    assert seen(revoked, stated(kit.private()))[1] == ["data.stated: basel is no member"]
