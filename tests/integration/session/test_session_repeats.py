"""Replies that come again or late, whose bytes are whose, one member's troubles, and content out."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest
from session_kit import (
    CHUNK,
    LARGE,
    NAMES,
    Delivering,
    House,
    Node,
    Reply,
    Session,
    incoming,
    refusal,
)

from barnraise.coordinator.fleet import Order
from barnraise.protocols import content
from barnraise.protocols import federation_pb2 as pb

# --- repeats -------------------------------------------------------------------------------------------


def test_a_reply_that_was_taken_is_not_wanted_again(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    reply = Reply.good(tmp_path / "reply")
    ada.deliver(order.id, reply)
    assert ada.deliver(order.id, reply) == []
    (delivery,) = house.arrivals()
    assert ada.deliver(order.id, reply) == []
    house.accept([delivery])
    assert ada.deliver(order.id, reply) == []
    assert house.arrivals(0.0) == []


def test_the_same_receipt_comes_again_at_whatever_age_and_after_a_restart(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    reply = Reply.good(tmp_path / "reply")
    session = ada.attend().welcomed()
    session.orders(1)
    ada.deliver(order.id, reply)
    house.accept(house.arrivals())
    told = session.receipt(house.authority)
    ada.deliver(order.id, reply)
    assert session.receipt(house.authority) == told
    for batch in range(2, 70):
        later = house.order("ada", batch, order.content)
        house.fleet.dispatch([later])
        ada.deliver(later.id, reply)
        house.accept(house.arrivals())
        session.orders(1)
        session.receipt(house.authority)
    ada.deliver(order.id, reply)
    assert session.receipt(house.authority) == told
    house.restart()
    node = house.node("ada")
    again = node.attend().welcomed()
    assert node.deliver(order.id, reply) == []
    assert again.receipt(house.authority) == told
    assert house.arrivals(0.0) == []


def test_a_verdict_on_record_is_no_other_members_business(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    ada.deliver(order.id, Reply.good(tmp_path / "reply"))
    house.accept(house.arrivals())
    house.restart()
    house.fleet.withdraw({})
    bob = house.node("bob")
    session = bob.attend().welcomed()
    offered = refusal(lambda: bob.deliver(order.id, Reply.good(tmp_path / "reply")))
    assert offered == ("NOT_FOUND", "N204")
    mine = house.order("bob", 2)
    house.fleet.dispatch([mine])
    assert session.orders(1)[0].id == mine.id


def test_a_late_reply_is_handed_in_and_its_bytes_are_not_wanted(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    house.fleet.withdraw({order.id: "ada"})
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    assert ada.deliver(order.id, reply) == []
    (delivery,) = house.arrivals()
    assert (delivery.order, delivery.content) == (order.id, reply.content)
    assert ada.deliver(order.id, reply) == []
    assert house.arrivals(0.0) == [] and incoming(house) == {}


def test_nobodys_bytes_stand_in_for_anothers(house: House, tmp_path: Path) -> None:
    """Who knows a digest must not be able to hand in what it does not have."""
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    for name in NAMES[:2]:
        order, node = house.order(name), house.node(name)
        house.fleet.dispatch([order])
        assert {w.digest: w.offset for w in node.deliver(order.id, reply)} == dict.fromkeys(
            reply.parts, 0
        )
        (delivery,) = house.arrivals()
        house.blobs.sync()
        house.accept([delivery])


def test_what_came_with_the_order_need_not_go_back(house: House, tmp_path: Path) -> None:
    sent = house.content(1.0, size=LARGE)
    order, ada = house.order("ada", content=sent), house.node("ada")
    house.fleet.dispatch([order])
    blobs = {
        b: house.blobs.read(b) for b in content.Envelope.decode(house.blobs.read(sent)).blobs()
    }
    assert blobs
    envelope = Reply.good(tmp_path / "reply", 1.0, size=LARGE)
    assert set(blobs) <= set(envelope.parts)
    assert [w.digest for w in ada.deliver(order.id, envelope)] == [envelope.content]
    assert len(house.arrivals()) == 1


def test_the_same_reply_to_two_orders_comes_once_but_for_its_envelope_and_serves_both(
    house: House, tmp_path: Path
) -> None:
    one, two = house.order("ada", 1), house.order("ada", 2)
    house.fleet.dispatch([one, two])
    ada, reply = house.node("ada"), Reply.good(tmp_path / "reply", size=LARGE)
    assert len(ada.deliver(one.id, reply)) == 2
    assert [w.digest for w in ada.deliver(two.id, reply)] == [reply.content]
    deliveries = house.arrivals()
    assert [d.order for d in deliveries] == [one.id, two.id]
    assert all(house.blobs.has(digest) for digest in reply.parts)


# --- one member's troubles -----------------------------------------------------------------------------


def test_a_stalled_delivery_keeps_nobody_and_its_member_may_start_anew(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    others = house.order("bob")
    house.fleet.dispatch([others])
    with Delivering(ada, ada.offer(order.id, reply)) as stalled:
        stalled.send(next(iter(reply.pieces(stalled.wanted))))
        house.node("bob").deliver(others.id, reply)
        assert [d.member for d in house.arrivals()] == ["bob"]
        again = house.node("ada")
        again.deliver(order.id, reply)
        assert stalled.refused().code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED)
    assert [d.member for d in house.arrivals()] == ["ada"]


# --- out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, -1, None])
def test_content_is_fetched_from_any_offset(house: House, ada: Node, offset: int | None) -> None:
    sent = house.content(1.0, 2.0, size=LARGE)
    house.fleet.dispatch([house.order("ada", content=sent)])
    (blob,) = content.Envelope.decode(house.blobs.read(sent)).blobs()
    whole = house.blobs.read(blob)
    at = len(whole) if offset is None else offset % len(whole)
    assert ada.fetch(blob, at) == whole[at:]
    chunks = [len(c.data) for c in ada.exchange.Fetch(pb.FetchRequest(digest=blob))]
    assert max(chunks) == CHUNK and sum(chunks) == len(whole)
    envelope = house.blobs.read(sent)
    assert ada.fetch(sent) == envelope and ada.fetch(sent, 3) == envelope[3:]
    beyond = refusal(lambda: ada.fetch(blob, len(whole) + 1))
    assert beyond == ("OUT_OF_RANGE", "N209")


def test_a_large_envelope_is_fetched_like_any_file(house: House, ada: Node) -> None:
    from flwr.app import ConfigRecord, RecordDict

    from barnraise.protocols import flower

    records = RecordDict({"config": ConfigRecord({"text": "x" * 3_000_000})})
    data = flower.encode(records, house.blobs).encode()
    digest = house.blobs.put_envelope(data)
    house.blobs.sync()
    house.fleet.dispatch([house.order("ada", content=digest)])
    assert ada.fetch(digest) == data and ada.fetch(digest, 1_234_567) == data[1_234_567:]


def test_a_member_fetches_what_its_own_open_orders_name_and_nothing_else(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    theirs, secret = house.content(7.0), house.content(8.0)
    house.fleet.dispatch([house.order("bob", content=theirs)])
    for digest in (theirs, secret, "", "../secret", "sha256:" + "0" * 64):
        assert refusal(lambda digest=digest: ada.fetch(digest)) == ("NOT_FOUND", "N209")
    assert ada.fetch(order.content)
    ada.deliver(order.id, Reply.good(tmp_path / "reply"))
    house.accept(house.arrivals())
    assert refusal(lambda: ada.fetch(order.content)) == ("NOT_FOUND", "N209")


@pytest.mark.parametrize(("size", "reads"), [(LARGE // 2, 3), (LARGE, 8)])
def test_a_small_part_is_read_once_for_all_who_ask_and_a_large_one_for_each(
    house: House, monkeypatch: pytest.MonkeyPatch, size: int, reads: int
) -> None:
    counted, pread = [], os.pread

    def counting(fd: int, count: int, at: int) -> bytes:
        counted.append(at)
        return pread(fd, count, at)

    wholes = {}
    for value in (1.0, 2.0):
        sent = house.content(value, size=size)
        house.fleet.dispatch([house.order(name, content=sent) for name in NAMES[:2]])
        (blob,) = content.Envelope.decode(house.blobs.read(sent)).blobs()
        wholes[blob] = house.blobs.read(blob)
    nodes = [house.node(name) for name in NAMES[:2]]
    monkeypatch.setattr(os, "pread", counting)
    for blob, whole in wholes.items():
        counted.clear()
        assert [node.fetch(blob) for node in nodes] == [whole, whole]
        assert len(counted) == reads
        assert nodes[0].fetch(blob, 7) == whole[7:]


def test_fetches_that_nobody_reads_are_cut_when_they_are_too_many(house: House, ada: Node) -> None:
    sent = house.content(1.0, size=20 * LARGE)
    house.fleet.dispatch([house.order("ada", content=sent)])
    (blob,) = content.Envelope.decode(house.blobs.read(sent)).blobs()
    kept = [ada.exchange.Fetch(pb.FetchRequest(digest=blob)) for _ in range(5)]
    house.until(lambda: house.fleet.calls.count("ada") == 4)
    for _ in range(3):
        kept.append(ada.exchange.Fetch(pb.FetchRequest(digest=blob)))
    assert len(ada.fetch(blob)) == house.blobs.size(blob)
    for call in kept:
        call.cancel()


def test_how_far_a_transfer_is_is_shown_while_the_node_says_that_it_is_at_it(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    session: Session = ada.attend().welcomed()
    session.say(pb.State(state="delivering", order=order.id))
    house.until(lambda: house.fleet.presence("ada").state == "delivering")
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    with Delivering(ada, ada.offer(order.id, reply)) as delivering:
        pieces = list(reply.pieces(delivering.wanted))
        for piece in pieces[:2]:
            delivering.send(piece)
        house.until(lambda: house.fleet.presence("ada").detail == "37 %")
        for piece in pieces[2:]:
            delivering.send(piece)
        delivering.taken()
    assert house.fleet.presence("ada").detail == "100 %"


def test_what_is_given_up_leaves_the_disk_also_while_another_reply_waits(
    house: House, tmp_path: Path
) -> None:
    """Else a member could fill the disk for as long as the app computes."""
    first, second = house.order("ada", 1), house.order("ada", 2)
    house.fleet.dispatch([first, second])
    node, good = house.node("ada"), Reply.good(tmp_path / "good", size=LARGE)
    node.deliver(first.id, good)
    waiting = incoming(house)
    for number in range(3):
        other = Reply.good(tmp_path / str(number), value=float(number + 5), size=LARGE)
        with Delivering(node, node.offer(second.id, other)) as delivering:
            for piece in list(other.pieces(delivering.wanted))[:-1]:
                delivering.send(piece)
            delivering.send(pb.Piece(digest=other.content, offset=1 << 40, data=b"x"))
            delivering.refused()
    assert waiting.items() <= incoming(house).items()
    assert len(incoming(house)) == len(waiting) + 1
    node.deliver(second.id, good)
    assert {d.order for d in house.arrivals()} == {first.id, second.id}


def test_a_part_that_came_with_the_order_keeps_its_size(
    house: House, order: Order, ada: Node
) -> None:
    """What is not wanted is not measured; the record says how large the reply was."""
    data = house.blobs.read(order.content)
    offer = ada.offer(order.id, Reply({order.content: data}))
    offer.parts[0].size += 1
    assert refusal(lambda: Delivering(ada, offer).__enter__()) == ("INVALID_ARGUMENT", "N205")
