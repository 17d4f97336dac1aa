"""`barnraise audit`: every rule is recomputed to the byte, and each lie of a coordinator is found."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import audit_kit as kit
import pytest

from barnraise.coordinator.audit.audit import Audit
from barnraise.coordinator.campaign import Campaign
from barnraise.coordinator.faults import Drop
from barnraise.protocols.errors import BarnraiseError
from barnraise.strategies import exact

RULES = {
    "mean": {"strategy": 'name = "fedavg"\nfraction_train = 0.6'},
    "diloco": {"strategy": 'name = "diloco"\nlr = 0.9\nmomentum = 0.5'},
    "krum": {"strategy": 'name = "krum"'},
    "everything": {
        "strategy": 'name = "multi-krum"\nnorm_bound_median = 2.0\nnnm = 1\nouter = "adam"\nlr = 0.05'
    },
    "mixed median": {"strategy": 'name = "median"\nnnm = 2'},
    "scaffold": {
        "strategy": 'name = "scaffold"\nfraction_train = 0.6',
        "training": 'optimizer = "sgd"',
    },
    "coded": {"strategy": 'name = "diloco"', "training": 'codec = "int4"'},
    "seldom evaluated": {"strategy": 'name = "fednova"', "rounds": "evaluate_every = 2"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def honest(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("honest")
    return kit.conducted(place / "run", data, strategy=RULES["diloco"]["strategy"])


@pytest.mark.parametrize("rule", RULES)
def test_l8_checkable_every_rule_is_recomputed_to_the_byte(
    rule: str, data: Path, tmp_path: Path
) -> None:
    run = kit.conducted(tmp_path / "run", data, **RULES[rule])
    assert kit.recomputed(run) == [0, 1, 2]
    assert kit.recomputed(run, 2) == [2]


def test_a_void_round_keeps_model_and_state(data: Path, tmp_path: Path) -> None:
    run = kit.conducted(
        tmp_path / "run",
        data,
        faults={("bern", 2): Drop()},
        strategy=RULES["diloco"]["strategy"],
        rounds="quorum = 5\ndeadline = 9.0",
    )
    with kit.audited(run) as audit:
        found = list(audit.recompute(audit.chosen(None)))
        assert [one.void for one in found] == [False, False, True]
        assert any("void: 2" in line for line in audit.facts())


LIES = {
    kit.OtherModel: (
        "diloco",
        "the model is not the one",
        "model · 2.bias: 1 of 3 elements differ, by 0.25",
    ),
    kit.OtherState: (
        "diloco",
        "the state is not the one",
        "2.bias: 1 of 3 elements differ, by 1 at most",
    ),
    kit.OtherReport: ("diloco", "the report's 'after' is not", "0.125"),
    kit.OtherDecision: ("krum", "the decision on record", "selected"),
    kit.OtherBase: ("diloco", "did not carry the model of the seal before", "sent was"),
}


@pytest.mark.parametrize("liar", LIES, ids=lambda liar: liar.__name__)
def test_what_a_coordinator_made_up_is_found_and_named(
    liar: type[Campaign], data: Path, tmp_path: Path
) -> None:
    rule, what, how = LIES[liar]
    run = kit.conducted(tmp_path / "run", data, campaign=liar, **RULES[rule])
    assert kit.recomputed(run, 1) == [1]
    with pytest.raises(BarnraiseError) as caught:
        kit.recomputed(run)
    assert caught.value.code == "U102"
    assert caught.value.what.startswith("round 2 does not follow")
    assert what in caught.value.what
    assert how in caught.value.evidence


def _flip(path: Path) -> None:
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)


@pytest.mark.parametrize("which", ["a contribution", "a sealed state"])
@pytest.mark.parametrize("harm", [_flip, Path.unlink])
def test_a_blob_that_is_damaged_or_gone_is_named(
    which: str, harm: Callable[[Path], None], honest: Path
) -> None:
    with kit.audited(honest) as audit:
        record = audit.round(2)
        content = record.contents()["bern"] if which == "a contribution" else record.seal["content"]
        blob = audit.contents.envelope(content).blobs()[-1]
    path = honest / "blobs" / "sha256" / blob[7:9] / blob[9:]
    held = path.read_bytes()
    try:
        harm(path)
        with pytest.raises(BarnraiseError) as caught:
            kit.recomputed(honest, 2)
        assert caught.value.code == "U103"
        assert blob in caught.value.evidence
        assert kit.recomputed(honest, 1) == [1]
    finally:
        path.write_bytes(held)


def test_a_log_that_does_not_hold_together_is_not_recomputed(
    honest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kit.audited(honest) as audit:
        entries = [data for _, data in audit.source.entries()]
        seal = max(i for i, data in enumerate(entries) if b'"round.sealed"' in data)
        entries[seal] = entries[seal].replace(b'"batches":', b'"batches":1')
        monkeypatch.setattr(audit.source, "entries", lambda: iter(enumerate(entries)))
        with pytest.raises(BarnraiseError) as caught:
            Audit(audit.source)
    assert caught.value.code == "U105"
    assert f"entry {seal}: round.sealed" in caught.value.evidence


@pytest.mark.parametrize(("number", "run"), [(7, None), (None, "elsewhere")])
def test_what_there_is_none_of(number: int | None, run: str | None, honest: Path) -> None:
    with kit.audited(honest) as audit, pytest.raises(BarnraiseError) as caught:
        if run is None:
            audit.chosen(number)
        else:
            Audit(audit.source, run)
    assert caught.value.code == "U104"


def test_a_directory_that_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(BarnraiseError) as caught:
        kit.recomputed(tmp_path)
    assert caught.value.code == "U101"


def test_l6_flat_memory_the_audit_does_not_grow_with_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of 1 MB: of 4 members and of 12 the audit takes as much, but for less than a model."""

    def peak(members: int) -> int:
        place = tmp_path / str(members)
        place.mkdir()
        data = kit.write_data(place / "data", [f"site-{i:02}" for i in range(members)])
        big = {
            "strategy": 'name = "diloco"',
            "hidden": "[248, 1000]",
            "rounds": "evaluate_every = 9",
        }
        run = kit.conducted(place / "run", data, **big)
        kit.recomputed(run, 1)
        monkeypatch.setattr(
            exact, "default_threads", lambda: 1
        )  # each thread has a room of its own
        exact._idle.clear()
        tracemalloc.start()
        try:
            assert kit.recomputed(run, 2) == [2]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(4), peak(12)
    assert many - few < 1_000_000
