"""A few transfers move at a time, and a slow one keeps nobody waiting."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from barnraise.coordinator.turns import PACE, PATIENCE, Turn, Turns


def test_no_more_than_so_many_quick_transfers_go_on_at_once() -> None:
    turns = Turns(2, lambda: 0.0)
    going, most, lock = [0], [0], threading.Lock()

    def work(_: int) -> None:
        for _ in range(50):
            with turns.taken():
                with lock:
                    going[0] += 1
                    most[0] = max(most[0], going[0])
                with lock:
                    going[0] -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert 1 <= most[0] <= 2
    assert going == [0]


def test_transfers_of_slow_peers_keep_nobody_waiting() -> None:
    turns, ended = Turns(2), threading.Event()
    begun = [threading.Event() for _ in range(5)]

    def slow(number: int) -> None:
        with turns.taken():
            begun[number].set()
            assert ended.wait(20)

    with ThreadPoolExecutor(5) as pool:
        done = [pool.submit(slow, number) for number in range(5)]
        assert all(event.wait(20) for event in begun)
        with turns.taken():
            ended.set()
        assert [one.result(20) for one in done] == [None] * 5


def test_a_members_own_transfers_wait_for_each_other_and_leave_room_for_others() -> None:
    """However quick they are, and however many: the clock stands still, so none of them falls behind."""
    turns, ended, waits = Turns(2, lambda: 0.0), threading.Event(), threading.Event()

    def another() -> None:
        with turns.taken("bob", lambda: bool(waits.set() or not ended.is_set())):
            pass

    with turns.taken("bob"):
        threads = [threading.Thread(target=another) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert waits.wait(20)
        with turns.taken("ada"):
            assert all(thread.is_alive() for thread in threads)
        ended.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_who_is_gone_waits_no_longer() -> None:
    turns = Turns(1, lambda: 0.0)
    with turns.taken("ada"), turns.taken("bob", lambda: False):
        """Else it would wait for ever."""


def test_a_transfer_counts_as_long_as_it_keeps_pace() -> None:
    turn = Turn(100.0)
    assert turn.counts_until() == 100.0 + PATIENCE
    turn.moved(PACE // 2)
    assert turn.counts_until() == 100.5 + PATIENCE
    for _ in range(100):
        turn.moved(1)  # a trickle buys no time
    assert turn.counts_until() < 100.501 + PATIENCE
