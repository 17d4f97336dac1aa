"""What a directory keeps, held against the run: what is foreign, another's, damaged, or only to be read."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import apps
import pytest
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from barnraise.coordinator.directory import opened
from barnraise.coordinator.plans import plan_again
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors
from barnraise.testing import Federation, Run

CONFIG = {"rounds": 1}


def run(
    directory: Path | str | None = None, server: ServerApp | None = None, *, replay: bool = False
) -> Run:
    app = server or apps.server_app()
    client = apps.client_app()
    return Federation(members=2).run(app, client, CONFIG, directory=directory, replay=replay)


def told(code: str, act: Callable[[], object]) -> BarnraiseError:
    with pytest.raises(BarnraiseError) as caught:
        act()
    assert caught.value.code == code, str(caught.value)
    return caught.value


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*.*")}


# --- what is not a run's ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["app/thesis.txt", "source.json", "notes", "members/letter.txt"])
def test_a_directory_in_use_for_something_else_is_refused_and_left_as_it_is(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "d" / name).parent.mkdir(parents=True)
    (tmp_path / "d" / name).write_text("mine")
    error = told("D101", lambda: run(tmp_path / "d"))
    assert name.split("/")[0] in error.evidence
    assert [p for p in (tmp_path / "d").rglob("*") if p.is_file()] == [tmp_path / "d" / name]
    assert (tmp_path / "d" / name).read_text() == "mine"


def test_another_programs_journal_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    db = sqlite3.connect(tmp_path / "journal.db")
    db.execute("CREATE TABLE diary (day TEXT)")
    db.close()
    before = (tmp_path / "journal.db").read_bytes()
    assert "diary" in told("D101", lambda: run(tmp_path)).evidence
    assert (tmp_path / "journal.db").read_bytes() == before
    assert (tmp_path / "app").is_dir()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    assert "is a file" in told("D105", lambda: run(tmp_path / "d")).what


def test_a_directory_where_a_file_belongs_is_damage(tmp_path: Path) -> None:
    with pytest.raises(BarnraiseError) as found, disk_errors(tmp_path):
        tmp_path.read_bytes()
    assert found.value.code == "D106" and str(tmp_path) in found.value.what


def test_a_full_disk_names_the_file_that_was_written(tmp_path: Path) -> None:
    with pytest.raises(BarnraiseError) as full, disk_errors(tmp_path):
        raise OSError(28, "No space left on device", "read.txt", None, "written.txt")
    assert "written.txt" in full.value.evidence and "read.txt" not in full.value.evidence


# --- the model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contents", [b"", b"a foreign file"])
def test_a_model_file_that_is_not_the_model_is_written_again_and_said(
    tmp_path: Path, contents: bytes
) -> None:
    first = run(tmp_path / "d")
    model = tmp_path / "d" / "model.safetensors"
    good = model.read_bytes()
    model.write_bytes(contents)
    error = told("D106", lambda: run(tmp_path / "d", replay=True))
    assert "model.safetensors" in error.what and model.read_bytes() == contents
    again = run(tmp_path / "d")
    assert again.outcome.finished_before and again.digest == first.digest
    assert "model.safetensors" in again.outcome.problems[0] and model.read_bytes() == good
    assert run(tmp_path / "d").outcome.problems == ()
    assert run(tmp_path / "d", replay=True).digest == first.digest


def test_a_replay_sees_that_the_final_models_blob_is_damaged(tmp_path: Path) -> None:
    digest = run(tmp_path / "d").digest
    blob = tmp_path / "d" / "blobs" / "sha256" / digest[7:9] / digest[9:]
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x55")
    assert digest in told("D106", lambda: run(tmp_path / "d", replay=True)).what


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_final_model_that_is_not_finite_is_a_fault_of_the_outcome(value: float) -> None:
    class Broken(FedAvg):
        def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
            arrays, metrics = super().aggregate_train(server_round, replies)
            weights = arrays.to_numpy_ndarrays()
            weights[1] = weights[1] + value
            return apps.ArrayRecord(weights), metrics

    rule = Broken(min_train_nodes=1, min_available_nodes=1, fraction_evaluate=0.0)
    outcome = run(None, apps.server_app(rule)).outcome
    assert outcome.fault == "the final model holds NaN or infinity in 1"
    assert run(None).outcome.fault is None


# --- damage beside the record ---------------------------------------------------------------------------


def test_a_damaged_secret_is_damage_and_not_another_run(tmp_path: Path) -> None:
    run(tmp_path / "d")
    secret = tmp_path / "d" / "secret"
    secret.write_bytes(b"0" * 32)
    for replay in (False, True):
        error = told("D106", lambda again=replay: run(tmp_path / "d", replay=again))  # type: ignore[misc]
        assert str(secret) in error.what and "remove" in error.next
    secret.unlink()
    assert run(tmp_path / "d", replay=True).outcome.batches == run(tmp_path / "d").outcome.batches
    assert secret.is_file()


@pytest.mark.parametrize("contents", [b"{", b"[]", b'{"kind": "app"}', b"[" * 100_000, None])
def test_a_description_that_is_damaged_is_said_and_written_again(
    tmp_path: Path, contents: bytes | None
) -> None:
    run(tmp_path / "d")
    source = tmp_path / "d" / "source.json"
    good = source.read_bytes()
    source.unlink()
    if contents is not None:
        source.write_bytes(contents)
        assert "source.json" in told("D106", lambda: plan_again(tmp_path / "d")).what
    assert run(tmp_path / "d").outcome.problems == (
        "source.json was damaged; it was written again",
    )
    assert source.read_bytes() == good
    assert "barnraise.testing" in told("D103", lambda: plan_again(tmp_path / "d")).what


# --- where nothing can be written, and elsewhere ----------------------------------------------------------


def test_a_finished_run_replays_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path / "d")
    (tmp_path / "d" / "lock").unlink()
    shutil.rmtree(tmp_path / "d" / "blobs" / "incoming")
    before = files(tmp_path / "d"), sorted(p for p in (tmp_path / "d").rglob("*"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert run(tmp_path / "d", replay=True).digest == first.digest
    assert before == (files(tmp_path / "d"), sorted(p for p in (tmp_path / "d").rglob("*")))


def test_a_journal_that_was_not_closed_cannot_be_read_without_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "d")
    (tmp_path / "d" / "journal.db-wal").write_bytes(b"entries")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "copy" in told("D105", lambda: run(tmp_path / "d", replay=True)).next


def test_an_app_that_changes_the_working_directory_changes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = apps.server_app()
    moving = ServerApp()

    @moving.main()
    def main(grid: Grid, context: Context) -> None:
        os.chdir("/")
        app(grid, context)

    monkeypatch.chdir(tmp_path)
    ran = run("d", moving)
    assert Path.cwd() == tmp_path
    assert (tmp_path / "d" / "model.safetensors").is_file()
    assert ran.outcome.directory == Path("d")


# --- what an error says is kept ---------------------------------------------------------------------------


def failing() -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        apps.server_app()(grid, context)
        raise ValueError("late")

    return app


def waiting() -> ServerApp:
    return apps.server_app(FedAvg(min_available_nodes=5))


@pytest.mark.parametrize(("code", "server"), [("A201", failing), ("A202", waiting)])
def test_an_error_says_what_is_kept_and_where_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, server: Callable[[], ServerApp]
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    nowhere = told(code, lambda: run(None, server()))
    assert "nothing of it is kept" in nowhere.changed
    assert "directory" not in nowhere.next and "continue" not in nowhere.next
    kept = told(code, lambda: run(tmp_path / "d", server()))
    assert str(tmp_path / "d") in kept.changed and "new directory" in kept.next
    unfinished = told("R103", lambda: run(tmp_path / "d", server(), replay=True))
    assert "ended in an error" in unfinished.next


def test_looking_for_a_run_to_replay_makes_no_change(tmp_path: Path) -> None:
    with opened(tmp_path / "d"):
        pass
    (tmp_path / "d" / "secret").write_bytes(b"x")
    told("R103", lambda: run(tmp_path / "d", replay=True))
    assert (tmp_path / "d" / "secret").read_bytes() == b"x"
