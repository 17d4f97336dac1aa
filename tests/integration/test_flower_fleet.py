"""A charter on a grid of Flower's, with our journal: the record, the model, the way back after a kill."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flower_kit import FlowerGrid, Nodes, charter, data
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity
from release_runs import released

from barnraise.builtin import charter_plan
from barnraise.coordinator import events, flower_fleet
from barnraise.coordinator.directory import opened
from barnraise.coordinator.fleet import Order
from barnraise.coordinator.flower_fleet import FlowerFleet, member, name_of, node_of
from barnraise.coordinator.flower_run import Ended, Work, run_on
from barnraise.coordinator.flower_run import Nodes as Expected
from barnraise.coordinator.log_check import check_log
from barnraise.coordinator.simulate import execute, replay
from barnraise.flowerapp import client
from barnraise.flowerapp.server import Settings, told
from barnraise.protocols import flower
from barnraise.protocols.content import Envelope
from barnraise.protocols.errors import BarnraiseError

APP = Path(__file__).parents[2] / "deploy" / "flower"


@pytest.fixture(autouse=True)
def server_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's engine has set when it calls a ServerApp."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Clock:
    """Nothing is waited for: each pause is over at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def expected(count: int, wait: float = 30.0) -> Expected:
    clock = Clock()
    return Expected(count, wait, clock, clock.pause)


def conduct(
    place: Path, nodes: Nodes, path: Path, *, before: Any = lambda m: None, seed: int = 7
) -> tuple[Ended, list[events.Event]]:
    seen: list[events.Event] = []
    grid = FlowerGrid(nodes, before)
    ended = run_on(grid, 1, Work.of(path, seed), place, expected(nodes.count), seen.append)
    return ended, seen


def nodes_of(folder: Path, count: int, **how: Any) -> Nodes:
    config = {"data": str(data(folder / "data", count, **how)), "seed": 7}
    return Nodes(client.FlowerClient(), count, config)


# --- a whole run ------------------------------------------------------------------------------------


def test_the_record_is_whole_and_says_that_nobody_signed(tmp_path: Path) -> None:
    nodes, place = nodes_of(tmp_path, 3), tmp_path / "run"
    ended, seen = conduct(place, nodes, charter(tmp_path))
    assert (ended.resumed, ended.before) == (False, False)
    assert ended.members == tuple(name_of(i) for i in nodes.ids) == tuple(sorted(ended.members))
    closed = [e for e in seen if isinstance(e, events.BatchClosed)]
    assert [(e.type, len(e.accepted)) for e in closed] == [
        ("query.model", 1),
        *[("evaluate", 3), ("train", 3)] * 2,
        ("evaluate", 3),
    ]
    found = check_log(place)
    assert found.problems == [] and found.signatures == 0
    assert "16 replies are unsigned: nothing here shows whose they are" in found.facts
    assert any(fact.startswith("no witnesses") for fact in found.facts)
    assert any(ended.model in line for line in map(told, seen))
    again, _ = conduct(place, nodes, charter(tmp_path))
    assert again.before and again.model == ended.model
    assert replay(place).model == ended.model
    with pytest.raises(BarnraiseError) as refused:
        released(place, tmp_path / "release")
    assert refused.value.code == "G106"


def test_the_same_model_as_in_a_simulation_where_no_draw_matters(tmp_path: Path) -> None:
    """Names, and with them the seeds of orders, differ; the members' order does not."""
    nodes = nodes_of(tmp_path, 3, same=True)
    path = charter(tmp_path, optimizer="adamw", warmup=3)
    ended, _ = conduct(tmp_path / "run", nodes, path)
    simulated = execute(charter_plan(path, tmp_path / "data", {}, 7), None)
    assert ended.model == simulated.model


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("at", [2, 9, 12])
def test_l2_the_run_goes_on_under_another_flower_run(tmp_path: Path, at: int) -> None:
    """Flower's second run knows nothing of its first; what is on record is not asked for again.

    What members keep between rounds ends with Flower's run, so here they keep nothing.
    """
    path, nodes = charter(tmp_path), nodes_of(tmp_path, 3)
    whole, _ = conduct(tmp_path / "whole", nodes, path)
    sent: list[str] = []

    def before(message: Message) -> None:
        sent.append(message.metadata.message_type)
        if len(sent) == at:
            raise Killed

    with pytest.raises(Killed):
        conduct(tmp_path / "run", nodes, path, before=before)
    again: list[Message] = []
    ended, _ = conduct(tmp_path / "run", nodes, path, before=again.append)
    assert ended.resumed and ended.model == whole.model
    assert len(again) <= 16 - at + 1 + 2  # of the batch that was open, two may be done again
    assert check_log(tmp_path / "run").problems == []


def test_what_a_member_raises_does_not_leave_it(tmp_path: Path) -> None:
    nodes, place = nodes_of(tmp_path, 3), tmp_path / "run"
    (tmp_path / "data" / "site-01" / "rows.npz").write_bytes(b"a patient's name")
    ended, seen = conduct(place, nodes, charter(tmp_path))
    refused = [e.refused for e in seen if isinstance(e, events.BatchClosed) and e.refused]
    assert {name_of(nodes.ids[1])} == {name for one in refused for name in one}
    assert all("patient" not in why for one in refused for why in one.values())
    assert any("D202 at " in why for one in refused for why in one.values())
    assert ended.model


