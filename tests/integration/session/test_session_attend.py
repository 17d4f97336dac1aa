"""Attend: what is pushed, what is told again, who displaces whom, and how a session ends."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from session_kit import APP, FEDERATION, RUN, SOON, House, Reply, Session, refusal, status

from barnraise.coordinator import events
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.errors import BarnraiseError


def test_an_order_is_pushed_to_the_node_that_attends(house: House) -> None:
    session = house.node("ada").attend()
    welcome = session.next()
    assert (welcome.federation, welcome.run, welcome.member) == (FEDERATION, RUN, "ada")
    assert welcome.run_id == str(int(RUN, 16))
    assert abs(welcome.clock - time.time()) < SOON
    order = house.order("ada")
    house.fleet.dispatch([order, house.order("bob")])
    (pushed,) = session.orders(1)
    size = sum(len(house.blobs.read(d)) for d in contents(house, order.content))
    assert (pushed.run, pushed.id, pushed.batch, pushed.round) == (RUN, order.id, 1, 1)
    assert (pushed.type, pushed.group, pushed.content) == ("train", "", order.content)
    assert (pushed.ttl, pushed.created, pushed.size) == (60.0, 0.0, size)


def contents(house: House, content: str) -> list[str]:
    from barnraise.protocols.content import Envelope

    return [content, *Envelope.decode(house.blobs.read(content)).blobs()]


def test_orders_wait_for_an_absent_member_and_are_told_to_each_new_session(house: House) -> None:
    orders = [house.order("ada", batch) for batch in (1, 2, 3)]
    house.fleet.dispatch(orders[:2])
    node = house.node("ada")
    first = node.attend().welcomed()
    assert [o.id for o in first.orders(2)] == [o.id for o in orders[:2]]
    first.cut()
    house.until(lambda: house.fleet.presence("ada").state == "absent")
    house.fleet.dispatch(orders)
    second = node.attend().welcomed()
    assert [o.id for o in second.orders(3)] == [o.id for o in orders]


def test_the_same_order_again_is_pushed_once_in_a_session(house: House) -> None:
    one, other = house.order("ada", 1), house.order("ada", 2)
    session = house.node("ada").attend().welcomed()
    for orders in ([one], [one], [one, other]):
        house.fleet.dispatch(orders)
    assert [o.id for o in session.orders(2)] == [one.id, other.id]


def test_a_receipt_is_pushed_and_those_missed_come_with_the_next_session(
    house: House, tmp_path: Path
) -> None:
    orders = [house.order("ada", batch) for batch in (1, 2)]
    house.fleet.dispatch(orders)
    node = house.node("ada")
    session = node.attend().welcomed()
    session.orders(2)
    node.deliver(orders[0].id, Reply.good(tmp_path / "reply"))
    (receipt,) = house.accept(house.arrivals())
    told = session.receipt(house.authority)
    assert told == {
        "order": orders[0].id, "verdict": "accepted", "reason": "", "entry": receipt.entry
    }  # fmt: skip
    session.cut()
    house.until(lambda: house.fleet.presence("ada").state == "absent")
    node.deliver(orders[1].id, Reply.good(tmp_path / "reply"))
    house.accept(house.arrivals())
    again = node.attend().welcomed()
    assert again.receipt(house.authority) == told
    assert again.receipt(house.authority)["order"] == orders[1].id


def test_a_closed_batchs_orders_are_not_told_again(house: House) -> None:
    closed, open_ = house.order("ada", 1), house.order("ada", 2)
    house.fleet.dispatch([closed, open_])
    house.fleet.withdraw({closed.id: "ada", "sha256:" + "0" * 64: "stranger"})
    session = house.node("ada").attend().welcomed()
    assert [o.id for o in session.orders(1)] == [open_.id]


def test_a_newer_session_displaces_the_one_before(house: House) -> None:
    order = house.order("ada")
    first = house.node("ada").attend().welcomed()
    second = house.node("ada").attend().welcomed()
    dismissal = first.next()
    assert (type(dismissal), dismissal.why) == (pb.Dismissal, "displaced")
    assert status(first.end()) == ("ABORTED", "N210")
    house.fleet.dispatch([order])
    assert second.orders(1)[0].id == order.id
    assert house.fleet.presence("ada").state == "idle"


def test_many_sessions_of_one_member_that_nobody_reads_leave_two(house: House) -> None:
    """What it cannot be told it is not: the oldest calls are cut."""
    node, kept = house.node("ada"), []
    for begun in (1, 2, 2, 2, 2):
        kept.append(Session(node.channel, read=False))
        house.until(lambda begun=begun: house.fleet.calls.count("ada") == begun)
    last = node.attend().welcomed()
    house.fleet.dispatch([house.order("ada")])
    last.orders(1)
    assert house.fleet.calls.count("ada") == 2


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        ({"run": "00000000000000bb"}, "it approved another run (00000000000000bb)"),
        ({"run": ""}, "it approved another run (none)"),
        ({"app": "sha256:" + "1" * 64}, "it approved another app (sha256:111111111111)"),
    ],
)
def test_a_site_that_approved_something_else_hears_no_orders(
    house: House, hello: dict[str, str], why: str
) -> None:
    house.fleet.dispatch([house.order("ada")])
    session = house.node("ada").attend(**hello).welcomed()
    assert house.fleet.presence("ada").state == "refusing"
    assert house.fleet.presence("ada").detail == why
    assert house.fleet.wait_for(["ada"], house.fleet.now()) == ["ada"]
    house.fleet.close()
    assert session.next().why == "finished"


def test_a_clock_that_is_off_is_a_word_and_decides_nothing(house: House) -> None:
    for name, off in (("ada", 600.0), ("bob", -600.0)):
        house.node(name).attend(clock=time.time() + off).welcomed()
        detail = house.fleet.presence(name).detail
        assert detail.startswith("its clock is ") and f"{off:+.0f}"[:3] in detail
    house.fleet.dispatch([house.order("ada")])
    assert house.fleet.wait_for(["ada", "bob"]) == []


@pytest.mark.parametrize("first", [pb.State(state="idle"), pb.Progress(what="training step")])
def test_a_session_begins_with_hello(house: House, first: object) -> None:
    assert status(Session(house.node("ada").channel, first).end()) == ("INVALID_ARGUMENT", "N203")


def test_a_node_that_leaves_is_absent(house: House) -> None:
    session = house.node("ada").attend().welcomed()
    session.leave()
    assert session.end() is None
    house.until(lambda: house.fleet.presence("ada").state == "absent")


def test_a_member_that_is_not_admitted_to_the_run_is_told_so(house: House) -> None:
    node = house.node("dan")
    assert status(node.attend().end()) == ("PERMISSION_DENIED", "N202")
    content = house.content(1.0)
    assert refusal(lambda: node.fetch(content)) == ("PERMISSION_DENIED", "N202")


# --- what is shown --------------------------------------------------------------------------------


def test_what_a_member_does_is_told_in_the_grids_thread(house: House) -> None:
    told: list[tuple[str, str, str]] = []
    threads = set()

    def watch(event: events.Event) -> None:
        threads.add(threading.current_thread())
        if isinstance(event, events.MemberState) and event.member == "ada":
            told.append((event.member, event.state, event.detail))

    house.fleet.watch = watch
    session = house.node("ada").attend().welcomed()
    assert house.fleet.wait_for(["ada"]) == []
    session.say(pb.State(state="training", order="x"))
    session.say(pb.Progress(order="x", what="training step", done=31, total=200))
    house.until(lambda: ("ada", "training", "step 31/200") in told)
    session.say(pb.State(state="\x1b[31mred\n" + "long" * 99))
    house.until(lambda: told[-1][1].startswith("\N{REPLACEMENT CHARACTER}[31mred"))
    assert told[-1][1].isprintable() and len(told[-1][1]) == 80
    session.cut()
    house.until(lambda: told[-1][1] == "absent")
    assert threads == {threading.current_thread()}
    assert [t for t in told if t[1] == "idle"] == [("ada", "idle", "")]


def test_progress_is_told_a_few_times_a_second_however_often_it_is_said(house: House) -> None:
    session = house.node("ada").attend().welcomed()
    session.say(pb.State(state="training", order="x"))
    started = time.monotonic()
    for step in range(2000):
        session.say(pb.Progress(order="x", what="training step", done=step + 1, total=2000))
    house.until(lambda: any(e.detail == "step 2000/2000" for e in states(house, "ada")))
    took = time.monotonic() - started
    assert len(states(house, "ada")) <= 4 + took / 0.3


def states(house: House, name: str) -> list[events.MemberState]:
    return [e for e in house.events if isinstance(e, events.MemberState) and e.member == name]


def test_whoever_waits_for_members_says_for_whom(house: House) -> None:
    house.node("ada").attend().welcomed()
    assert house.fleet.wait_for(["cyd", "ada", "bob"], house.fleet.now() + 0.01) == ["bob", "cyd"]
    assert house.fleet.wait_for(["cyd", "ada", "bob"], house.fleet.now()) == ["bob", "cyd"]
    (first,) = [e for e in house.events if isinstance(e, events.Waiting)]
    assert first.names == ("bob", "cyd")
    threading.Timer(0.05, lambda: house.node("bob").attend()).start()
    threading.Timer(0.10, lambda: house.node("cyd").attend()).start()
    assert house.fleet.wait_for(["cyd", "ada", "bob"]) == []
    last = [e for e in house.events if isinstance(e, events.Waiting)][-1]
    assert last.names == ("cyd",) and last.waited >= 0.05
    assert last.text.endswith(" s for cyd; it starts once all have attended")


# --- nodes that are slow, many, or gone -----------------------------------------------------------


def test_a_node_that_does_not_read_is_cut_and_nobody_waits_for_it(tmp_path: Path) -> None:
    house = House(tmp_path / "house", patience=0.2)
    try:
        content = house.content(1.0)
        hello = pb.Hello(run=RUN, app=APP, version="0", clock=time.time())
        mute = Session(house.node("ada").channel, hello, read=False)
        busy = house.node("bob").attend().welcomed()
        assert house.fleet.wait_for(["ada"]) == []
        started = time.monotonic()
        batch = 0
        while house.fleet.presence("ada").state != "absent":
            assert time.monotonic() - started < SOON
            batch += 1
            order = house.order("ada", batch, content)
            many = [replace(order, id=f"{batch}-{i}", group="x" * 30000) for i in range(100)]
            house.fleet.dispatch([*many, house.order("bob", batch, content)])
            assert busy.orders(1)[0].batch == batch
        assert time.monotonic() - started >= 0.2
        again = house.node("ada").attend().welcomed()
        assert again.orders(1)[0].batch == 1
        mute.cut()
    finally:
        house.close()


def test_thirty_two_members_at_once(tmp_path: Path) -> None:
    names = [f"site-{i:02d}" for i in range(32)]
    house = House(tmp_path / "house", names)
    try:
        sessions = {name: house.node(name).attend() for name in names}
        assert house.fleet.wait_for(names, house.fleet.now() + SOON) == []
        content = house.content(1.0)
        orders = {name: house.order(name, 1, content) for name in names}
        house.fleet.dispatch(list(orders.values()))
        reply = Reply.good(tmp_path / "reply")
        workers = []
        for name in names:
            (order,) = sessions[name].welcomed().orders(1)
            assert order.id == orders[name].id
            node = house.nodes[names.index(name)]
            worker = threading.Thread(target=node.deliver, args=(order.id, reply))
            worker.start()
            workers.append(worker)
        arrived = []
        while len(arrived) < 32:
            arrived += house.arrivals()
        house.accept(arrived)
        assert {sessions[n].receipt(house.authority)["order"] for n in names} == {
            o.id for o in orders.values()
        }
        assert sorted(d.member for d in arrived) == names
        for worker in workers:
            worker.join()
    finally:
        house.close()


def ours() -> set[threading.Thread]:
    """Python's threads that the coordinator's side has started."""
    return {t for t in threading.enumerate() if t.name.startswith(("session", "attend"))}


def test_close_dismisses_everybody_and_leaves_no_thread(house: House, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    sessions = [house.node(name).attend().welcomed() for name in ("ada", "bob")]
    order = house.order("ada")
    house.fleet.dispatch([order])
    node = house.node("cyd")
    calls = [node.exchange.Deliver(iter(lambda: None, 0)) for _ in range(2)]
    assert ours()
    house.fleet.close()
    assert not ours()
    for session in sessions:
        assert session.end() is None
    house.fleet.close()
    for call in calls:
        call.cancel()
    left = {t for t in threading.enumerate() if t not in before}
    assert not [t for t in left if "session" in t.name or "attend" in t.name or "_serve" in t.name]


def test_after_close_nobody_answers(house: House) -> None:
    node = house.node("ada")
    node.attend().welcomed()
    house.fleet.close()
    with pytest.raises(grpc.RpcError) as failed:
        node.fetch("sha256:" + "0" * 64)
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_port_that_is_in_use_is_told(house: House) -> None:
    with pytest.raises(BarnraiseError) as told:
        House(house.root / "other", address=f"127.0.0.1:{house.port}")
    assert told.value.code == "N118"
