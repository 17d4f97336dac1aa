"""How long a killed run takes to be where it was: from the last seal always the same; by replay, as long
as the app's own code takes for the rounds that are over."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kills import Driver, Row, entries

Matrix = Callable[[Row], None]
FEW, MANY = 4, 40
TIMES = 3


def resume(app: str, rounds: int, driven: Driver, where: Path) -> tuple[float, str]:
    """Seconds of CPU, at best, that a run killed after its last round but one takes to go on; and the
    model in which every such run ends."""
    where.mkdir()
    whole = driven.run(app, where / "whole", rounds=rounds)
    closed = [i for i, e in enumerate(entries(where / "whole")) if e.type in LAST[app]]
    assert driven.run(app, where / "killed", f"after:{closed[-2]}", rounds=rounds).killed
    seconds = []
    for i in range(TIMES):
        place = shutil.copytree(where / "killed", where / str(i))
        ended = driven.run(app, place, rounds=rounds)
        assert ended.digest == whole.digest
        seconds.append(ended.resumed)
    return min(seconds), whole.digest


LAST = {"campaign": ["round.sealed"], "sealing": ["round.sealed"], "everything": ["batch.closed"]}


@pytest.mark.parametrize("app", ["sealing", pytest.param("campaign", marks=pytest.mark.slow)])
def test_from_a_seal_it_takes_no_longer_after_forty_rounds_than_after_four(
    app: str, driven: Driver, tmp_path: Path, matrix: Matrix
) -> None:
    few, _ = resume(app, FEW, driven, tmp_path / "few")
    many, digest = resume(app, MANY, driven, tmp_path / "many")
    said = (
        f"coordinator; resumes in {1000 * few:.0f} ms of {FEW} rounds, {1000 * many:.0f} of {MANY}"
    )
    matrix(Row(app, "seal", said, 2, 2, digest))
    assert many < 1.5 * few


@pytest.mark.slow
def test_by_replay_it_takes_less_than_the_rounds_took(
    driven: Driver, tmp_path: Path, matrix: Matrix
) -> None:
    few, _ = resume("everything", FEW, driven, tmp_path / "few")
    many, digest = resume("everything", MANY, driven, tmp_path / "many")
    whole = driven.run("everything", tmp_path / "whole", rounds=MANY).seconds
    said = (
        f"coordinator; resumes in {1000 * few:.0f} ms of {FEW} rounds, {1000 * many:.0f} of {MANY}"
    )
    matrix(Row("everything", "replay", said, 2, 2, digest))
    assert few < many < whole
