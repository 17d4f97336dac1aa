"""The built-in app under `sim run charter.toml --data DIR`, whole: engine, client, strategies."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from safetensors.numpy import load_file, save_file

from barnraise.builtin import charter_plan, member_directories
from barnraise.client.app import client_app
from barnraise.coordinator import campaign, events
from barnraise.coordinator.directory import opened
from barnraise.coordinator.history import history
from barnraise.coordinator.simulate import Outcome, execute, replay
from barnraise.protocols import flower
from barnraise.protocols.errors import BarnraiseError

CHARTER = """
name = "flowers"
[task]
name = "classification"
features = 4
classes = 3
hidden = [8]
[training]
steps = 10
batch = 8
lr = 0.02
warmup = 2
[strategy]
name = "diloco"
lr = 0.9
momentum = 0.4
[rounds]
count = 4
"""
OWN = """
[task]
name = "halves:Halves"
noise = 0.5
[training]
steps = 5
[rounds]
count = 2
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three members, each with 40 rows around three centres of its own choosing."""
    for i, name in enumerate(("basel", "geneva", "zurich")):
        rng = np.random.default_rng(i)
        y = rng.integers(0, 3, 40)
        x = np.eye(4)[y] * 3 + rng.standard_normal((40, 4)) + 0.2 * i
        (tmp_path / "data" / name).mkdir(parents=True)
        np.savez(tmp_path / "data" / name / "rows.npz", x=x, y=y)
    return tmp_path / "data"


@pytest.fixture
def charter(tmp_path: Path) -> Path:
    (tmp_path / "charter.toml").write_text(CHARTER)
    return tmp_path / "charter.toml"


def seals(charter: Path, data: Path, directory: Path | None = None, **options: object) -> Outcome:
    return execute(charter_plan(charter, data, {}), directory, **options)  # type: ignore[arg-type]


def test_a_run_learns_and_is_the_same_each_time(charter: Path, data: Path, tmp_path: Path) -> None:
    first = seals(charter, data, tmp_path / "one")
    second = seals(charter, data, tmp_path / "two")
    assert first.model == second.model
    rounds = history(tmp_path / "one")
    losses = [r.report["after"]["loss"] for r in rounds]
    assert [r.number for r in rounds] == [0, 1, 2, 3, 4]
    assert losses[-1] < 0.7 * losses[0]
    assert all(r.accepted == ("basel", "geneva", "zurich") for r in rounds[1:])
    assert all(r.report["before"] == b.report["after"] for b, r in pairwise(rounds))
    assert set(load_file(tmp_path / "one" / "model.safetensors")) == {
        "0.bias",
        "0.weight",
        "2.bias",
        "2.weight",
    }


class Killed(BaseException):
    """What a failpoint raises: nothing may catch it, as nothing catches SIGKILL."""


def at(index: int) -> Callable[[str, int], None]:
    def failpoint(moment: str, entry: int) -> None:
        if (moment, entry) == ("after", index):
            raise Killed

    return failpoint


def test_l2_unkillable_a_campaign_goes_on_from_its_last_seal(
    charter: Path, data: Path, tmp_path: Path
) -> None:
    """Killed at journal entries all over the run, it ends in the same digest, and no round that is
    sealed is trained again."""
    whole = seals(charter, data, tmp_path / "whole")
    with opened(tmp_path / "whole") as place:
        entries = len(place.journal)
    for index in range(2, entries, 6):
        directory = tmp_path / f"killed-{index}"
        with pytest.raises(Killed):
            seals(charter, data, directory, failpoint=at(index))
        done = len(history(directory))
        seen: list[events.Event] = []
        outcome = seals(charter, data, directory, watcher=seen.append)
        assert outcome.model == whole.model
        assert outcome.resumed
        told = [e.round for e in seen if isinstance(e, events.Sealed)]
        assert told == list(range(done, 5))


def test_a_finished_run_replays_without_clients_and_data(
    charter: Path, data: Path, tmp_path: Path
) -> None:
    outcome = seals(charter, data, tmp_path / "run")
    for file in data.rglob("*.npz"):
        file.unlink()
    charter.unlink()
    assert replay(tmp_path / "run").model == outcome.model


def test_it_may_start_from_weights_of_ones_own(charter: Path, data: Path, tmp_path: Path) -> None:
    seals(charter, data, tmp_path / "first")
    (tmp_path / "first" / "model.safetensors").rename(tmp_path / "start.safetensors")
    charter.write_text(CHARTER + '[model]\ninit = "start.safetensors"\n')
    seals(charter, data, tmp_path / "second")
    before, after = history(tmp_path / "first"), history(tmp_path / "second")
    assert after[0].model == before[-1].model
    assert after[0].report["after"] == before[-1].report["after"]
    assert replay(tmp_path / "second").model == after[-1].model


@pytest.mark.parametrize(
    "tensors",
    [
        {"0.weight": np.zeros((8, 4), np.float32)},
        {"other": np.zeros(3, np.float32)},
        {"0.weight": np.full((8, 4), np.nan, np.float32)},
    ],
)
def test_weights_of_another_model_are_c106(
    charter: Path, data: Path, tmp_path: Path, tensors: dict[str, np.ndarray]
) -> None:
    save_file(tensors, tmp_path / "start.safetensors")
    charter.write_text(CHARTER + '[model]\ninit = "start.safetensors"\n')
    with pytest.raises(BarnraiseError) as caught:
        seals(charter, data, tmp_path / "run")
    assert caught.value.code == "C106"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("contents", [None, b"", b"no safetensors"])
def test_weights_that_cannot_be_read_are_c106(
    charter: Path, data: Path, tmp_path: Path, contents: bytes | None
) -> None:
    if contents is not None:
        (tmp_path / "start.safetensors").write_bytes(contents)
    charter.write_text(CHARTER + '[model]\ninit = "start.safetensors"\n')
    with pytest.raises(BarnraiseError) as caught:
        seals(charter, data)
    assert caught.value.code == "C106"


HALVES = '''
"""Which half of the line a number is in."""
from itertools import pairwise
from pathlib import Path
import torch
from torch import nn
from barnraise.client.tasks import Split
from torch.utils.data import TensorDataset

class Halves:
    def __init__(self, noise: float = 0.1):
        self.noise = noise
    def model(self):
        return nn.Linear(1, 1)
    def data(self, directory: Path):
        x = torch.tensor([float(v) for v in (directory / "numbers.txt").read_text().split()])[:, None]
        return Split(TensorDataset(x[5:], (x[5:] > 0).float()), TensorDataset(x[:5], (x[:5] > 0).float()))
    def loss(self, model, batch):
        return nn.functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])
    def metrics(self, model, batch):
        return {"right": ((model(batch[0]) > 0) == (batch[1] > 0)).float().mean().item()}
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "halves.py").write_text(HALVES)
    (tmp_path / "charter.toml").write_text('name = "halves"\n' + OWN)
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "numbers.txt").write_text(" ".join(map(str, range(-20, 20))))
    return tmp_path / "charter.toml"


def test_a_task_of_ones_own_is_part_of_the_apps_digest(own: Path, tmp_path: Path) -> None:
    first = seals(own, tmp_path / "data", tmp_path / "run")
    assert history(tmp_path / "run")[-1].report["after"].keys() == {"loss", "right"}
    assert replay(tmp_path / "run").model == first.model
    (tmp_path / "halves.py").write_text(HALVES + "# another\n")
    with pytest.raises(BarnraiseError) as caught:
        seals(own, tmp_path / "data", tmp_path / "run")
    assert caught.value.code == "D101"
    assert first.app in str(caught.value)


def test_a_task_may_use_nothing_beside_its_own_file(own: Path, tmp_path: Path) -> None:
    """What is not in the app's digest would run unseen."""
    (tmp_path / "beside.py").write_text("value = 3\n")
    (tmp_path / "halves.py").write_text("import beside\n" + HALVES)
    with pytest.raises(BarnraiseError) as caught:
        seals(own, tmp_path / "data", tmp_path / "run")
    assert caught.value.code == "C105"
    assert "beside" in str(caught.value)


