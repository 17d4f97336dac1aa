"""Two commands that write the same release: the second says so, and spoils nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from barnraise.coordinator.release.make import alone
from barnraise.protocols.errors import BarnraiseError


def test_the_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    (partial / "left").mkdir(parents=True)
    with alone(partial):
        assert list(partial.iterdir()) == []
        (partial / "file").write_text("first")
        with pytest.raises(BarnraiseError, match="another command") as raised, alone(partial):
            pass
        assert raised.value.code == "D102"
        assert (partial / "file").read_text() == "first"
    with pytest.raises(ZeroDivisionError), alone(partial):
        raise ZeroDivisionError
    assert not partial.exists()
