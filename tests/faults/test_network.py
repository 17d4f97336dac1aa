"""Bad networks: whoever is slow, silent, gone or back again, the others go on and the reason is on record."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import session_kit
from federation import KEEPALIVE, Federation, Hand, federation
from session_kit import SOON, Delivering, Reply, pair, pem

from barnraise.coordinator import events
from barnraise.coordinator.rounds import Policy

MB = 1 << 18  # float32 values of a model of 1 MiB
SLOW = Policy(quorum=2, grace=0.3, deadline=60.0)


@pytest.fixture
def barn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    with federation(tmp_path, monkeypatch) as made:
        yield made


def others_went_on(barn: Federation, within: float) -> None:
    """The round was closed by its policy without bob, whom the journal names; nobody waited for him."""
    for closed in barn.closed():
        assert closed.accepted == ("ada", "cyd") and list(closed.absent) == ["bob"]
        assert closed.reason == "quorum and grace"
        assert closed.seconds < within
    for name in ("ada", "cyd"):
        assert max(a.seconds for a in barn.answers(name)) < within
    bodies = barn.on_record("batch.closed")
    assert bodies and all(b["absent"] == ["bob"] for b in bodies)
    assert {b["reason"] for b in bodies} == {"quorum and grace"}


def test_a_ten_times_slower_member_slows_nobody(barn: Federation) -> None:
    barn.start()
    barn.members["bob"].line.rate = 100_000
    barn.run(SLOW, rounds=2, size=MB)
    others_went_on(barn, within=10.0)
    assert "fetching" in [
        e.state
        for e in barn.house.events
        if isinstance(e, events.MemberState) and e.member == "bob"
    ]


def test_a_withdrawn_order_is_let_go_and_the_next_is_answered(barn: Federation) -> None:
    """Bob is too slow for round 1; what he was still fetching does not keep him from round 2."""
    barn.start()
    line, worked = barn.members["bob"].line, list[str]()
    Hand.deeds = staticmethod(lambda name, kind: worked.append(name))  # type: ignore[method-assign]
    line.rate = 50_000

    def healed(event: events.Event) -> None:
        if isinstance(event, events.BatchClosed):
            line.rate = None

    barn.watch(healed)
    barn.run(Policy(quorum=2, grace=2.0, deadline=60.0), rounds=2, size=MB)
    first, second = barn.closed()
    assert list(first.absent) == ["bob"] and second.accepted == ("ada", "bob", "cyd")
    assert worked.count("bob") == 1


@pytest.mark.slow
def test_a_half_open_connection_is_noticed_and_its_member_comes_back(barn: Federation) -> None:
    """Nobody is told that bob's line is dead. The round waits for him."""
    barn.start()
    bob = barn.members["bob"]

    def stalling(name: str, kind: str) -> None:
        if name == "bob" and bob.line.connections == 1:
            barn.network.stall(bob.line)

    Hand.deeds = staticmethod(stalling)  # type: ignore[method-assign]
    gone: list[float] = []

    def heal(event: events.Event) -> None:
        silent = isinstance(event, events.MemberState) and event.member == "bob"
        if silent and event.state == "absent" and not gone:
            gone.append(time.monotonic())
            barn.network.heal(bob.line)

    barn.watch(heal)
    barn.run(Policy(deadline=20.0))
    (closed,) = barn.closed()
    assert gone and closed.accepted == ("ada", "bob", "cyd")
    assert bob.line.connections > 1
    assert max(a.seconds for a in barn.answers("ada")) < KEEPALIVE


def test_a_half_open_connection_holds_nobody_up(barn: Federation) -> None:
    barn.start()
    bob = barn.members["bob"]
    Hand.deeds = staticmethod(  # type: ignore[method-assign]
        lambda name, kind: barn.network.stall(bob.line) if name == "bob" else None
    )
    barn.run(SLOW, rounds=2)
    others_went_on(barn, within=10.0)


