"""Which run a release is of, where none is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from barnraise.coordinator.log import Log
from barnraise.coordinator.release.source import _of_federation
from barnraise.protocols.entries import Entry


class _Closed:
    """A log with nothing but these runs' ends, each aborted or not."""

    def __init__(self, **aborted: bool) -> None:
        self._entries = [
            Entry("run.closed", "2026-01-01T00:00:00Z", {"run": run, "report": {"aborted": value}})
            for run, value in aborted.items()
        ]

    def find(self, key: str) -> int | None:
        keys = [f"run.closed {one.body['run']}" for one in self._entries]
        return keys.index(key) if key in keys else None

    def entry(self, index: int) -> Any:
        return self._entries[index].encode()


def test_an_aborted_run_is_not_the_last_finished_one(tmp_path: Path) -> None:
    for name, run in (("f-1", "one"), ("f-2", "two")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "source.json").write_text(json.dumps({"run": run}))
    log = cast(Log, _Closed(one=False, two=True))
    assert _of_federation(tmp_path, log, None)[0] == "one"
