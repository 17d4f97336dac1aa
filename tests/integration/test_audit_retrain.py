"""`audit --retrain`: a member's training again, to the byte; and whoever sent something else is found."""

from __future__ import annotations

import json
from pathlib import Path

import audit_kit as kit
import numpy as np
import pytest
from flwr.app import RecordDict

from barnraise.auditing import retrain
from barnraise.auditing.retrain import Retrained, Retraining
from barnraise.auditing.seeds import secret_of
from barnraise.client.keys import NodeKeys
from barnraise.coordinator.faults import Drop, Poison
from barnraise.coordinator.local import LocalMember
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.randomness import simulation_secret


def shifted(records: RecordDict) -> None:
    """A member that moves its model where it wants."""
    arrays = records.array_records["arrays"]
    for name, array in kit.moved(arrays, "2.bias", 3.0).items():
        arrays[name] = array


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Geneva sends another model than it trained in round 2; Lugano is silent in round 1."""
    faults = {("geneva", 2): Poison(shifted), ("lugano", 1): Drop()}
    return kit.conducted(
        tmp_path_factory.mktemp("run") / "run",
        data,
        faults=faults,
        strategy='name = "fedavg"',
        rounds="deadline = 9.0",
    )


def again(
    run: Path, member: str, number: int, data: Path, seed: int | None = None
) -> list[Retrained]:
    found: list[Retrained] = []
    with kit.audited(run) as audit:
        secret = secret_of(audit, member, seed, None)
        Retraining(audit, member, data, secret).run(number, found.append)
    return found


def test_a_contribution_is_trained_again_to_the_byte(run: Path, data: Path) -> None:
    found = again(run, "basel", 2, data / "basel")
    assert found == [Retrained(1, True), Retrained(2, True)]


def test_whether_a_silent_member_had_trained_is_found_out(run: Path, data: Path) -> None:
    assert again(run, "lugano", 2, data / "lugano", seed=0) == [Retrained(2, True)]


@pytest.mark.parametrize(
    "parts",
    [
        {"strategy": 'name = "scaffold"', "training": 'optimizer = "sgd"'},
        {"strategy": 'name = "diloco"', "training": 'codec = "int4"\nupdate_norm = 0.5'},
    ],
    ids=["scaffold", "int4"],
)
def test_what_a_member_carries_is_carried_again(
    parts: dict[str, str], data: Path, tmp_path: Path
) -> None:
    run = kit.conducted(tmp_path / "run", data, **parts)
    assert again(run, "zurich", 2, data / "zurich") == [Retrained(1, True), Retrained(2, True)]


def test_where_nothing_is_carried_one_round_suffices(data: Path, tmp_path: Path) -> None:
    plain = 'optimizer = "sgd"\n'
    charter = {"strategy": 'name = "fedavg"', "training": plain, "warmup": "0"}
    run = kit.conducted(tmp_path / "run", data, **charter)
    assert again(run, "zurich", 2, data / "zurich") == [Retrained(2, True)]


@pytest.mark.parametrize(
    ("member", "whose", "number"),
    [("geneva", "geneva", 2), ("basel", "zurich", 1)],
    ids=["what was sent was not trained", "the data are others"],
)
def test_another_contribution_is_told_apart(
    member: str, whose: str, number: int, run: Path, data: Path
) -> None:
    with pytest.raises(BarnraiseError) as caught:
        again(run, member, 2, data / whose)
    assert caught.value.code == "U108"
    assert caught.value.what.startswith(f"what {member} contributed to round {number}")
    assert "2.bias" in caught.value.evidence


def test_elsewhere_the_update_must_lie_close_and_what_differs_is_said(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine: other versions, and a last bit here and there."""
    real = retrain.Handlers.run
    by = 1e-6

    def elsewhere(*arguments: object, **named: object) -> object:
        handled = real(*arguments, **named)  # type: ignore[arg-type]
        assert handled.reply is not None
        arrays = handled.reply.array_records["arrays"]
        for name, array in kit.moved(arrays, "0.bias", by).items():
            arrays[name] = array
        return handled

    monkeypatch.setattr(retrain.Handlers, "run", elsewhere)
    with pytest.raises(BarnraiseError, match="U108"):
        again(run, "bern", 1, data / "bern")
    environment = retrain.environment
    monkeypatch.setattr(
        retrain, "environment", lambda device: {**environment(device), "torch": "1.0"}
    )
    (found,) = again(run, "bern", 1, data / "bern")
    assert not found.identical
    assert 0 < found.gap < retrain.TOLERANCE
    assert list(found.differs) == ["torch"]
    by = 1.0
    with pytest.raises(BarnraiseError, match="U108"):
        again(run, "bern", 1, data / "bern")


def test_each_contribution_says_what_it_was_made_with(run: Path) -> None:
    with kit.audited(run) as audit:
        content = audit.round(1).contents()["basel"]
        said = audit.contents.records(content).config_records["environment"]
    assert said["numpy"] == np.__version__
    assert said["threads"] == 1
    assert set(said) == {"python", "torch", "numpy", "machine", "capability", "device", "threads"}


# --- by which secret ------------------------------------------------------------------------------------


def test_the_secret_is_that_of_the_seed_or_of_the_members_own_node(
    run: Path, tmp_path: Path
) -> None:
    theirs = LocalMember.simulated(simulation_secret(0), "basel", {})
    NodeKeys.given(tmp_path / "basel", theirs.key, theirs.secret)
    with kit.audited(run) as audit:
        kept = json.loads((run / "source.json").read_text())["seed"]
        assert secret_of(audit, "basel", None, None) == theirs.secret
        assert secret_of(audit, "basel", kept, None) == theirs.secret
        assert secret_of(audit, "basel", None, tmp_path / "basel") == theirs.secret
        for seed, node, member in [
            (1, None, "basel"),
            (None, tmp_path, "basel"),
            (None, tmp_path / "basel", "bern"),
        ]:
            with pytest.raises(BarnraiseError, match="U109"):
                secret_of(audit, member, seed, node)


def test_what_cannot_be_trained_again_is_said(run: Path, data: Path) -> None:
    with pytest.raises(BarnraiseError, match="U104"):
        again(run, "lugano", 1, data / "lugano")
    (run / "app" / "helper.py").write_text("")
    try:
        with pytest.raises(BarnraiseError, match="U110"):
            again(run, "basel", 1, data / "basel")
    finally:
        (run / "app" / "helper.py").unlink()