def test_another_charter_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    nodes = nodes_of(tmp_path, 2)
    conduct(tmp_path / "run", nodes, charter(tmp_path))
    with pytest.raises(BarnraiseError) as refused:
        conduct(tmp_path / "run", nodes, charter(tmp_path, rounds=3))
    assert refused.value.code == "D101" and "rounds.count" in refused.value.evidence


def test_k113_names_the_nodes_that_are_not_there(tmp_path: Path) -> None:
    nodes, path = nodes_of(tmp_path, 2), charter(tmp_path)
    with pytest.raises(BarnraiseError) as few:
        run_on(FlowerGrid(nodes), 1, Work.of(path, 7), tmp_path / "run", expected(3))
    assert few.value.code == "K113" and "1 more nodes" in few.value.evidence
    with pytest.raises(Killed):
        conduct(tmp_path / "run", nodes, path, before=lambda m: (_ for _ in ()).throw(Killed()))
    others = Nodes(nodes.app, 2, nodes.config, {7, 8})
    with pytest.raises(BarnraiseError) as gone:
        conduct(tmp_path / "run", others, path)
    assert gone.value.code == "K113" and name_of(nodes.ids[0]) in gone.value.evidence


# --- the fleet --------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[FlowerFleet, Nodes, Any]]:
    """Two members, the second not connected, and how to make an order for one of them."""
    nodes = nodes_of(tmp_path, 2)
    nodes.connected.discard(nodes.ids[1])
    clock = Clock()
    with opened(tmp_path / "run") as place:
        members = [member(name_of(i)) for i in nodes.ids]
        made = FlowerFleet(
            FlowerGrid(nodes),
            members,
            place.blobs,
            {"charter": charter(tmp_path).read_text()},
            clock=clock,
            pause=clock.pause,
        )
        content = place.blobs.put_envelope(Envelope(()).encode())

        def order(number: int) -> Order:
            name = members[number]
            return Order(f"sha256:{number}", 1, name, "query.model", "", content, 60.0, 0.0)

        yield made, nodes, order


def test_names_are_in_the_order_of_numbers() -> None:
    numbers = [0, 9, 10, 2**63, 2**64 - 1]
    names = [name_of(n) for n in numbers]
    assert names == sorted(names) and [node_of(n) for n in names] == numbers
    assert len({member(n).node_id for n in names}) == len(names)


def test_an_order_waits_until_its_node_is_connected(fleet: Any) -> None:
    made, nodes, order = fleet
    made.dispatch([order(0), order(1)])
    made.dispatch([order(0), order(1)])
    (first,) = made.arrivals(10.0)
    assert first.member == name_of(nodes.ids[0]) and first.statement is None
    assert made.arrivals(20.0) == [] and made.now() == 20.0
    nodes.connected.add(nodes.ids[1])
    (second,) = made.arrivals(40.0)
    assert second.order == "sha256:1" and len(made._grid.asked) == 2


def test_an_order_of_a_node_that_went_away_is_sent_again(fleet: Any) -> None:
    made, nodes, order = fleet
    made._connected, made._looked_at = frozenset(nodes.ids), made.now()
    made.dispatch([order(1)])
    assert made.arrivals(1.0) == []
    nodes.connected.add(nodes.ids[1])
    assert [d.order for d in made.arrivals(30.0)] == ["sha256:1"]


def test_what_is_withdrawn_before_it_was_sent_is_not_sent(fleet: Any) -> None:
    made, nodes, order = fleet
    made.dispatch([order(1)])
    made.withdraw({"sha256:1": name_of(nodes.ids[1])})
    nodes.connected.add(nodes.ids[1])
    assert made.arrivals(30.0) == [] and made._grid.asked == []


def test_an_order_that_the_grid_does_not_take_is_a_failure(
    fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, order = fleet
    monkeypatch.setattr(made._grid, "push_messages", lambda messages: [None])
    made.dispatch([order(0)])
    (failed,) = made.arrivals(1.0)
    envelope = made._evidence.envelope(failed.content)
    assert envelope.failure.reason == "Flower's grid did not take the order"


def test_k112_a_grid_that_fails_ends_the_run(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(messages: Any) -> Any:
        raise ConnectionError("refused")

    made, _, order = fleet
    monkeypatch.setattr(made._grid, "push_messages", gone)
    with pytest.raises(BarnraiseError) as told_:
        made.dispatch([order(0)])
    assert told_.value.code == "K112" and "refused" in told_.value.evidence


# --- the thin app -----------------------------------------------------------------------------------


def test_the_thin_app_names_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = flower.project(APP, {})
    assert flower.load_server_app(found.server, APP)
    assert flower.load_client_app(found.client, APP)
    assert flower_fleet.MARK == client.MARK
    monkeypatch.syspath_prepend(str(APP))
    settings = Settings.of({**found.config, "journal": "/srv/run"})
    assert settings.charter == APP / "charter.toml" and settings.seed is None
    Work.of(settings.charter, None)


def test_its_readme_explains_each_key() -> None:
    config = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    readme = (APP / "README.md").read_text()
    assert all(f"| `{key}` |" in readme for key in config)
    assert "must never be exposed" in readme


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"journal": "run"}, "journal"), ({"nodes": 0}, "nodes"), ({"charter": "none"}, "charter")],
)
def test_k111_a_setting_that_cannot_be_used(wrong: dict[str, Any], said: str) -> None:
    good = {"charter": str(APP / "charter.toml"), "journal": "/srv/run", "nodes": 2}
    assert Settings.of(good).nodes.count == 2
    with pytest.raises(BarnraiseError) as told_:
        Settings.of(good | wrong)
    assert told_.value.code == "K111" and said in told_.value.what
