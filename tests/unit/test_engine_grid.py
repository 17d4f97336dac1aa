"""The Grid over a scripted fleet: identity, durability, repeats, push and pull, replay, divergence."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from engine_kit import NAMES, Bench, errors, good, member
from flwr.app import ConfigRecord, Message, RecordDict

from barnraise.coordinator import events
from barnraise.coordinator.fleet import Delivery
from barnraise.coordinator.rounds import Policy
from barnraise.protocols.content import Envelope
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import order_id


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "run")


def send(bench: Bench, *names: str, **asked: Any) -> list[Message]:
    return list(bench.grid.send_and_receive(bench.ask(*names, **asked)))


# --- identity ----------------------------------------------------------------------------------------


def test_an_order_is_named_by_what_it_asks_and_how_often(bench: Bench) -> None:
    bench.will_answer("ada")
    messages = bench.ask("ada") + bench.ask("ada") + bench.ask("ada", value=3.0)
    ids = list(bench.grid.push_messages(messages))
    (orders,) = bench.fleet.dispatched
    assert len(set(ids)) == 3
    (twice, other) = {o.content for o in orders if o.id in ids[:2]}, {orders[2].content}
    assert len(twice) == 1 and twice != other
    expected = [
        order_id("00000000000000aa", 1, "ada", "train", "", content, n)
        for content, n in ((orders[0].content, 0), (orders[0].content, 1), (orders[2].content, 0))
    ]
    assert ids == expected == [o.id for o in orders]


def test_a_reply_bears_its_orders_metadata(bench: Bench) -> None:
    bench.will_answer("bob")
    (reply,) = bench.grid.send_and_receive(
        [Message(good(), member("bob").node_id, "train.local", ttl=60.0, group_id="seven")]
    )
    order, meta = bench.order("bob"), reply.metadata
    assert meta.reply_to_message_id == order.id
    assert meta.message_id not in ("", order.id)
    assert (meta.src_node_id, meta.dst_node_id) == (member("bob").node_id, 1)
    assert (meta.message_type, meta.group_id, meta.ttl) == ("train.local", "seven", 60.0)
    assert meta.created_at == order.created and meta.run_id == bench.terms.run_id


def test_replies_come_in_canonical_order_whatever_the_order_of_arrival(bench: Bench) -> None:
    bench.will_answer("cyd")
    bench.will_answer("bob", "ada")
    replies = send(bench, "bob", "cyd", "ada")
    assert [bench.grid.name_of(m.metadata.src_node_id) for m in replies] == list(NAMES)


def test_several_orders_to_one_member_keep_the_apps_sequence_over_a_restart(bench: Bench) -> None:
    def ask() -> list[Message]:
        one, two = bench.ask(value=1.0), bench.ask(value=2.0)
        return [one[0], two[0], two[1], one[1]]

    def script() -> None:
        bench.will_deliver(
            lambda: [bench.delivery(o.member.name, order=o) for o in bench.fleet.dispatched[0]]
        )

    script()
    first = [m.metadata.reply_to_message_id for m in bench.grid.send_and_receive(ask())]
    bench.reopen()
    again = [m.metadata.reply_to_message_id for m in bench.grid.send_and_receive(ask())]
    assert again == first and len(set(first)) == 4
    assert bench.fleet.dispatched == []


# --- the order of durability ------------------------------------------------------------------------


def test_each_step_is_durable_before_the_next(bench: Bench) -> None:
    bench.will_answer("ada", "bob")
    bench.will_answer("cyd")
    send(bench)
    assert bench.trace == [
        ("blobs synced",),
        ("entry", "batch.sent"),
        ("dispatch", 3),
        ("blobs synced",),
        ("entry", "reply.accepted"),
        ("entry", "reply.accepted"),
        ("receipt", "accepted"),
        ("receipt", "accepted"),
        ("blobs synced",),
        ("entry", "reply.accepted"),
        ("receipt", "accepted"),
        ("entry", "batch.closed"),
    ]


def test_a_pushed_batch_is_pulled_on_record(bench: Bench) -> None:
    ids = list(bench.grid.push_messages(bench.ask("ada", "bob")))
    assert list(bench.grid.pull_messages(ids)) == []
    bench.will_answer("bob")
    (first,) = bench.grid.pull_messages(ids)
    assert first.metadata.src_node_id == member("bob").node_id
    assert list(bench.grid.pull_messages(ids)) == []
    bench.will_answer("ada")
    assert len(list(bench.grid.pull_messages(ids))) == 1
    assert list(bench.grid.pull_messages(ids)) == []
    assert bench.types() == [
        "batch.sent",
        "reply.accepted",
        "batch.pulled",
        "reply.accepted",
        "batch.pulled",
        "batch.closed",
    ]


def test_a_pushed_order_whose_time_ran_out_answers_with_an_error(bench: Bench) -> None:
    ids = list(bench.grid.push_messages(bench.ask("ada", "bob", ttl=30.0)))
    bench.will_answer("ada", at=29.0)
    assert len(list(bench.grid.pull_messages(ids))) == 1
    bench.fleet.clock = 31.0
    (silent,) = bench.grid.pull_messages(ids)
    assert silent.has_error() and silent.metadata.src_node_id == member("bob").node_id
    bench.reopen()
    assert list(bench.grid.push_messages(bench.ask("ada", "bob", ttl=30.0))) == ids
    assert not next(iter(bench.grid.pull_messages(ids))).has_error()
    assert next(iter(bench.grid.pull_messages(ids))).has_error()
    assert bench.fleet.dispatched == []


def test_a_pushed_batch_that_closed_is_not_sent_again_and_its_silent_member_is_late(
    bench: Bench,
) -> None:
    ids = list(bench.grid.push_messages(bench.ask("ada", "bob", ttl=30.0)))
    bench.will_answer("ada", at=31.0)
    only = next(i for i in ids if bench.fleet.orders[i].member.name == "ada")
    assert len(list(bench.grid.pull_messages([only]))) == 1
    late = bench.delivery("bob")
    assert bench.types() == ["batch.sent", "reply.accepted", "batch.closed", "batch.pulled"]
    bench.reopen()
    list(bench.grid.push_messages(bench.ask("ada", "bob", ttl=30.0)))
    list(bench.grid.pull_messages([only]))
    bench.will_deliver(lambda: late)
    (silent,) = bench.grid.pull_messages(ids)
    assert silent.has_error() and bench.fleet.dispatched == []
    assert bench.types()[-2:] == ["reply.late", "batch.pulled"]


def test_what_was_pushed_and_never_pulled_closes_with_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", policy=Policy(quorum=3))
    ids = list(bench.grid.push_messages(bench.ask()))
    bench.will_answer("ada")
    assert len(list(bench.grid.pull_messages(ids))) == 1
    bench.grid.close_open_batches()
    (body,) = bench.bodies("batch.closed")
    assert (body["reason"], body["absent"]) == ("the run ended", ["bob", "cyd"])
    assert not body["void"], "a reply that the app has already cannot be void"
    digest = bench.grid.tally.digest()
    bench.reopen()
    list(bench.grid.push_messages(bench.ask()))
    list(bench.grid.pull_messages(ids))
    bench.grid.close_open_batches()
    assert bench.grid.tally.digest() == digest and bench.fleet.dispatched == []


# --- repeats, strangers, late replies ---------------------------------------------------------------


def test_a_repeat_gets_the_same_receipt_and_no_entry(bench: Bench) -> None:
    bench.will_answer("ada")
    bench.will_answer("ada")
    bench.will_deliver(lambda: [bench.delivery("bob"), bench.delivery("bob", good(3.0))])
    bench.will_answer("cyd")
    send(bench)
    by_order: dict[str, set[Any]] = {}
    for receipt in bench.fleet.receipts:
        by_order.setdefault(receipt.order, set()).add(receipt)
    assert [len(bench.fleet.receipts), *map(len, by_order.values())] == [5, 1, 1, 1]
    assert bench.types().count("reply.accepted") == 3


def test_a_repeat_gets_the_same_receipt_after_the_close_and_after_a_restart(bench: Bench) -> None:
    bench.will_answer("ada", "bob")
    bench.will_deliver(lambda: bench.delivery("cyd", b"no envelope"))
    send(bench)
    before = {r.order: r for r in bench.fleet.receipts}
    refused = bench.delivery("cyd", b"no envelope")
    again = [bench.delivery("ada"), refused]
    count = len(bench.journal)

    ids = list(bench.grid.push_messages(bench.ask("bob", value=9.0)))
    bench.will_deliver(lambda: again)
    assert list(bench.grid.pull_messages(ids)) == []
    assert bench.fleet.receipts[-2:] == [before[again[0].order], before[refused.order]]
    assert len(bench.journal) == count + 1

    bench.reopen()
    send(bench)
    list(bench.grid.push_messages(bench.ask("bob", value=9.0)))
    bench.will_deliver(lambda: again)
    assert list(bench.grid.pull_messages(ids)) == []
    assert bench.fleet.receipts == [before[again[0].order], before[refused.order]]


def test_deliveries_for_unknown_orders_are_counted_not_journaled(bench: Bench) -> None:
    def stray() -> list[Delivery]:
        known = bench.delivery("ada")
        unknown = Delivery("sha256:" + "0" * 64, "ada", known.content, 1, known.statement, 0.0)
        foreign = Delivery(known.order, "bob", known.content, 1, known.statement, 0.0)
        return [unknown, foreign]

    bench.will_deliver(stray)
    bench.will_answer()
    replies = send(bench)
    assert errors(replies) == {}
    assert bench.grid._live is not None and bench.grid._live.unknown == 2
    assert bench.types() == ["batch.sent", *["reply.accepted"] * 3, "batch.closed"]
    assert len(bench.fleet.receipts) == 3


def test_a_late_reply_is_journaled_once_and_never_counts(bench: Bench) -> None:
    bench.will_answer("ada", "bob")
    replies = list(bench.grid.send_and_receive(bench.ask(), timeout=5.0))
    assert len(replies) == 2
    late = bench.delivery("cyd")
    bench.will_deliver(lambda: [late, late])
    bench.will_answer()
    assert len(send(bench, value=2.0)) == 3
    assert bench.types().count("reply.late") == 1
    assert [r.verdict for r in bench.fleet.receipts if r.order == late.order] == ["late", "late"]


def test_a_reply_to_a_batch_that_an_earlier_process_closed_is_late(bench: Bench) -> None:
    bench.will_answer("ada", "bob")
    list(bench.grid.send_and_receive(bench.ask(), timeout=5.0))
    late = bench.delivery("cyd")
    bench.reopen()
    assert len(list(bench.grid.send_and_receive(bench.ask(), timeout=5.0))) == 2
    bench.will_deliver(lambda: late)
    bench.will_answer()
    send(bench, value=2.0)
    assert bench.types().count("reply.late") == 1
    first = bench.fleet.receipts[0]

    bench.reopen()
    list(bench.grid.send_and_receive(bench.ask(), timeout=5.0))
    send(bench, value=2.0)
    bench.will_deliver(lambda: late)
    bench.will_answer()
    send(bench, value=3.0)
    assert bench.types().count("reply.late") == 1
    assert bench.fleet.receipts[0] == first and first.verdict == "late"


def test_a_node_that_is_not_on_the_roster_answers_with_an_error(bench: Bench) -> None:
    stranger = Message(good(), 12345, "train")
    (reply,) = bench.grid.send_and_receive([stranger])
    assert errors([reply]) == {12345: "M111: node 12345 is not on the roster"}
    assert bench.types() == []
    bench.will_answer("ada")
    replies = list(bench.grid.send_and_receive([stranger, *bench.ask("ada")]))
    assert [m.has_error() for m in replies] == [False, True]


def test_a_member_that_left_the_roster_is_not_asked(bench: Bench) -> None:
    assert len(list(bench.grid.get_node_ids())) == 3
    bench.fleet.names.remove("bob")
    assert len(list(bench.grid.get_node_ids())) == 2
    bench.will_answer("ada", "cyd")
    replies = send(bench)
    assert list(errors(replies)) == [member("bob").node_id]
    assert {o.member.name for o in bench.fleet.dispatched[0]} == {"ada", "cyd"}


def test_pushed_messages_to_strangers_keep_their_place_and_answer(bench: Bench) -> None:
    def ask() -> list[Message]:
        return [Message(good(), 12345, "train"), *bench.ask("ada")]

    ids = list(bench.grid.push_messages(ask()))
    assert len(ids) == 2
    bench.will_answer("ada")
    replies = list(bench.grid.pull_messages(ids))
    assert [m.metadata.reply_to_message_id for m in replies] == [ids[1], ids[0]]
    bench.reopen()
    assert list(bench.grid.push_messages(ask())) == ids
    again = list(bench.grid.pull_messages(ids))
    assert [m.metadata.reply_to_message_id for m in again] == [ids[1], ids[0]]


def test_a_send_of_nothing_is_no_operation(bench: Bench) -> None:
    assert list(bench.grid.send_and_receive([])) == []
    assert list(bench.grid.push_messages([])) == []
    assert list(bench.grid.pull_messages(["sha256:nobody"])) == []
    assert bench.types() == [] and bench.trace == []


# --- the app and the grid ---------------------------------------------------------------------------


def test_a_generator_of_messages_may_itself_ask_the_grid(bench: Bench) -> None:
    bench.will_answer()
    messages = (m for _ in [list(bench.grid.get_node_ids())] for m in bench.ask())
    assert len(list(bench.grid.send_and_receive(messages))) == 3


def test_concurrent_calls_are_an_error(bench: Bench) -> None:
    caught: list[BarnraiseError] = []

    def second() -> None:
        with pytest.raises(BarnraiseError) as raised:
            bench.grid.get_node_ids()
        caught.append(raised.value)

    def during() -> list[Delivery]:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return [bench.delivery(name) for name in NAMES]

    bench.will_deliver(during)
    send(bench)
    assert caught[0].code == "A203"
    with pytest.raises(BarnraiseError, match="two threads"):
        bench.grid.get_node_ids()


def test_the_grid_does_not_outlive_an_error_that_the_app_catches(bench: Bench) -> None:
    class Broken(Exception):
        """What no one foresaw."""

    def fail() -> list[Delivery]:
        raise Broken

    bench.will_deliver(fail)
    with pytest.raises(Broken):
        send(bench)
    with pytest.raises(Broken):
        bench.grid.get_node_ids()


def test_the_tenth_identical_roster_call_is_a_stall(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", stall_after=10)
    for _ in range(9):
        assert len(list(bench.grid.get_node_ids())) == 3
    bench.fleet.names.remove("cyd")
    for _ in range(9):
        assert len(list(bench.grid.get_node_ids())) == 2
    waits = [e.text for e in bench.events if isinstance(e, events.Waiting)]
    assert [text.partition(";")[0] for text in waits] == [
        f"the ServerApp waits since 0 s for more members than the {count} admitted"
        for count in (3, 2)
    ]
    with pytest.raises(BarnraiseError) as stalled:
        bench.grid.get_node_ids()
    assert stalled.value.code == "A202" and "ada, bob" in stalled.value.evidence


def test_sent_messages_are_not_held(bench: Bench) -> None:
    import gc
    import weakref

    bench.will_answer()
    messages = bench.ask()
    held = weakref.ref(messages[0].content["arrays"])
    replies = bench.grid.send_and_receive(messages)
    assert len(list(replies)) == 3
    del messages
    gc.collect()
    assert held() is None
    assert bench.grid._open == {}


# --- replay ------------------------------------------------------------------------------------------


def test_a_replay_answers_from_the_journal_without_a_member(bench: Bench) -> None:
    bench.will_answer("cyd", "ada")
    bench.will_deliver(lambda: bench.delivery("bob", good(weight=3), stated="nonsense"))
    first = send(bench)
    bench.reopen(replay=True)
    again = send(bench)
    for one, other in zip(first, again, strict=True):
        assert one.metadata.reply_to_message_id == other.metadata.reply_to_message_id
        assert one.has_error() == other.has_error()
        if one.has_error():
            assert one.error.reason == other.error.reason
        else:
            assert one.content == other.content
    assert bench.trace == [] and bench.fleet.dispatched == []
    closed = [e for e in bench.events if isinstance(e, events.BatchClosed)]
    assert closed[0].replayed and closed[0].refused.keys() == {"bob"}


def test_an_open_batch_goes_out_again_under_the_same_ids(bench: Bench) -> None:
    bench.will_answer("ada")
    bench.will_deliver(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        send(bench)
    before = {o.member.name: o.id for o in bench.fleet.dispatched[0]}
    bench.reopen()
    bench.will_answer("bob", "cyd")
    assert len(send(bench)) == 3
    (again,) = bench.fleet.dispatched
    assert {o.member.name: o.id for o in again} == {n: before[n] for n in ("bob", "cyd")}
    assert bench.types() == ["batch.sent", *["reply.accepted"] * 3, "batch.closed"]


def test_the_roster_is_replayed_call_by_call(bench: Bench) -> None:
    seen = [len(list(bench.grid.get_node_ids()))]
    bench.fleet.names.remove("bob")
    seen.append(len(list(bench.grid.get_node_ids())))
    bench.will_answer("ada", "cyd")
    send(bench, "ada", "cyd")
    bench.fleet.names.append("bob")
    seen.append(len(list(bench.grid.get_node_ids())))
    assert seen == [3, 2, 3]
    changes = [(b["operations"], b["call"]) for b in bench.bodies("roster.seen")]
    assert changes == [(0, 1), (0, 2), (1, 1)]
    bench.reopen()
    again = [len(list(bench.grid.get_node_ids())) for _ in range(2)]
    send(bench, "ada", "cyd")
    again.append(len(list(bench.grid.get_node_ids())))
    assert again == seen


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"value": 2.0}, "content"),
        ({"kind": "evaluate"}, "type"),
        ({"lr": 0.5}, "content"),
    ],
)
def test_another_content_or_type_stops_the_run(
    bench: Bench, asked: dict[str, Any], said: str
) -> None:
    bench.will_answer()
    send(bench)
    bench.reopen()
    with pytest.raises(BarnraiseError) as diverged:
        send(bench, **asked)
    error = diverged.value
    assert error.code == "R101" and "operation 1" in error.what
    assert f"differs:  {said}" in error.evidence
    assert bench.fleet.dispatched == []


def test_another_destination_or_operation_stops_the_run(bench: Bench) -> None:
    bench.will_answer()
    send(bench)
    for act, said in (
        (lambda: send(bench, "ada", "bob"), "differs:  destination"),
        (lambda: bench.grid.push_messages(bench.ask()), "differs:  send or push"),
        (lambda: bench.grid.seal({"round": 1}), "now:      round 1 sealed"),
    ):
        bench.reopen()
        with pytest.raises(BarnraiseError) as diverged:
            act()
        assert diverged.value.code == "R101" and said in diverged.value.evidence


def test_the_end_must_come_where_the_record_has_it(bench: Bench) -> None:
    bench.will_answer()
    send(bench)
    bench.grid.close({"model": "sha256:a", "report": {}})
    bench.reopen(replay=True)
    with pytest.raises(BarnraiseError) as early:
        bench.grid.close({"model": "sha256:a"})
    assert early.value.code == "R101" and "the run ends" in early.value.evidence
    bench.reopen(replay=True)
    send(bench)
    with pytest.raises(BarnraiseError) as more:
        send(bench)
    assert more.value.code == "R101" and "recorded: the run ends" in more.value.evidence
    bench.reopen(replay=True)
    send(bench)
    with pytest.raises(BarnraiseError) as other:
        bench.grid.close({"model": "sha256:b"})
    assert other.value.code == "R102"
    assert "sha256:a" in other.value.evidence and "sha256:b" in other.value.evidence


def test_a_damaged_reply_is_noticed_when_it_is_read_again(bench: Bench) -> None:
    bench.will_answer()
    send(bench)
    content = next(bench.bodies("reply.accepted"))["content"]
    (blob,) = Envelope.decode(bench.blobs.read(content)).blobs()
    path = bench.blobs.path(blob)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    bench.reopen()
    with pytest.raises(BarnraiseError) as damaged:
        send(bench)
    assert damaged.value.code == "D106" and blob in damaged.value.what


def test_what_the_app_cannot_send_is_its_error_alone(bench: Bench) -> None:
    broken = RecordDict({"config": ConfigRecord({"lone": "\ud800"})})
    with pytest.raises(ValueError, match=r"utf-8|surrogate"):
        bench.grid.send_and_receive([Message(broken, member("ada").node_id, "train")])
    assert bench.types() == []
