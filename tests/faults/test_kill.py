"""SIGKILL, then the same command again: the same final digest, nothing accepted redone or lost.

Every step at which an undisturbed run makes something durable, one after another in one directory; with
`make faults` also every entry by itself, before and after, and moments drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from kills import MOMENTS, Driver, Ended, Row, accepted, entries, timed

from barnraise.protocols.entries import Entry

RESUMED = {"fedavg": "replay", "everything": "replay", "sealing": "seal"}
Matrix = Callable[[Row], None]


@pytest.fixture(scope="module", params=RESUMED)
def app(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def whole(app: str, driven: Driver, tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """The entries of a run that nobody interrupted."""
    place = tmp_path_factory.mktemp("whole") / app
    assert driven.run(app, place).code == 0
    found = entries(place)
    assert len(found) > 12 and found[-1].type == "run.closed"
    return found


def model(whole: list[Entry]) -> str:
    digest: str = whole[-1].body["model"]
    return digest


def test_l2_unkillable_killed_at_each_step_in_turn(
    app: str, whole: list[Entry], driven: Driver, tmp_path: Path, matrix: Matrix
) -> None:
    """Before what is next to be durable, then after it, until there is nothing more."""
    place, before = tmp_path / "run", list[Entry]()
    row = Row(app, RESUMED[app], "coordinator, each step", 2 * len(whole))
    with timed(row):
        while len(before) < len(whole):
            for moment in MOMENTS:
                ended = driven.run(app, place, f"{moment}:{len(before)}")
                assert ended.killed, ended
                assert accepted(before).isdisjoint(ended.calls)
                found = entries(place)
                assert found[: len(before)] == before
                assert (len(found) > len(before)) == (moment == "after")
                row.kills += 1
                before = found
        ended = driven.run(app, place)
    assert [e.type for e in before] == [e.type for e in whole]
    assert ended.digest == model(whole) and ended.calls == []
    row.digest = ended.digest
    matrix(row)


@pytest.mark.slow
def test_l2_unkillable_killed_at_any_entry(
    app: str, whole: list[Entry], driven: Driver, tmp_path: Path, matrix: Matrix
) -> None:
    row = Row(app, RESUMED[app], "coordinator, any entry", 2 * len(whole), digest=model(whole))
    with timed(row):
        for index in range(len(whole)):
            for moment in MOMENTS:
                place = tmp_path / f"{moment}-{index}" / "run"
                place.parent.mkdir()
                assert driven.run(app, place, f"{moment}:{index}").killed
                before = entries(place)
                assert (len(before) > index) == (moment == "after")
                ended = driven.run(app, place)
                assert ended.digest == model(whole), (moment, index)
                assert accepted(before).isdisjoint(ended.calls)
                assert entries(place)[: len(before)] == before
                row.kills += 1
    matrix(row)


@pytest.mark.slow
@pytest.mark.parametrize("app", RESUMED)
def test_l2_unkillable_killed_at_any_time(
    app: str, driven: Driver, tmp_path: Path, matrix: Matrix
) -> None:
    """Twenty times, at moments drawn from the time that a whole run takes; a run that came to its end
    all the same is followed by another."""
    rounds, draw = 12, random.Random(app)
    whole = driven.run(app, tmp_path / "whole", rounds=rounds)
    who = f"coordinator, any time, {rounds} rounds"  # more than elsewhere: another model
    row = Row(app, RESUMED[app], who, 20, digest=whole.digest)
    runs = 0
    with timed(row):
        while row.kills < row.points:
            row.kills += killed_at_random(
                app, driven, tmp_path / f"run-{runs}", draw, whole, rounds
            )
            runs += 1
    assert runs < row.points
    matrix(row)


def killed_at_random(
    app: str, driven: Driver, place: Path, draw: random.Random, whole: Ended, rounds: int
) -> int:
    """How often a run was killed before it came to the end of an undisturbed one."""
    before, killed = list[Entry](), 0
    while True:
        seconds = draw.uniform(0.0, 0.7 * whole.seconds)
        ended = driven.run(app, place, rounds=rounds, seconds=seconds)
        assert accepted(before).isdisjoint(ended.calls)
        found = entries(place)
        assert found[: len(before)] == before
        if not ended.killed:
            assert ended.digest == whole.digest
            return killed
        before, killed = found, killed + 1