def test_a_long_way_with_losses_only_takes_longer(barn: Federation) -> None:
    """200 ms there and back, and one segment in twenty comes late."""
    for member in barn.members.values():
        member.line.latency, member.line.loss = 0.1, 5
    barn.start().run(rounds=2, size=MB // 4)
    assert [c.reason for c in barn.closed()] == ["all answered"] * 2
    assert [c.accepted for c in barn.closed()] == [("ada", "bob", "cyd")] * 2
    assert all(m.line.connections == 1 for m in barn.members.values())


@pytest.mark.slow
def test_64_kb_a_second_is_enough(barn: Federation) -> None:
    """No transfer ends within any of the times after which a silent peer counts as dead."""
    barn.start()
    line = barn.members["bob"].line
    line.rate = 64_000
    barn.run(Policy(deadline=30.0), size=MB // 5)
    (closed,) = barn.closed()
    assert closed.accepted == ("ada", "bob", "cyd") and line.connections == 1
    (answer,) = barn.answers("bob")
    assert answer.seconds > 5 * KEEPALIVE
    assert barn.answers("ada")[0].seconds < answer.seconds / 3


# --- gone and back ------------------------------------------------------------------------------

SIZE = 4 << 20


def cut(barn: Federation) -> None:
    barn.network.cut(barn.members["bob"].line)


def node_again(barn: Federation) -> None:
    barn.members["bob"].stop()
    barn.members["bob"].start()


def coordinator_again(barn: Federation) -> None:
    barn.house.restart()


SOME = [pytest.param(cut, "down"), pytest.param(node_again, "up")]
REST = [(cut, "up"), (node_again, "down"), (coordinator_again, "up"), (coordinator_again, "down")]


@pytest.mark.parametrize(
    ("happens", "way"), [*SOME, *(pytest.param(*one, marks=pytest.mark.slow) for one in REST)]
)
def test_a_transfer_goes_on_where_it_ended(
    barn: Federation, way: str, happens: Callable[[Federation], None]
) -> None:
    house, bob = barn.house, barn.members["bob"]
    order = house.order("bob", content=house.content(1.0, size=4 * MB))
    group = {"type": order.type, "group": "", "content": order.content, "ttl": order.ttl}
    sent = {"batch": order.batch, "kind": "send", "timeout": None}
    house.log.write(("batch.sent", {**sent, "orders": [{**group, "members": ["bob"]}]}))
    bob.line.rate = 4_000_000
    bob.start()
    house.fleet.dispatch([order])
    bob.line.until_moved(**{way: SIZE * 6 // 10})
    happens(barn)
    house.fleet.dispatch([order])
    (delivery,) = house.arrivals()
    assert (delivery.order, delivery.member) == (order.id, "bob")
    for moved in (bob.line.down, bob.line.up):
        assert SIZE < moved < SIZE * 14 // 10


# --- slow on purpose -----------------------------------------------------------------------------


def in_the_handshake(barn: Federation, held: ExitStack) -> None:
    """Connections that begin TLS and say no more, and some that say nothing at all."""
    for said in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
        for _ in range(8):
            one = held.enter_context(socket.create_connection(("127.0.0.1", barn.house.port)))
            one.sendall(said)


def in_http2(barn: Federation, held: ExitStack) -> None:
    """A member's certificate, and then no HTTP/2, or only the beginning of it."""
    key, certificate = pair(barn.house.authority, "dan")
    folder = barn.root / "dan"
    folder.mkdir()
    (folder / "pair").write_bytes(key + certificate)
    (folder / "ca").write_bytes(pem(barn.house.authority.certificate_der))
    context = ssl.create_default_context(cafile=str(folder / "ca"))
    context.load_cert_chain(folder / "pair")
    context.set_alpn_protocols(["h2"])
    context.check_hostname = False
    for said in (
        b"PRI",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00",
    ):
        for _ in range(4):
            raw = socket.create_connection(("127.0.0.1", barn.house.port))
            held.enter_context(raw)
            held.enter_context(context.wrap_socket(raw)).sendall(said)


@pytest.mark.parametrize("lorises", [in_the_handshake, in_http2])
def test_a_slow_loris_before_any_call_holds_nobody_up(
    barn: Federation, lorises: Callable[[Federation, ExitStack], None]
) -> None:
    with ExitStack() as held:
        lorises(barn, held)
        barn.start().run(rounds=2)
    assert [c.accepted for c in barn.closed()] == [("ada", "bob", "cyd")] * 2
    assert max(c.seconds for c in barn.closed()) < 5.0


def test_a_slow_loris_in_its_delivery_holds_nobody_up(barn: Federation, tmp_path: Path) -> None:
    """Bob attends, offers a reply, sends one byte of it, and says for ever that he is at it."""
    house, ended = barn.house, threading.Event()
    node, told = house.node("bob"), list[session_kit.Session]()

    def crawl() -> None:
        session = told[0]
        (order,) = session.orders(1)
        reply = Reply.good(tmp_path / "reply")
        with Delivering(node, node.offer(order.id, reply)) as delivering:
            delivering.send(next(reply.pieces(delivering.wanted, 1)))
            ended.wait(SOON)

    for name in ("ada", "cyd"):
        barn.members[name].start()
    told.append(node.attend(app=session_kit.APP).welcomed())
    assert house.fleet.wait_for(barn.names, house.fleet.now() + SOON) == []
    crawling = threading.Thread(target=crawl, daemon=True)
    crawling.start()
    barn.run(SLOW)
    others_went_on(barn, within=10.0)
    ended.set()
    crawling.join(SOON)
