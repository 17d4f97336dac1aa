"""Counterfactuals: the model without a member, or by another strategy, and its loss beside the real one."""

from __future__ import annotations

from pathlib import Path

import audit_kit as kit
import pytest
from flwr.app import RecordDict

from barnraise.auditing.evaluate import Evaluator
from barnraise.coordinator.audit.counterfactual import otherwise
from barnraise.coordinator.faults import Poison
from barnraise.protocols.errors import BarnraiseError


def poisoned(records: RecordDict) -> None:
    arrays = records.array_records["arrays"]
    for key in list(arrays):
        for name, array in kit.moved(arrays, key, 20.0).items():
            arrays[name] = array


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Geneva poisons round 2."""
    return kit.conducted(
        tmp_path_factory.mktemp("run") / "run",
        data,
        faults={("geneva", 2): Poison(poisoned)},
        strategy='name = "fedavg"',
    )


@pytest.mark.parametrize(
    ("without", "strategy"), [(["geneva"], None), ([], ("trimmed-mean", {"f": 1}))]
)
def test_without_the_poisoned_member_the_loss_is_lower(
    without: list[str], strategy: tuple[str, dict[str, int]] | None, run: Path, data: Path
) -> None:
    with kit.audited(run) as audit:
        record = audit.round(2)
        found = otherwise(audit.bench, record, without, strategy)
        evaluator = Evaluator(audit, data)
        real = evaluator.evaluate(2, found.real).mean
        other = evaluator.evaluate(2, found.model).mean
    assert real == record.seal["report"]["after"]
    assert other["loss"] < 0.7 * real["loss"]
    away, moved = found.moved()
    assert away > 0.5 * moved
    assert set(found.members) == set(kit.MEMBERS) - set(without)


def test_with_all_members_by_its_own_rule_the_model_is_the_real_one(run: Path) -> None:
    with kit.audited(run) as audit:
        found = otherwise(audit.bench, audit.round(2), [], ("fedavg", {}))
    assert found.moved()[0] == 0.0


def test_a_rule_that_keeps_a_state_begins_without_and_says_so(run: Path) -> None:
    with kit.audited(run) as audit:
        assert otherwise(audit.bench, audit.round(2), [], ("diloco", {})).fresh


def test_too_few_are_left_and_the_model_would_have_stayed(run: Path) -> None:
    with kit.audited(run) as audit:
        found = otherwise(audit.bench, audit.round(2), kit.MEMBERS, None)
        assert found.stayed
        assert found.moved()[0] == found.moved()[1]


@pytest.mark.parametrize(("number", "without"), [(0, ["basel"]), (2, ["nobody"])])
def test_there_is_no_such_counterfactual(number: int, without: list[str], run: Path) -> None:
    with kit.audited(run) as audit, pytest.raises(BarnraiseError, match="U111"):
        otherwise(audit.bench, audit.round(number), without, None)