def test_a_member_alone_is_the_same_run_in_which_nobody_else_trains(
    charter: Path, data: Path, tmp_path: Path
) -> None:
    plan = charter_plan(charter, data, {}, trainers=["geneva"])
    execute(plan, tmp_path / "alone")
    rounds = history(tmp_path / "alone")
    assert all(r.accepted == ("geneva",) for r in rounds[1:])
    assert set(rounds[-1].report["members"]) == {"basel", "geneva", "zurich"}
    assert replay(tmp_path / "alone").model == rounds[-1].model


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda t: t.replace("count = 4", "count = 4\nquorum = 9"), "C104", "rounds.quorum"),
        (lambda t: t.replace('"diloco"', '"dilco"'), "C104", "dilco"),
        (lambda t: t.replace("momentum = 0.4", "momentum = 1.4"), "C104", "momentum"),
        (lambda t: t.replace("features = 4", "features = 5"), "D202", "rows.npz"),
    ],
)
def test_what_can_be_known_before_is_refused_before(
    charter: Path,
    data: Path,
    tmp_path: Path,
    change: Callable[[str], str],
    code: str,
    said: str,
) -> None:
    charter.write_text(change(CHARTER))
    with pytest.raises(BarnraiseError) as caught:
        seals(charter, data, tmp_path / "run")
    assert caught.value.code == code
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_data_directories_are_refused_by_name(data: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", data / "basel"):
        with pytest.raises(BarnraiseError) as caught:
            member_directories(path)
        assert caught.value.code == "D201"
    (data / "St. Gallen").mkdir()
    with pytest.raises(BarnraiseError) as named:
        member_directories(data)
    assert "St. Gallen" in str(named.value)


def test_a_member_whose_data_vanish_costs_the_others_nothing(
    charter: Path, data: Path, tmp_path: Path
) -> None:
    plan = charter_plan(charter, data, {})
    (data / "geneva" / "rows.npz").unlink()
    outcome = execute(plan, tmp_path / "run")
    rounds = history(tmp_path / "run")
    assert all(r.accepted == ("basel", "zurich") for r in rounds[1:])
    assert "D201" in rounds[1].refused["geneva"]
    assert any("geneva" in problem for problem in outcome.problems)


class MinimalGrid(Grid):
    """What Flower's Grid promises and no more; replies come in no particular order."""

    def __init__(self, charter: str, data: Path) -> None:
        self._nodes = {7 + i: d for i, d in enumerate(member_directories(data).values())}
        self._app = client_app()
        self._config = {"charter": charter}
        self._states = {node: RecordDict() for node in self._nodes}

    def set_run(self, run: flower.Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> flower.Run:
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self._nodes)

    def push_messages(self, messages: object) -> list[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: object) -> list[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: object, *, timeout: float | None = None) -> list[Message]:
        return [self._answer(m) for m in reversed(list(messages))]  # type: ignore[call-overload]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = Context(
            1, node, {"data": str(self._nodes[node])}, self._states[node], self._config
        )
        reply = self._app(message, context)
        reply.metadata.__dict__["_src_node_id"] = node
        self._states[node] = context.state
        return reply


def test_the_same_app_runs_on_a_grid_that_knows_nothing_of_ours(data: Path) -> None:
    flower.become_server(1)
    grid = MinimalGrid(CHARTER, data)
    flower.seed_generators(b"0" * 32)
    context = Context(1, 1, {}, RecordDict(), {"charter": CHARTER})
    sealed: list[dict[str, object]] = []
    run = campaign.Campaign(campaign.Charter.parse(CHARTER), grid, None, None)
    run.recorder.seal = lambda number, model, state, report: sealed.append(dict(report))  # type: ignore[method-assign]
    run.run()
    campaign.server_app()(grid, context)
    losses = [report["after"]["loss"] for report in sealed]  # type: ignore[index]
    assert len(losses) == 5
    assert losses[-1] < 0.7 * losses[0]
