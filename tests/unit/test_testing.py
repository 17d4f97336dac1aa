"""`barnraise.testing`: what a developer simulates inside a test, and how fast and how surely."""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path
from statistics import median
from typing import Any

import apps
import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict

from barnraise.coordinator import local
from barnraise.protocols.errors import BarnraiseError
from barnraise.testing import Federation, Run

ABSENT = "no reply before the batch closed"


def run(federation: Federation, **options: Any) -> Run:
    return federation.run(apps.server_app(), apps.client_app(), {"rounds": 3}, **options)


def test_three_members_and_three_rounds_take_well_under_a_second() -> None:
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        assert len(run(Federation(members=3)).rounds) == 3
        taken.append(time.perf_counter() - started)
    print(f"three members, three rounds: {median(taken):.3f} s (median of {len(taken)})")
    assert median(taken) < 2.0


def test_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert len(run(Federation(members=3)).rounds) == 3


def test_the_same_federation_ends_in_the_same_digest_and_another_seed_in_another() -> None:
    one, two = run(Federation(members=3)), run(Federation(members=3))
    assert one.digest == two.digest
    assert one.model.keys() == two.model.keys() == {"0", "1"}
    assert all(np.array_equal(one.model[k], two.model[k]) for k in one.model)
    assert run(Federation(members=3, seed=1)).digest != one.digest
    assert run(Federation(members=["basel", "oslo", "turin"])).digest != one.digest


def test_the_servers_own_generators_are_seeded_too() -> None:
    np.random.seed(1)
    one = run(Federation(members=2)).digest
    np.random.seed(2)
    assert run(Federation(members=2)).digest == one


def test_a_dropped_reply_never_comes_in_that_round_alone() -> None:
    federation = Federation(members=3)
    federation.drop("site-01", round=2)
    rounds = run(federation).rounds
    assert [r.absent for r in rounds] == [{}, {"site-01": ABSENT}, {}]
    assert rounds[1].accepted == ("site-00", "site-02") and rounds[1].reason == "timeout"


def test_a_delayed_reply_counts_if_it_comes_in_time_on_the_simulations_clock() -> None:
    started = time.perf_counter()
    for seconds, absent in ((59.0, {}), (61.0, {"site-01": ABSENT})):
        federation = Federation(members=3, deadline=60.0)
        federation.delay("site-01", round=2, seconds=seconds)
        ran = run(federation)
        assert ran.rounds[1].absent == absent
        assert ran.rounds[1].seconds == min(seconds, 60.0)
    assert time.perf_counter() - started < 20.0


def test_with_a_quorum_the_round_waits_its_grace_and_no_longer() -> None:
    federation = Federation(members=3, quorum=2, grace=5.0, deadline=100.0)
    federation.delay("site-02", round=1, seconds=30.0)
    federation.delay("site-02", round=2, seconds=4.0)
    rounds = run(federation).rounds
    assert (rounds[0].reason, rounds[0].seconds) == ("quorum and grace", 5.0)
    assert (rounds[1].reason, rounds[1].seconds) == ("all answered", 4.0)


def test_with_no_grace_at_all_every_reply_of_the_same_instant_still_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an instant holds does not hang on how fast this machine is."""
    monkeypatch.setattr(local, "COMMIT_EVERY", 1e-3)
    federation = Federation(members=9, quorum=2, grace=0.0)
    batches = federation.run(apps.server_app(), apps.client_app(), {"rounds": 1}).batches
    assert all(len(batch.accepted) == 9 for batch in batches)


def test_below_quorum_the_round_is_void_and_the_model_stays() -> None:
    federation = Federation(members=3, quorum=3, deadline=10.0)
    federation.drop("site-00", round=2)
    one = federation.run(apps.server_app(), apps.client_app(), {"rounds": 1})
    two = federation.run(apps.server_app(), apps.client_app(), {"rounds": 2})
    assert [r.void for r in two.rounds] == [False, True]
    assert two.digest == one.digest


def test_a_poisoned_reply_is_refused_by_name() -> None:
    federation = Federation(members=3)
    federation.poison("site-01", round=2)
    ran = run(federation)
    assert list(ran.rounds[1].refused) == ["site-01"]
    assert ran.rounds[1].refused["site-01"].startswith("M106")
    assert all(np.isfinite(a).all() for a in ran.model.values())
    assert ran.outcome.problems == (
        f"batch 3 (train): site-01: {ran.rounds[1].refused['site-01']}",
    )


def test_one_says_oneself_what_the_poison_does() -> None:
    def swap(records: RecordDict) -> RecordDict:
        return RecordDict({"arrays": ArrayRecord([np.ones(2, np.float32)]), "m": records["m"]})

    federation = Federation(members=3)
    federation.poison("site-01", round=1, change=swap)
    assert run(federation).rounds[0].refused["site-01"].startswith("M104")


def test_a_worker_that_dies_once_redoes_its_order_to_the_same_bytes() -> None:
    whole = run(Federation(members=3)).digest
    federation = Federation(members=3)
    federation.kill("site-01", round=2)
    assert run(federation).digest == whole


def test_a_worker_that_dies_twice_answers_with_an_error() -> None:
    federation = Federation(members=3)
    federation.kill("site-01", round=2, times=2)
    rounds = run(federation).rounds
    assert rounds[1].refused == {"site-01": "M108: the worker died twice over this order"}
    assert rounds[2].refused == {}


def test_an_app_that_polls_for_a_lost_reply_comes_to_its_end() -> None:
    """Polling takes simulated time, so the pushed order's TTL ends the wait."""
    from flwr.app import Context, Message
    from flwr.serverapp import Grid, ServerApp

    server, answers = ServerApp(), []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        content = RecordDict({"arrays": apps.initial()})
        waiting = set(
            grid.push_messages([Message(content, n, "train") for n in grid.get_node_ids()])
        )
        while waiting:
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                answers.append(reply.has_error())

    federation = Federation(members=3)
    federation.drop("site-01", round=1)
    federation.delay("site-02", round=1, seconds=90.0)
    federation.run(server, apps.client_app())
    assert sorted(answers) == [False, False, True]


