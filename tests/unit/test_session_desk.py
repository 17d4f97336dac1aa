"""A member's desk: what is told, to which session, once each; and who is displaced."""

from __future__ import annotations

import threading

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from barnraise.coordinator.desk import (
    HANDFUL,
    RECALLED,
    RECEIPTS,
    WITHDRAWN,
    Asked,
    Desk,
    Dismissed,
    Part,
    Recalled,
    Sent,
    Told,
)
from barnraise.coordinator.fleet import Order
from barnraise.protocols.identity import Member


def sent(number: int, digest: str = "blob") -> Sent:
    order = Order(f"o{number}", 1, Member("ada", b""), "train", "", "content", 60.0, 0.0, 1)
    return Sent(order, (Part("content", 3, b"abc"), Part(digest, 10)), 100)


def told(number: int) -> Told:
    return Told(f"o{number}", b"receipt %d" % number)


def drain(desk: Desk, serial: int) -> list[str]:
    """What the session hears until there is nothing more."""
    heard: list[str] = []
    while desk.waits(serial):
        heard += [getattr(m, "id", "") or str(m) for m in desk.next(serial)]
    return heard


class Sessions(RuleBasedStateMachine):
    """Orders, verdicts and sessions in any sequence: nothing open is lost, nothing is told twice."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(lambda: 0.0)
        self.open: dict[str, None] = {}
        self.receipts: list[str] = []
        self.withdrawn: list[str] = []
        self.count = 0
        self.serial = 0
        self.heard: list[str] = []

    @rule(many=st.integers(1, 40))
    def dispatch(self, many: int) -> None:
        new = [sent(self.count + i) for i in range(many)]
        self.count += many
        self.desk.dispatch(new)
        self.desk.dispatch(new[:1])
        self.open |= dict.fromkeys(s.id for s in new)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def judge(self, data: st.DataObject) -> None:
        order = data.draw(st.sampled_from(list(self.open)))
        self.desk.receipt(Told(order, b""))
        del self.open[order]
        self.receipts.append(order)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        order = data.draw(st.sampled_from(list(self.open)))
        self.desk.withdraw([order])
        assert self.desk.standing(order) == "withdrawn"
        del self.open[order]
        self.withdrawn.append(order)

    @rule()
    def attend(self) -> None:
        self.serial = self.desk.begin()
        self.heard = drain(self.desk, self.serial)
        recalled = self.withdrawn[-RECALLED:]
        assert self.heard == [*self.open, *self.receipts[-RECEIPTS:], *recalled]

    @precondition(lambda self: self.serial)
    @rule()
    def leave(self) -> None:
        assert self.desk.end(self.serial)
        assert self.desk.next(self.serial) == []
        assert not self.desk.end(self.serial)
        self.serial = 0

    @invariant()
    def a_session_hears_each_open_order_once(self) -> None:
        if self.serial:
            self.heard += drain(self.desk, self.serial)
            orders = [h for h in self.heard if h in self.open]
            assert sorted(orders) == sorted(self.open)
            for order in self.receipts[-1:]:
                assert order in self.heard


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_session_takes_a_handful_at_a_time() -> None:
    desk = Desk(lambda: 0.0)
    desk.dispatch([sent(i) for i in range(HANDFUL + 1)])
    serial = desk.begin()
    assert [len(desk.next(serial)), len(desk.next(serial))] == [HANDFUL, 1]


def test_a_displaced_session_hears_so_and_nothing_more() -> None:
    desk = Desk(lambda: 0.0)
    desk.dispatch([sent(1)])
    first, second = desk.begin(), desk.begin()
    (last,) = desk.next(first)
    assert isinstance(last, Dismissed) and last.why == "displaced"
    assert desk.next(first) == []
    assert not desk.end(first) and desk.live == second
    assert [m.id for m in desk.next(second) if isinstance(m, Sent)] == ["o1"]


def test_an_unwilling_session_hears_its_dismissal_alone() -> None:
    desk = Desk(lambda: 0.0)
    desk.dispatch([sent(1)])
    serial = desk.begin(willing=False)
    desk.dispatch([sent(2)])
    desk.receipt(told(1))
    assert not desk.waits(serial)
    desk.dismiss("finished", "the run has ended")
    assert desk.next(serial) == [Dismissed("finished", "the run has ended")]
    assert desk.next(serial) == []


def test_a_waiting_session_is_woken_by_each_of_the_things_it_waits_for() -> None:
    for wake in (
        lambda desk, serial: desk.dispatch([sent(1)]),
        lambda desk, serial: desk.receipt(told(1)),
        lambda desk, serial: desk.dismiss("finished", ""),
        lambda desk, serial: desk.end(serial),
        lambda desk, serial: desk.begin(),
    ):
        desk = Desk(lambda: 0.0)
        serial = desk.begin()
        waiting = threading.Thread(target=desk.next, args=(serial,))
        waiting.start()
        wake(desk, serial)
        waiting.join(20)
        assert not waiting.is_alive()


def test_who_has_not_got_rid_of_its_last_handful_is_stuck() -> None:
    clock = [0.0]
    desk = Desk(lambda: clock[0])
    serial = desk.begin()
    desk.dispatch([sent(1), sent(2)])
    clock[0] = 100.0
    assert not desk.stuck(30.0)
    desk.next(serial)
    clock[0] = 130.0
    assert not desk.stuck(30.0)
    clock[0] = 130.1
    assert desk.stuck(30.0)
    desk.end(serial)
    assert not desk.stuck(30.0)


def test_a_reply_is_taken_once_and_settled_by_its_receipt() -> None:
    desk = Desk(lambda: 0.0)
    assert not desk.take("o1") and desk.standing("o1") == "unknown"
    desk.dispatch([sent(1)])
    assert (desk.standing("o1"), desk.sent("o1")) == ("open", sent(1))
    assert desk.take("o1") and not desk.take("o1")
    assert desk.standing("o1") == "taken"
    desk.withdraw(["o1"])
    assert desk.standing("o1") == "taken"
    desk.receipt(told(1))
    assert desk.standing("o1") == "judged"
    assert not desk.take("o1") and desk.sent("o1") is None


def test_a_part_is_there_while_an_open_order_names_it() -> None:
    desk = Desk(lambda: 0.0)
    desk.dispatch([sent(1, "a"), sent(2, "b")])
    assert desk.part("a") == Part("a", 10) and desk.part("content") == Part("content", 3, b"abc")
    assert desk.part("c") is None
    desk.receipt(told(1))
    assert desk.part("a") is None and desk.part("content") is not None
    desk.withdraw(["o2"])
    assert desk.part("content") is None


def test_a_withdrawn_order_is_told_to_who_has_heard_of_it_and_to_those_that_come_later() -> None:
    desk = Desk(lambda: 0.0)
    desk.dispatch([sent(1)])
    serial = desk.begin()
    assert desk.next(serial) == [sent(1)]
    desk.dispatch([sent(2)])
    desk.withdraw(["o1", "o2"])
    assert desk.next(serial) == [Recalled("o1")] and not desk.waits(serial)
    assert desk.next(desk.begin()) == [Recalled("o1"), Recalled("o2")]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3))
def test_what_is_over_does_not_fill_the_desk(rounds: int) -> None:
    desk = Desk(lambda: 0.0)
    serial = desk.begin()
    for number in range(rounds * RECEIPTS * 2):
        desk.dispatch([sent(number)])
        desk.take(f"o{number}")
        desk.receipt(told(number))
        drain(desk, serial)
    assert desk.size() <= RECEIPTS
    for number in range(WITHDRAWN + 100):
        desk.withdraw([f"w{number}"])
        desk.take(f"w{number}")
    assert desk.size() <= RECEIPTS + 3 * WITHDRAWN  # nobody read what it was told
    drain(desk, serial)
    assert desk.size() <= RECEIPTS + 2 * WITHDRAWN
    assert desk.standing("w0") == "unknown"


def test_a_cosignature_is_asked_of_whoever_is_there_and_willing_and_once() -> None:
    desk = Desk(lambda: 0.0)
    assert not desk.ask()
    unwilling = desk.begin(willing=False)
    assert not desk.ask()
    assert not desk.waits(unwilling)
    serial = desk.begin()
    assert desk.ask()
    assert desk.ask()
    assert desk.next(serial) == [Asked()]
    assert not desk.waits(serial)
