"""How a run ends when the app does something foolish, and what a person is then told."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apps
import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Krum

from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.errors import BarnraiseError
from barnraise.testing import Federation, Run


def server(main: Callable[[Grid], Any]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def call(grid: Grid, context: Context) -> None:
        main(grid)

    return app


def ask(grid: Grid) -> list[Message]:
    content = RecordDict({"arrays": apps.initial()})
    return [Message(content, node, "train") for node in grid.get_node_ids()]


def run(main: Callable[[Grid], Any], **options: Any) -> Run:
    return Federation(members=2).run(server(main), apps.client_app(), {}, **options)


def test_a_server_app_that_raises_is_told_with_its_place() -> None:
    def main(grid: Grid) -> None:
        raise ZeroDivisionError("by zero")

    with pytest.raises(BarnraiseError) as told:
        run(main)
    assert told.value.code == "A201" and "ZeroDivisionError: by zero" in told.value.evidence
    assert Path(__file__).name in told.value.evidence
    assert isinstance(told.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("status", [None, 0])
def test_sys_exit_without_a_status_is_the_end_of_the_app(status: int | None) -> None:
    def main(grid: Grid) -> None:
        list(grid.send_and_receive(ask(grid)))
        sys.exit(status)

    assert len(run(main).rounds) == 1


@pytest.mark.parametrize("status", [3, "no luck"])
def test_sys_exit_with_a_status_is_an_error(status: Any) -> None:
    with pytest.raises(BarnraiseError) as told:
        run(lambda grid: sys.exit(status))
    assert told.value.code == "A201" and f"SystemExit: {status}" in told.value.evidence


def test_an_interrupt_is_an_interrupt(tmp_path: Path) -> None:
    def main(grid: Grid) -> None:
        list(grid.send_and_receive(ask(grid)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(main, directory=tmp_path / "run")
    whole = run(lambda grid: list(grid.send_and_receive(ask(grid))), directory=tmp_path / "run")
    assert whole.outcome.resumed and whole.batches[0].replayed


def test_an_app_that_catches_everything_cannot_hide_the_grids_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: BlobStore) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "blobs/incoming/x")

    def main(grid: Grid) -> None:
        nodes = ask(grid)
        monkeypatch.setattr(BlobStore, "sync", full)
        for _ in range(3):
            try:
                list(grid.send_and_receive(nodes))
            except Exception:
                monkeypatch.undo()

    with pytest.raises(BarnraiseError) as told:
        run(main)
    assert told.value.code == "D104" and "blobs/incoming/x" in told.value.evidence


def test_a_disk_that_only_refuses_is_not_blamed_on_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: BlobStore) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "blobs")

    def main(grid: Grid) -> None:
        nodes = ask(grid)
        monkeypatch.setattr(BlobStore, "sync", refuse)
        list(grid.send_and_receive(nodes))

    with pytest.raises(BarnraiseError) as told:
        run(main)
    assert told.value.code == "D105"


def test_a_full_disk_under_the_apps_own_file_is_a_full_disk() -> None:
    def main(grid: Grid) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "history.json")

    with pytest.raises(BarnraiseError) as told:
        run(main)
    assert told.value.code == "D104" and "history.json" in told.value.evidence
    assert "nothing of it is kept" in told.value.changed and "--dir" in told.value.next


def test_an_app_that_waits_for_more_members_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BarnraiseError) as told:
        Federation(members=2).run(
            apps.server_app(FedAvg(min_available_nodes=5)), apps.client_app(), {"rounds": 1}
        )
    assert told.value.code == "A202" and "site-00, site-01" in told.value.evidence


# --- members that fail, under Flower's own strategies ------------------------------------------------


def failing(*partitions: int) -> ClientApp:
    """`apps.client_app`, but these members' train handlers raise."""
    app, good = ClientApp(), apps.client_app()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] in partitions:
            raise ValueError("a secret of this site")
        return good(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return good(message, context)

    return app


def test_when_every_member_fails_that_is_said_by_name_and_no_data_leaves(tmp_path: Path) -> None:
    with pytest.raises(BarnraiseError) as told:
        Federation(members=3).run(
            apps.server_app(), failing(0, 1, 2), {"rounds": 2}, directory=tmp_path / "run"
        )
    assert told.value.code == "A204"
    assert all(f"site-0{i}: M108: ValueError at" in told.value.evidence for i in range(3))
    assert "secret" not in str(told.value)
    assert b"secret" not in (tmp_path / "run" / "journal.db").read_bytes()
    assert "secret" in (tmp_path / "run" / "logs" / "site-00.log").read_text()


class Nonsense:
    """What a handler returned instead of a Message."""


BAD_REPLIES: dict[str, Callable[[Message], Any]] = {
    "nothing": lambda m: None,
    "something else": lambda m: Nonsense(),
    "an exit": lambda m: sys.exit(1),
    "wrong keys": lambda m: _with(m, {"x": np.zeros(2, np.float32)}),
    "wrong shapes": lambda m: _with(
        m, {"0": np.zeros(2, np.float32), "1": np.zeros(5, np.float32)}
    ),
    "NaN": lambda m: _with(
        m, {"0": np.full((3, 4), np.nan, np.float32), "1": np.zeros(5, np.float32)}
    ),
    "no metrics": lambda m: Message(RecordDict({"arrays": apps.initial()}), reply_to=m),
    "other metrics": lambda m: Message(
        RecordDict({"arrays": apps.initial(), "m": MetricRecord({"num-examples": 3, "b": 1})}),
        reply_to=m,
    ),
}


def _with(message: Message, arrays: dict[str, Any]) -> Message:
    content = RecordDict({"arrays": apps.ArrayRecord(list(arrays.values()))})
    content["m"] = MetricRecord({"num-examples": 3, "noise": 0.5})
    if "x" in arrays:
        content["arrays"] = apps.ArrayRecord([*apps.initial().to_numpy_ndarrays(), arrays["x"]])
    return Message(content, reply_to=message)


@pytest.mark.parametrize("strategy", [FedAvg, FedMedian, FedTrimmedAvg, Krum])
@pytest.mark.parametrize("case", BAD_REPLIES)
def test_one_bad_member_does_not_end_a_flower_strategy(case: str, strategy: type[FedAvg]) -> None:
    app, good = ClientApp(), apps.client_app()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            return BAD_REPLIES[case](message)  # type: ignore[no-any-return]
        return good(message, context)

    rule = strategy(fraction_evaluate=0.0, min_train_nodes=4, min_available_nodes=4)
    run = Federation(members=4).run(apps.server_app(rule), app, {"rounds": 1})
    (batch,) = run.rounds
    assert batch.refused.keys() == {"site-01"}
    assert batch.accepted == ("site-00", "site-02", "site-03")
    assert all(np.isfinite(a).all() for a in run.model.values()) and len(run.model) == 2