def test_a_run_goes_on_in_its_directory(tmp_path: Path) -> None:
    federation = Federation(members=2)
    first = run(federation, directory=tmp_path / "run")
    again = run(federation, directory=tmp_path / "run")
    assert again.outcome.finished_before and again.digest == first.digest
    assert again.model.keys() == first.model.keys()
    assert run(federation, directory=tmp_path / "run", replay=True).digest == first.digest


def test_an_app_that_names_no_model_has_the_digest_of_its_batches() -> None:
    one, two = (
        Federation(members=2).run(apps.everything(), apps.client_app(), {"rounds": 2})
        for _ in range(2)
    )
    assert one.digest == two.digest and one.model == {}


def test_seals_are_shown() -> None:
    ran = Federation(members=2).run(apps.sealing(), apps.client_app(), {"rounds": 2})
    assert [(s.round, s.report["round"]) for s in ran.seals] == [(1, 1), (2, 2)]
    assert ran.seals[1].model == ran.digest


def test_a_fault_names_a_member() -> None:
    with pytest.raises(ValueError, match="site-09"):
        Federation(members=3).drop("site-09", round=1)


@pytest.mark.parametrize("change", [lambda records: 1 / 0, lambda records: "a text"])
def test_a_poison_that_goes_wrong_is_the_tests_own_mistake(change: Any) -> None:
    federation = Federation(members=2)
    federation.poison("site-01", round=1, change=change)
    with pytest.raises(BarnraiseError) as told:
        run(federation)
    assert told.value.code == "X102" and "site-01 in round 1" in told.value.what
    assert re.match("it (raised ZeroDivisionError|returned str)", told.value.evidence)


def test_apps_in_each_others_place_are_told() -> None:
    with pytest.raises(TypeError, match="server is a ClientApp"):
        Federation().run(apps.client_app(), apps.server_app())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="client is a ServerApp"):
        Federation().run(apps.server_app(), apps.server_app())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"members": ["a", "a"]}, "'a' is there twice"),
        ({"members": ["A b"]}, "'A b' is no name"),
        ({"members": 0}, "one member"),
        ({"members": 3, "quorum": 4}, "quorum is 4"),
        ({"quorum": 0}, "quorum is 0"),
        ({"deadline": -1.0}, "deadline is -1.0"),
        ({"grace": float("nan")}, "grace is nan"),
    ],
)
def test_a_federation_that_there_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Federation(**options)


def test_a_fault_that_there_cannot_be_is_refused() -> None:
    federation = Federation(members=2)
    with pytest.raises(ValueError, match="round is 0"):
        federation.drop("site-00", round=0)
    with pytest.raises(ValueError, match="-1 seconds"):
        federation.delay("site-00", round=1, seconds=-1)
    with pytest.raises(ValueError, match="0 times"):
        federation.kill("site-00", round=1, times=0)
    federation.drop("site-00", round=1)
    with pytest.raises(ValueError, match=r"a fault in round 1 already: Drop\(\)"):
        federation.poison("site-00", round=1)
    federation.drop("site-00", round=2)


def test_a_client_that_raises_an_interrupt_is_a_member_that_failed() -> None:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    app, good = ClientApp(), apps.client_app()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            raise KeyboardInterrupt
        return good(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return good(message, context)

    ran = Federation(members=2).run(apps.server_app(), app, {"rounds": 1})
    assert ran.rounds[0].accepted == ("site-00",)
    assert (
        ran.rounds[0].refused["site-01"].startswith("M108: KeyboardInterrupt at test_testing.py:")
    )


def test_an_interrupt_that_a_person_sends_is_one_whoever_is_at_work() -> None:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the interrupt went by")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Federation(members=2).run(apps.server_app(), app, {"rounds": 1})
    assert signal.getsignal(signal.SIGINT) is before


def test_the_old_apis_are_refused_with_the_remedy() -> None:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    with pytest.raises(BarnraiseError) as server:
        Federation(members=2).run(ServerApp(), apps.client_app())
    with pytest.raises(BarnraiseError) as client:
        Federation(members=2).run(apps.server_app(), ClientApp(client_fn=lambda context: None))  # type: ignore[arg-type,return-value]
    assert server.value.code == client.value.code == "A104"
