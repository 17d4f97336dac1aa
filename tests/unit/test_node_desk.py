"""The node's decisions: which order next, what to deliver again, when to restart and when to give up."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.client.node import desk as desks
from barnraise.client.node.backoff import FIRST, MOST, delay
from barnraise.client.node.desk import Desk, Order
from barnraise.protocols.canonical import digest

RUN = "run"


def order(name: str, **more: Any) -> Order:
    fields: dict[str, Any] = {
        "id": digest(name.encode()),
        "run": RUN,
        "batch": 1,
        "round": 1,
        "type": "train",
        "group": "",
        "content": digest(b"content " + name.encode()),
        "ttl": 60.0,
        "created": 0.0,
        "size": 10,
    }
    return Order(**{**fields, **more})


def desk(kept: tuple[str, ...] = (), done: tuple[str, ...] = ()) -> Desk:
    made = Desk(RUN, kept, done, lambda: 0.0)
    made.attended()
    return made


A, B = order("a"), order("b")


def fetched(node: Desk, wanted: Order) -> None:
    assert node.next_fetch(0.0) == wanted
    node.fetched(wanted.id)


def test_orders_are_worked_on_one_at_a_time_in_order_of_arrival() -> None:
    node = desk()
    assert node.take(A) == node.take(B) == ""
    fetched(node, A)
    assert node.next_work() == A
    fetched(node, B)
    assert node.next_work() is None
    node.committed(A.id)
    assert node.next_work() == B


@pytest.mark.parametrize("stage", ["queued", "fetching", "fetched", "working"])
def test_an_order_that_comes_again_on_its_way_is_the_same_order(stage: str) -> None:
    node = desk()
    node.take(A)
    if stage != "queued":
        node.next_fetch(0.0)
    if stage in ("fetched", "working"):
        node.fetched(A.id)
    if stage == "working":
        assert node.next_work() == A
    assert node.take(A) == ""
    if stage in ("queued", "fetching"):
        node.fetched(A.id)
    if stage != "working":
        assert node.next_work() == A
    node.committed(A.id)
    assert node.next_fetch(0.0) is None
    assert node.next_work() is None


def test_an_answered_order_is_delivered_again_and_a_receipted_one_refused() -> None:
    node = desk(kept=(A.id,), done=(B.id,))
    assert node.next_delivery(0.0) == A.id
    node.delivered()
    assert node.next_delivery(0.0) is None
    assert node.take(A) == ""
    assert node.next_delivery(0.0) == A.id
    assert "its receipt has come" in node.take(B)
    node.delivered()
    assert node.receipted(A.id)
    assert not node.receipted(A.id)
    assert "its receipt has come" in node.take(A)


@pytest.mark.parametrize(
    ("unfit", "why"),
    [
        (order("x", run="other"), "of the run 'other'"),
        (order("x", id="x"), "no digest"),
        (order("x", content="sha256:0"), "no digest"),
        (order("x", ttl=math.nan), "not finite"),
        (order("x", created=math.inf), "not finite"),
    ],
)
def test_what_is_no_order_of_this_run_is_refused(unfit: Order, why: str) -> None:
    node = desk()
    assert why in node.take(unfit)
    assert node.next_fetch(0.0) is None


def test_no_more_orders_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "QUEUE", 2)
    node = desk()
    assert [node.take(order(str(n))) for n in range(2)] == ["", ""]
    assert "orders are waiting already" in node.take(order("2"))
    assert node.take(order("1")) == "2 orders are waiting already"


def test_a_reply_taken_in_a_session_that_is_lost_is_delivered_in_the_next() -> None:
    """Also if that its delivery has ended is heard of only after the new session began."""
    node = desk(kept=(A.id,))
    assert node.next_delivery(0.0) == A.id
    node.lost()
    node.attended()
    assert node.next_delivery(0.0) is None
    node.delivered()
    assert node.next_delivery(0.0) == A.id


def test_a_failed_transfer_waits_and_a_new_session_does_not() -> None:
    node = desk(kept=(B.id,))
    node.take(A)
    assert node.next_fetch(0.0) == A
    assert node.next_delivery(0.0) == B.id
    node.fetch_failed(0.0)
    node.delivery_failed(0.0)
    wait = node.wake_at()
    assert wait == delay(1, 0.0)
    assert node.next_fetch(wait - 0.01) is node.next_delivery(wait - 0.01) is None
    assert node.next_fetch(wait) == A
    node.fetch_failed(wait)
    assert node.wake_at() == wait
    assert node.next_delivery(wait) == B.id
    assert node.wake_at() == wait + delay(2, 0.0)
    node.lost()
    assert node.wake_at() == math.inf
    assert node.next_fetch(100.0) is None
    node.attended()
    assert node.next_fetch(0.0) == A


def test_an_order_whose_content_is_refused_is_none_until_it_comes_again() -> None:
    node = desk()
    node.take(A)
    node.next_fetch(0.0)
    node.fetch_refused(A.id)
    assert node.next_fetch(0.0) is None
    node.take(A)
    assert node.next_fetch(0.0) == A


def test_a_dead_worker_redoes_the_order_and_the_second_death_answers_it() -> None:
    node = desk()
    node.take(A)
    node.take(B)
    fetched(node, A)
    node.next_work()
    assert node.died(5.0) is None
    assert node.working == A
    assert node.died(5.0) == A
    node.committed(A.id)
    fetched(node, B)
    assert node.next_work() == B
    assert node.died(5.0) is None
    node.committed(B.id)
    assert node.died(6.0) is None


def test_a_worker_that_keeps_dying_is_started_ever_later_until_it_answers() -> None:
    node = desk()
    assert node.restart_at == -math.inf
    starts = []
    for _ in range(4):
        node.died(10.0)
        starts.append(node.restart_at - 10.0)
    assert starts == [0.0, *(pytest.approx(delay(n, 0.0)) for n in (1, 2, 3))]
    node.answered()
    node.died(20.0)
    assert node.restart_at == 20.0


def test_what_is_needed_and_what_is_shown() -> None:
    node = desk()
    assert (node.state(), node.contents(), node.expecting) == (("idle", ""), set(), False)
    node.take(A)
    assert (node.state(), node.contents()) == (("fetching", A.id), {A.content})
    assert node.expecting
    fetched(node, A)
    assert not node.expecting
    node.next_work()
    node.take(order("b", type="evaluate"))
    assert node.state() == ("training", A.id)
    assert node.contents() == {A.content, B.content}
    node.committed(A.id)
    assert node.state() == ("fetching", B.id)
    node.next_fetch(0.0)
    node.fetched(B.id)
    node.next_work()
    assert node.state() == ("evaluating", B.id)
    node.committed(B.id)
    assert node.state() == ("delivering", A.id)


ORDERS = [order(str(n)) for n in range(4)]
DEEDS = st.one_of(
    st.tuples(st.just("take"), st.sampled_from(ORDERS)),
    st.tuples(st.just("receipt"), st.sampled_from(ORDERS)),
    st.tuples(st.just("withdraw"), st.sampled_from(ORDERS)),
    st.tuples(
        st.sampled_from(
            ["attend", "lose", "fetch", "fetched", "cut", "work", "die", "done", "deliver", "taken"]
        ),
        st.none(),
    ),
)


class Watched:
    """A desk with what holds of it whatever happens: L2 (nothing twice, nothing lost) and L3."""

    def __init__(self) -> None:
        self.node = Desk(RUN, (), (), lambda: 0.5)
        self.now = 0.0
        self.asked: list[str] = []
        self.kept: set[str] = set()
        self.done: set[str] = set()
        self.fetching: Order | None = None
        self.working: Order | None = None
        self.delivering: str | None = None
        self.present = False

    def do(self, deed: str, about: Order | None) -> None:
        self.now += 1.0
        getattr(self, f"_{deed}")(about)

    def _take(self, about: Order) -> None:
        refused = self.node.take(about)
        assert bool(refused) == (about.id in self.done)
        if not refused and about.id not in self.asked:
            self.asked.append(about.id)

    def _receipt(self, about: Order) -> None:
        assert self.node.receipted(about.id) == (about.id in self.kept)
        if about.id in self.kept:
            self.kept.discard(about.id)
            self.done.add(about.id)

    def _withdraw(self, about: Order) -> None:
        assert self.node.withdrawn(about.id) == (about.id in self.asked)
        self.asked = [order for order in self.asked if order != about.id]

    def _attend(self, _: None) -> None:
        self.node.attended()
        self.present = True

    def _lose(self, _: None) -> None:
        self.node.lost()
        self.present = False

    def _fetch(self, _: None) -> None:
        found = self.node.next_fetch(self.now)
        if found is not None:
            assert self.present
            assert self.fetching is None
            assert found.id not in self.kept | self.done
            self.fetching = found

    def _fetched(self, _: None) -> None:
        if self.fetching is not None:
            self.node.fetched(self.fetching.id)
            self.fetching = None

    def _cut(self, _: None) -> None:
        if self.fetching is not None:
            self.node.fetch_failed(self.now)
            self.fetching = None
        if self.delivering is not None:
            self.node.delivery_failed(self.now)
            self.delivering = None

    def _work(self, _: None) -> None:
        found = self.node.next_work()
        if found is not None:
            assert self.working is None
            assert found.id not in self.kept | self.done
            assert found.id == self.asked.pop(0)
            self.working = found

    def _die(self, _: None) -> None:
        given_up = self.node.died(self.now)
        assert given_up is None or given_up == self.working
        if given_up is not None:
            self._done(None)

    def _done(self, _: None) -> None:
        if self.working is not None:
            self.node.committed(self.working.id)
            self.kept.add(self.working.id)
            self.working = None

    def _deliver(self, _: None) -> None:
        found = self.node.next_delivery(self.now)
        if found is not None:
            assert self.present
            assert self.delivering is None
            assert found in self.kept
            self.delivering = found

    def _taken(self, _: None) -> None:
        if self.delivering is not None:
            self.node.delivered()
            self.delivering = None

    def settle(self) -> None:
        """From any state a new session brings all that was asked to its end."""
        self._taken(None)
        self.do("cut", None)
        self.do("attend", None)
        told: set[str] = set()
        for _ in range(8 * len(ORDERS)):
            self.now += MOST
            for deed in ("fetch", "fetched", "work", "done", "deliver"):
                getattr(self, f"_{deed}")(None)
            told |= {self.delivering} if self.delivering else set()
            self._taken(None)
        assert not self.asked
        assert self.kept <= told


@given(st.lists(DEEDS, max_size=60))
@settings(deadline=None, max_examples=300)
def test_whatever_happens_nothing_is_done_twice_and_nothing_is_lost(
    deeds: list[tuple[str, Order | None]],
) -> None:
    watched = Watched()
    for deed, about in deeds:
        if deed == "take" and about is not None and watched.working == about:
            watched.node.take(about)
            continue
        if deed == "take" and about is not None and about.id in watched.kept:
            assert watched.node.take(about) == ""
            continue
        watched.do(deed, about)
    watched.settle()


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_waits_double_are_spread_and_stay_within_their_bounds(failures: int, draw: float) -> None:
    assert FIRST / 2 <= delay(failures, draw) <= MOST
    assert delay(failures, 0.0) <= delay(failures, draw) <= delay(failures + 1, 1.0)
    assert delay(1, 0.0) == FIRST / 2
    assert delay(10**6, 0.0) == MOST / 2
