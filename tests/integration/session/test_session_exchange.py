"""Content out and replies in: resumed after any cut, hashed, within bounds, and nobody else's business."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest
from session_kit import (
    CHUNK,
    LARGE,
    Delivering,
    House,
    Node,
    Reply,
    incoming,
    refusal,
    status,
    stored,
)

from barnraise.coordinator.fleet import Order
from barnraise.protocols import canonical
from barnraise.protocols import federation_pb2 as pb

# --- in, and whole ------------------------------------------------------------------------------------


def test_a_reply_is_taken_in_whole(house: House, order: Order, ada: Node, tmp_path: Path) -> None:
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    wanted = ada.deliver(order.id, reply)
    assert [(w.digest, w.offset) for w in wanted] == [(d, 0) for d in reply.parts]
    (delivery,) = house.arrivals()
    assert (delivery.order, delivery.member, delivery.content) == (order.id, "ada", reply.content)
    assert delivery.size == sum(map(len, reply.parts.values()))
    assert delivery.statement is not None and set(delivery.statement) >= {"payload", "signatures"}
    assert {d: house.blobs.read(d) for d in reply.parts} == reply.parts
    assert incoming(house) == {}
    house.blobs.sync()
    assert set(reply.parts) <= stored(house)


def cuts() -> list[tuple[int, int]]:
    """(bytes in a piece, pieces that arrive before the cut): at each boundary, and between those."""
    boundaries = [(CHUNK, n) for n in range(3)]
    return [*boundaries, (1, 1), (CHUNK - 1, 1), (CHUNK - 1, 2), (333_333, 5), (777, 2)]


@pytest.mark.parametrize("restarted", [False, True], ids=["cut", "restarted"])
@pytest.mark.parametrize(("chunk", "pieces"), cuts())
def test_a_cut_delivery_goes_on_where_it_ended(
    house: House, tmp_path: Path, chunk: int, pieces: int, restarted: bool
) -> None:
    order = house.order("ada")
    house.fleet.dispatch([order])
    node, reply = house.node("ada"), Reply.good(tmp_path / "reply", size=LARGE)
    envelope, blob = reply.parts
    with Delivering(node, node.offer(order.id, reply)) as delivering:
        first, *_ = reply.pieces(delivering.wanted)
        begun = list(islice(reply.pieces(delivering.wanted[1:], chunk), pieces))
        for piece in [first, *begun]:
            delivering.send(piece)
        sent = sum(len(piece.data) for piece in begun)
        house.until(lambda: incoming(house).get(blob, 0) == sent)
    if restarted:
        house.restart()
        house.fleet.dispatch([order])
        node = house.node("ada")
    wanted = node.deliver(order.id, reply)
    assert [(w.digest, w.offset) for w in wanted] == [(envelope, 0), (blob, sent)]
    (delivery,) = house.arrivals()
    assert delivery.content == reply.content and house.blobs.read(blob) == reply.parts[blob]


def test_a_newer_delivery_ends_the_one_before_and_nothing_of_that_is_written_any_more(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    """Both would write to the same file: the newer goes on where the older one ended."""
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    blob = list(reply.parts)[1]
    with Delivering(ada, ada.offer(order.id, reply)) as older:
        envelope, first, *rest = reply.pieces(older.wanted)
        older.send(envelope)
        older.send(first)
        house.until(lambda: incoming(house).get(blob) == CHUNK)
        wanted = house.node("ada").deliver(order.id, reply)
        assert [(w.digest, w.offset) for w in wanted] == [(reply.content, 0), (blob, CHUNK)]
        for piece in rest:
            older.send(piece)
        assert status(older.refused())[0] == "CANCELLED"
    assert [d.content for d in house.arrivals()] == [reply.content]
    assert {d: house.blobs.read(d) for d in reply.parts} == reply.parts
    assert incoming(house) == {}


def test_of_a_reply_that_is_all_in_when_the_coordinator_dies_only_the_envelope_comes_again(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    ada.deliver(order.id, reply)
    house.restart()
    house.fleet.dispatch([order])
    wanted = house.node("ada").deliver(order.id, reply)
    assert [w.digest for w in wanted] == [reply.content]
    assert [d.content for d in house.arrivals()] == [reply.content]
    assert {d: house.blobs.read(d) for d in reply.parts} == reply.parts


def test_a_partial_file_that_was_damaged_is_not_believed(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    """Its bytes are hashed again; a longer one is dropped at once, a wrong one when it is whole."""
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    _, blob = reply.parts
    folder = house.root / "incoming" / "ada"
    folder.mkdir(parents=True)
    (folder / blob[7:]).write_bytes(bytes(len(reply.parts[blob]) + 1))
    with Delivering(ada, ada.offer(order.id, reply)) as delivering:
        assert [w.offset for w in delivering.wanted] == [0, 0]
    (folder / blob[7:]).write_bytes(bytes(len(reply.parts[blob])))
    with Delivering(ada, ada.offer(order.id, reply)) as delivering:
        assert [w.offset for w in delivering.wanted] == [0, 0]
    (folder / blob[7:]).write_bytes(bytes(CHUNK))
    with Delivering(ada, ada.offer(order.id, reply)) as delivering:
        assert [w.offset for w in delivering.wanted] == [0, CHUNK]
    assert refusal(lambda: ada.deliver(order.id, reply)) == ("DATA_LOSS", "N208")
    assert [w.offset for w in ada.deliver(order.id, reply)] == [0, 0]


def test_what_a_member_abandons_does_not_stay(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    for value in (1.0, 2.0, 3.0):
        reply = Reply.good(tmp_path / f"{value}", value, size=LARGE)
        with Delivering(ada, ada.offer(order.id, reply)) as delivering:
            pieces = list(reply.pieces(delivering.wanted))
            for piece in pieces[:2]:
                delivering.send(piece)
            house.until(lambda piece=pieces[1]: incoming(house).get(piece.digest) == CHUNK)
        assert set(incoming(house)) <= set(reply.parts)


# --- in, and refused ----------------------------------------------------------------------------------


def test_bytes_with_another_digest_are_dropped(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    reply = Reply.good(tmp_path / "reply")
    envelope, blob = reply.parts
    flipped = bytes([reply.parts[blob][0] ^ 1]) + reply.parts[blob][1:]
    wrong = Reply({envelope: reply.parts[envelope], blob: flipped})
    assert refusal(lambda: ada.deliver(order.id, wrong)) == ("DATA_LOSS", "N208")
    assert incoming(house) == {}
    wanted = ada.deliver(order.id, reply)
    assert [(w.digest, w.offset) for w in wanted] == [(envelope, 0), (blob, 0)]
    assert len(house.arrivals()) == 1


@pytest.mark.parametrize("lie", [0, 1 << 62])
def test_an_offer_beyond_the_cap_is_refused_before_a_byte_is_written(
    tmp_path: Path, lie: int
) -> None:
    house = House(tmp_path / "house", size_cap=1 << 20)
    try:
        order = house.order("ada")
        house.fleet.dispatch([order])
        ada, reply = house.node("ada"), Reply.good(tmp_path / "reply", size=LARGE)
        offer = ada.offer(order.id, reply)
        if lie:
            offer.parts[1].size = lie
        before = stored(house)
        with pytest.raises(grpc.RpcError) as refused, Delivering(ada, offer):
            pass
        assert status(refused.value) == ("RESOURCE_EXHAUSTED", "N206")
        assert not (house.root / "incoming" / "ada").exists()
        (delivery,) = house.arrivals()
        assert delivery.size > 1 << 20 and delivery.size <= 1 << 40
        assert stored(house) == before
    finally:
        house.close()


def spoilt(what: str, reply: Reply, wanted: list[pb.Want]) -> list[pb.Piece]:
    """The pieces of a delivery, up to the one that is out of place."""
    first, second, third, *_ = list(reply.pieces(wanted))
    size = len(reply.parts[second.digest])
    match what:
        case "the second part first":
            return [second]
        case "a piece left out":
            return [first, third]
        case "a piece twice":
            return [first, second, second]
        case "another part's name":
            return [pb.Piece(digest="sha256:" + "0" * 64, offset=0, data=b"x")]
        case "no bytes":
            return [pb.Piece(digest=first.digest, offset=0, data=b"")]
        case "more bytes than a piece may have":
            return [first, pb.Piece(digest=second.digest, offset=0, data=bytes(CHUNK + 1))]
        case "beyond its part's size":
            data = reply.parts[first.digest] + b"x"
            return [pb.Piece(digest=first.digest, offset=0, data=data)]
        case "beyond its size at the end":
            whole = list(reply.pieces(wanted))
            last = whole[-1]
            assert last.offset + len(last.data) == size
            return [
                *whole[:-1],
                pb.Piece(digest=last.digest, offset=last.offset, data=last.data + b"x"),
            ]
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "the second part first",
        "a piece left out",
        "a piece twice",
        "another part's name",
        "no bytes",
        "more bytes than a piece may have",
        "beyond its part's size",
        "beyond its size at the end",
    ],
)
def test_a_piece_out_of_place_ends_the_delivery(
    house: House, order: Order, ada: Node, tmp_path: Path, what: str
) -> None:
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    with Delivering(ada, ada.offer(order.id, reply)) as delivering:
        for piece in spoilt(what, reply, delivering.wanted):
            delivering.send(piece)
        assert status(delivering.refused()) == ("INVALID_ARGUMENT", "N207")
    sizes = incoming(house)
    assert all(size <= len(reply.parts[digest]) for digest, size in sizes.items())
    ada.deliver(order.id, reply)
    assert len(house.arrivals()) == 1


def test_a_delivery_that_ends_before_its_last_piece_is_none(
    house: House, order: Order, ada: Node, tmp_path: Path
) -> None:
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    said = [pb.FromMember(offer=ada.offer(order.id, reply))]
    refused = refusal(lambda: list(ada.exchange.Deliver(iter(said))))
    assert refused == ("INVALID_ARGUMENT", "N203")
    twice = refusal(lambda: list(ada.exchange.Deliver(iter([*said, *said]))))
    assert twice == ("INVALID_ARGUMENT", "N203")
    assert refusal(lambda: list(ada.exchange.Deliver(iter(())))) == ("INVALID_ARGUMENT", "N203")
    assert house.arrivals(0.0) == []


def no_parts(offer: pb.Offer) -> None:
    del offer.parts[:]


def a_part_twice(offer: pb.Offer) -> None:
    offer.parts.append(offer.parts[0])


def a_part_of_no_bytes(offer: pb.Offer) -> None:
    offer.parts[1].size = 0


def no_digest(offer: pb.Offer) -> None:
    offer.parts[1].digest = "../../etc/passwd"


def another_content(offer: pb.Offer) -> None:
    offer.content = "sha256:" + "0" * 64


def too_many_parts(offer: pb.Offer) -> None:
    offer.parts.extend(pb.Part(digest=canonical.digest(b"%d" % i), size=1) for i in range(2000))


@pytest.mark.parametrize(
    "spoil",
    [no_parts, a_part_twice, a_part_of_no_bytes, no_digest, another_content, too_many_parts],
)
def test_a_malformed_offer_is_refused(
    house: House, order: Order, ada: Node, tmp_path: Path, spoil: Callable[[pb.Offer], None]
) -> None:
    offer = ada.offer(order.id, Reply.good(tmp_path / "reply"))
    spoil(offer)
    with pytest.raises(grpc.RpcError) as refused, Delivering(ada, offer):
        pass
    assert status(refused.value) == ("INVALID_ARGUMENT", "N205")
    assert not (house.root / "incoming").exists()


@pytest.mark.parametrize("statement", [b"", b"{", b"[]", b"[" * 9999, b"x" * 100_000])
def test_a_statement_that_is_none_is_left_to_the_intake(
    house: House, order: Order, ada: Node, tmp_path: Path, statement: bytes
) -> None:
    reply = Reply.good(tmp_path / "reply")
    offer = ada.offer(order.id, reply)
    offer.statement = statement
    with Delivering(ada, offer) as delivering:
        for piece in reply.pieces(delivering.wanted):
            delivering.send(piece)
        delivering.taken()
    assert [d.statement for d in house.arrivals()] == [None]


def test_a_delivery_belongs_to_an_order_of_its_member_in_this_run(
    house: House, order: Order, tmp_path: Path
) -> None:
    bob, reply = house.node("bob"), Reply.good(tmp_path / "reply")
    house.fleet.withdraw({})
    other_run = house.order("bob", run="00000000000000bb")
    for id_ in (order.id, other_run.id, "", "sha256:" + "0" * 64):
        with pytest.raises(grpc.RpcError) as refused, Delivering(bob, bob.offer(id_, reply)):
            pass
        assert status(refused.value) == ("NOT_FOUND", "N204")
    assert house.fleet.unknown == 4
    assert not (house.root / "incoming").exists()
    assert house.arrivals(0.0) == []


def test_before_the_grid_is_live_an_unknown_order_is_put_off(house: House, tmp_path: Path) -> None:
    ada, reply, order = house.node("ada"), Reply.good(tmp_path / "reply"), house.order("ada")
    assert refusal(lambda: ada.deliver(order.id, reply)) == ("UNAVAILABLE", "N211")
    house.fleet.dispatch([order])
    ada.deliver(order.id, reply)
    assert len(house.arrivals()) == 1


def test_a_full_disk_puts_the_member_off_and_nothing_breaks(
    house: House, order: Order, ada: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply, write = Reply.good(tmp_path / "reply"), os.write

    def full(fd: int, data: Any) -> int:
        if "incoming" in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert refusal(lambda: ada.deliver(order.id, reply)) == ("UNAVAILABLE", "N211")
    ada.deliver(order.id, reply)
    assert len(house.arrivals()) == 1


@pytest.mark.parametrize("more", [-1, 1, CHUNK])
def test_what_is_handed_in_is_not_written_by_another_delivery(
    house: House, order: Order, ada: Node, tmp_path: Path, more: int
) -> None:
    """Until the Grid takes it, it lies where a member's replies come in. With another size it would be cut
    or grown there, and what the Grid took as signed would be what the other delivery writes."""
    other = house.order("ada", batch=2)
    house.fleet.dispatch([other])
    reply = Reply.good(tmp_path / "reply", size=LARGE)
    blob = list(reply.parts)[1]
    ada.deliver(order.id, reply)
    lying = ada.offer(other.id, reply)
    lying.parts[1].size += more
    assert refusal(lambda: Delivering(ada, lying).__enter__()) == ("INVALID_ARGUMENT", "N205")
    assert [w.digest for w in ada.deliver(other.id, reply)] == [reply.content]
    assert [d.order for d in house.arrivals()] == [order.id, other.id]
    assert house.blobs.read(blob) == reply.parts[blob]
