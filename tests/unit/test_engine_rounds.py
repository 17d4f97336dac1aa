"""The round policy: pure, and as a batch over a scripted fleet lives through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_kit import Bench, errors, good, member
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

from barnraise.coordinator import events
from barnraise.coordinator.rounds import Policy, Standing, decide, is_void
from barnraise.protocols.content import Envelope, Failure

FULL = Policy(quorum=2, grace=10.0, deadline=60.0)


def standing(**changes: Any) -> Standing:
    usual = {"sent": 3, "accepted": 0, "refused": 0, "sent_at": 100.0, "quorum_at": None}
    return Standing(**{"category": "train", "limit": None, **usual, **changes})


def closes(policy: Policy, state: Standing) -> float | None:
    """When the batch closes if nothing more comes; it does not before, and does then."""
    decision = decide(policy, state, state.sent_at)
    if decision.until is not None:
        assert not decide(policy, state, decision.until - 0.001).close
        assert decide(policy, state, decision.until).reason == decision.then
    return decision.until


def test_without_a_charter_a_batch_waits_for_every_order() -> None:
    assert closes(Policy(), standing(accepted=2)) is None
    assert decide(Policy(), standing(accepted=2, refused=1), 100.0).reason == "all answered"
    assert closes(Policy(), standing(limit=7.0)) == 107.0


def test_the_first_limit_closes() -> None:
    assert closes(FULL, standing()) == 160.0
    assert closes(FULL, standing(accepted=2, quorum_at=120.0)) == 130.0
    assert closes(FULL, standing(accepted=2, quorum_at=155.0)) == 160.0
    assert closes(FULL, standing(limit=5.0)) == 105.0
    assert closes(FULL, standing(category="evaluate", accepted=2, quorum_at=101.0)) == 111.0
    assert closes(FULL, standing(category="query", accepted=2, quorum_at=101.0)) is None


def test_quorum_binds_train_alone() -> None:
    assert is_void(FULL, "train", 1) and not is_void(FULL, "train", 2)
    assert not is_void(FULL, "evaluate", 0) and not is_void(FULL, "query", 0)
    assert not is_void(Policy(deadline=1.0), "train", 0)


@given(
    st.integers(1, 9).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))
    ),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 2e6),
)
def test_any_batch_closes_when_all_have_answered_and_never_later_than_its_deadline(
    counts: tuple[int, int, int], deadline: float, limit: float | None, after: float
) -> None:
    sent, accepted, refused = counts[0], counts[1], min(counts[2], counts[0] - counts[1])
    state = standing(sent=sent, accepted=accepted, refused=refused, limit=limit, sent_at=0.0)
    decision = decide(Policy(deadline=deadline), state, after)
    assert decision.close == (
        accepted + refused == sent or after >= min(x for x in (deadline, limit) if x is not None)
    )


# --- as batches live through it -----------------------------------------------------------------------


def send(bench: Bench, **asked: Any) -> list[Message]:
    return list(bench.grid.send_and_receive(bench.ask(**asked)))


def closed(bench: Bench) -> list[Any]:
    return list(bench.bodies("batch.closed"))


def test_quorum_and_grace_close_without_the_slow(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", policy=FULL)
    bench.will_answer("ada", at=1.0)
    bench.will_answer("cyd", at=5.0)
    assert len(send(bench)) == 2
    assert bench.fleet.clock == 15.0
    (body,) = closed(bench)
    assert (body["reason"], body["absent"], body["void"]) == ("quorum and grace", ["bob"], False)


def test_below_quorum_a_round_is_void_and_returns_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", policy=FULL)
    bench.will_answer("ada", at=1.0)
    bench.will_deliver(lambda: bench.delivery("bob", Envelope(failure=Failure(2, "x"))))
    assert send(bench) == []
    assert bench.fleet.clock == 60.0
    (body,) = closed(bench)
    assert (body["reason"], body["void"], len(body["accepted"])) == ("deadline", True, 1)
    told = [e for e in bench.events if isinstance(e, events.BatchClosed)]
    assert told[0].void and told[0].refused.keys() == {"bob"} and told[0].absent.keys() == {"cyd"}
    bench.reopen(replay=True)
    assert send(bench) == []


def test_setting_aside_may_cost_the_quorum(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", policy=Policy(quorum=3))
    odd = good()
    odd["more"] = odd["m"]
    bench.will_answer("ada", "bob")
    bench.will_answer("cyd", records=odd)
    assert send(bench) == [] and closed(bench)[0]["void"]


def test_an_evaluate_shortfall_voids_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", policy=FULL)
    bench.will_answer("ada", at=1.0)
    assert len(send(bench, kind="evaluate")) == 1
    assert closed(bench)[0]["reason"] == "deadline" and not closed(bench)[0]["void"]


@pytest.mark.parametrize(("timeout", "ttl", "after"), [(5.0, None, 5.0), (50.0, 20.0, 20.0)])
def test_the_smallest_of_timeout_and_ttl_ends_the_wait_with_what_came(
    tmp_path: Path, timeout: float, ttl: float | None, after: float
) -> None:
    bench = Bench(tmp_path / "run")
    bench.will_answer("ada")
    bench.will_deliver(lambda: bench.delivery("bob", b"bad"))
    replies = list(bench.grid.send_and_receive(bench.ask(ttl=ttl), timeout=timeout))
    assert bench.fleet.clock == after
    assert len(replies) == 2 and list(errors(replies)) == [member("bob").node_id]
    assert closed(bench)[0]["reason"] == "timeout"


def test_clocks_restart_with_the_process_and_a_reached_quorum_waits_its_grace_again(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "run", policy=FULL)
    bench.will_answer("ada", "bob", at=50.0)
    bench.will_deliver(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        send(bench)
    bench.reopen()
    bench.fleet.clock = 1000.0
    bench.fleet.script.clear()
    assert len(send(bench)) == 2
    assert bench.fleet.clock == 1010.0
    assert closed(bench)[0]["reason"] == "quorum and grace"


def test_whoever_waits_says_for_whom_since_when_and_what_happens(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", policy=FULL)
    bench.will_answer("ada", at=4.0)
    send(bench)
    told = [e.text for e in bench.events if isinstance(e, events.Waiting)]
    void = "void unless {} more are accepted: the model then stays as it is"
    first = "batch 1 (train) waits since 0 s for ada, bob, cyd; closes in 60 s (deadline), "
    then = "batch 1 (train) waits since 4 s for bob, cyd; closes in 56 s (deadline), "
    assert told == [first + void.format(2), then + void.format(1)]
