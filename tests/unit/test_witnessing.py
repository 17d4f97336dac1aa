"""What a member demands of the log: any honest history passes, and whatever is turned in it does not."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.protocols import merkle, notes, statements, witnessing
from barnraise.protocols.canonical import canonical, digest
from barnraise.protocols.entries import Entry
from barnraise.protocols.identity import order_id
from barnraise.protocols.notes import Checkpoint
from barnraise.protocols.witnessing import Approved, Misconduct, OrderSeen, Shown

KEY = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
ME = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
ORIGIN, RUN, CONTENT = "barn/log", "a1b2c3d4e5f60718", digest(b"content")
VKEY = notes.verifier_key(ORIGIN, KEY.public_key().public_bytes_raw())
MINE = ME.public_key().public_bytes_raw()
MEMBERS = {"basel": MINE.hex(), "cusco": "c" * 64, "leiden": "d" * 64}
APPROVED = Approved("basel", MINE, "barn", RUN, "sha256:app", MEMBERS)
OURS = Approved("basel", MINE, "barn", RUN, "sha256:app", MEMBERS, one_content=True)

Nodes = dict[tuple[int, int], bytes]


def tree(entries: list[bytes]) -> Nodes:
    frontier, nodes = merkle.Frontier(), {}
    for entry in entries:
        for level, index, value in frontier.append(merkle.leaf_hash(entry)):
            nodes[level, index] = value
    return nodes


def head(nodes: Nodes, size: int) -> Checkpoint:
    return Checkpoint(ORIGIN, size, merkle.root_of(lambda level, index: nodes[level, index], size))


def path(nodes: Nodes, one: int, other: int) -> list[bytes]:
    low, high = sorted((one, other))
    return merkle.consistency_path(lambda level, index: nodes[level, index], low, high)


def code_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(Misconduct) as caught:
        call(*arguments)
    assert caught.value.what
    return caught.value.code


def code_or_none(call: Any, *arguments: Any) -> str | None:
    try:
        call(*arguments)
    except Misconduct as misconduct:
        return misconduct.code
    return None


# --- the log ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "needed"),
    [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (10, 7), (100, 67)],
)
def test_the_quorum(members: int, needed: int) -> None:
    assert witnessing.quorum(members) == needed


@given(st.integers(1, 500))
def test_any_two_quorums_share_an_honest_member(members: int) -> None:
    faulty = (members - 1) // 3
    assert 2 * witnessing.quorum(members) - members > faulty
    assert witnessing.quorum(members) <= members


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=4), min_size=1, max_size=40), st.data())
def test_any_two_states_of_one_log_are_one_log_and_the_newer_is_kept(
    entries: list[bytes], data: st.DataObject
) -> None:
    nodes = tree(entries)
    one, other = (head(nodes, data.draw(st.integers(0, len(entries)))) for _ in range(2))
    proof = path(nodes, one.size, other.size)
    assert witnessing.step(one, other, proof) == max(one, other, key=lambda c: c.size)
    assert witnessing.step(None, one, ()) == one


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=4), min_size=2, max_size=40), st.data())
def test_any_entry_that_changes_after_it_was_seen_is_noticed(
    entries: list[bytes], data: st.DataObject
) -> None:
    seen = data.draw(st.integers(1, len(entries)))
    shown = data.draw(st.integers(1, len(entries)))
    changed = list(entries)
    changed[data.draw(st.integers(0, min(seen, shown) - 1))] += b"!"
    ours, theirs = tree(entries), tree(changed)
    for proof in (path(ours, seen, shown), path(theirs, seen, shown), []):
        expected = "N310" if shown >= seen else "N311"
        assert code_of(witnessing.step, head(ours, seen), head(theirs, shown), proof) == expected


def test_a_log_that_lost_entries_went_back() -> None:
    nodes = tree([b"a", b"b", b"c", b"d"])
    assert code_of(witnessing.step, head(nodes, 4), head(nodes, 3), []) == "N311"
    assert witnessing.step(head(nodes, 4), head(nodes, 3), path(nodes, 3, 4)) == head(nodes, 4)


def shown(nodes: Nodes, index: int, entry: bytes, size: int, body: bytes = b"") -> Shown:
    proof = merkle.inclusion_path(lambda level, i: nodes[level, i], index, size)
    return Shown(b"", 0, (), index, tuple(proof), entry, body)


ENTRY = Entry("batch.closed", "2026-01-01T00:00:00Z", {"run": RUN, "batch": 1}).encode()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.data())
def test_any_entry_that_is_in_the_log_is_proved_and_any_bit_of_it_matters(
    size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    entries = [ENTRY if i == index else b"%d" % i for i in range(size)]
    nodes = tree(entries)
    good = shown(nodes, index, ENTRY, size)
    assert witnessing.included(good, head(nodes, size)).body["batch"] == 1
    at = data.draw(st.integers(0, 8 * len(ENTRY) - 1))
    flipped = bytearray(ENTRY)
    flipped[at // 8] ^= 1 << at % 8
    bad = Shown(b"", 0, (), index, good.inclusion, bytes(flipped))
    assert code_of(witnessing.included, bad, head(nodes, size)) == "N312"
    if good.inclusion:
        bad = Shown(b"", 0, (), index, good.inclusion[1:], ENTRY)
        assert code_of(witnessing.included, bad, head(nodes, size)) == "N312"


def test_a_body_that_was_too_large_is_read_from_the_blob_that_its_entry_names() -> None:
    body = canonical({"run": RUN, "batch": 7})
    entry = Entry("batch.sent", "", {"run": RUN, "blob": digest(body)}).encode()
    nodes = tree([entry])
    found = witnessing.included(shown(nodes, 0, entry, 1, body), head(nodes, 1))
    assert found.body == {"run": RUN, "batch": 7}
    for other in (b"", b"{}", canonical({"run": "other", "batch": 7})):
        wrong = shown(nodes, 0, entry, 1, other)
        assert code_of(witnessing.included, wrong, head(nodes, 1)) == "N312"


def test_a_checkpoint_by_another_key_is_none() -> None:
    note = notes.sign_checkpoint(KEY, Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT))
    assert witnessing.opened(note, VKEY).size == 0
    assert code_of(witnessing.opened, notes.sign_checkpoint(ME, head({}, 0)), VKEY) == "N312"
    assert code_of(witnessing.opened, note[:-2], VKEY) == "N312"


# --- what entries must say ------------------------------------------------------------------------------


def entry(type_: str, **body: Any) -> Entry:
    return Entry(type_, "2026-01-01T00:00:00Z", {"run": RUN, **body})


def opening(**changed: Any) -> Entry:
    body = {"federation": "barn", "app": {"digest": "sha256:app"}, "members": list(MEMBERS.items())}
    return entry("run.opened", **{**body, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "another"},
        {"federation": "another"},
        {"app": {"digest": "sha256:another"}},
        {"app": {}},
        {"members": [*MEMBERS.items(), ("mallory", "e" * 64)]},
        {"members": [("basel", MINE.hex()), ("cusco", "e" * 64)]},
        {"members": [("cusco", "c" * 64)]},
        {"members": [("basel", "e" * 64)]},
        {"members": [*MEMBERS.items(), ("basel", MINE.hex())]},
        {"members": "basel"},
        {"members": None},
    ],
    ids=str,
)
def test_a_run_that_is_opened_otherwise_than_approved_is_caught(changed: dict[str, Any]) -> None:
    assert code_of(witnessing.check_opened, opening(**changed), APPROVED) == "N313"


def test_a_run_that_is_opened_as_approved_may_lack_members_but_name_no_others() -> None:
    witnessing.check_opened(opening(), APPROVED)
    witnessing.check_opened(opening(members=[("basel", MINE.hex())]), APPROVED)
    unpinned = Approved("basel", MINE, "barn", RUN, "sha256:app")
    witnessing.check_opened(opening(members=[("basel", MINE.hex()), ("x", "y")]), unpinned)
    assert code_of(witnessing.check_opened, entry("run.closed"), APPROVED) == "N313"


def group(members: list[str], content: str = CONTENT, type_: str = "train") -> dict[str, Any]:
    return {"type": type_, "group": "1", "content": content, "ttl": 60, "members": members}


def sent(*groups: dict[str, Any], batch: int = 3) -> Entry:
    return entry("batch.sent", batch=batch, kind="send", timeout=None, orders=list(groups))


def order(n: int = 0, **changed: Any) -> OrderSeen:
    id_ = order_id(RUN, 3, "basel", "train", "1", CONTENT, n)
    return OrderSeen(**{**vars(OrderSeen(id_, 3, "train", "1", CONTENT)), **changed})


def test_an_order_that_stands_in_its_batch_is_one() -> None:
    witnessing.check_order(sent(group(["basel", "cusco"])), order(), OURS)
    twice = sent(group(["basel", "basel"]))
    witnessing.check_order(twice, order(1), OURS)
    assert code_of(witnessing.check_order, twice, order(2), OURS) == "N314"


@pytest.mark.parametrize(
    ("batch", "asked"),
    [
        (sent(group(["cusco"])), order()),
        (sent(group(["basel"], digest(b"other"))), order()),
        (sent(group(["basel"]), batch=4), order()),
        (sent(group(["basel"])), order(content=digest(b"other"))),
        (sent(group(["basel"])), order(type="evaluate")),
        (sent(group(["basel", "mallory"])), order()),
        (entry("batch.closed", batch=3), order()),
        (entry("batch.sent", batch=3, orders=7), order()),
        (entry("batch.sent", batch=3, orders=[{"members": ["basel"]}]), order()),
    ],
)
def test_an_order_that_is_not_what_the_log_has_is_caught(batch: Entry, asked: OrderSeen) -> None:
    assert code_of(witnessing.check_order, batch, asked, APPROVED) == "N314"


def test_our_apps_members_are_all_sent_the_same_to_train_on() -> None:
    mixed = sent(group(["basel"]), group(["cusco"], digest(b"other")))
    assert code_or_none(witnessing.check_order, mixed, order(), APPROVED) is None
    assert code_of(witnessing.check_order, mixed, order(), OURS) == "N314"
    other = group(["cusco"], digest(b"other"), "evaluate")
    assert (
        code_or_none(witnessing.check_order, sent(group(["basel"]), other), order(), OURS) is None
    )


ID = order().id


def statement(content: str = CONTENT, run: str = RUN, order: str = ID) -> Any:
    payload = statements.reply_payload("barn", run, order, content, statements.NO_POLICY)
    return statements.sign(ME, "basel", "reply", payload)


def verdict(kind: str = "accepted", **changed: Any) -> Entry:
    body: dict[str, Any] = {"batch": 3, "order": ID, "member": "basel", "content": CONTENT}
    body |= {"bytes": 10, "statement": statement()}
    if kind != "accepted":
        body |= {"code": "M106", "reason": "not finite"}
    return entry(f"reply.{kind}", **{**body, **changed})


def receipt_of(found: Entry, **changed: str) -> dict[str, str]:
    said = {
        "order": ID,
        "verdict": found.type.removeprefix("reply."),
        "reason": found.body.get("reason", ""),
        "entry": digest(found.encode()),
    }
    return {**said, **changed}


def judged(found: Entry, content: str = CONTENT, **changed: str) -> str | None:
    receipt = receipt_of(found, **changed)
    return code_or_none(witnessing.check_receipt, found, found.encode(), receipt, content, APPROVED)


@pytest.mark.parametrize("kind", ["accepted", "refused", "late"])
def test_a_receipt_that_says_what_its_entry_says_is_one(kind: str) -> None:
    assert judged(verdict(kind)) is None


@pytest.mark.parametrize(
    "changed",
    [{"verdict": "refused"}, {"reason": "because"}, {"entry": digest(b"")}, {"order": "another"}],
    ids=str,
)
def test_a_receipt_that_says_otherwise_is_caught(changed: dict[str, str]) -> None:
    assert judged(verdict(), **changed) == "N315"


@pytest.mark.parametrize(
    "found",
    [
        verdict(member="cusco"),
        verdict(run="another"),
        verdict(content=digest(b"other")),
        verdict(statement=None),
        verdict(statement=statement(run="another")),
        verdict("refused", content=digest(b"other"), statement=None),
        entry("batch.closed", order=ID),
    ],
    ids=lambda found: str(found.body)[:40],
)
def test_an_entry_that_judges_something_else_is_caught(found: Entry) -> None:
    assert judged(found) == "N315"


def test_a_verdict_on_an_earlier_reply_that_the_member_signed_is_honest() -> None:
    earlier = digest(b"what was first delivered")
    assert judged(verdict(content=earlier, statement=statement(earlier))) is None
    assert judged(verdict("refused", statement=None)) is None
