"""Conduct one run: call the ServerApp on a grid, take its final model, close the journal's run.

Knows neither where members are nor who watches. The same function drives a first run, a resumed one
and a replay; what differs is what the journal already holds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, RecordDict, UserConfig
from flwr.serverapp import ServerApp

from barnraise.coordinator.grid import DurableGrid
from barnraise.coordinator.output import marked
from barnraise.coordinator.seals import EngineRecorder, Final
from barnraise.protocols import flower
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import FULL, disk_errors, disk_full, file_of
from barnraise.protocols.randomness import derive


def conduct(
    app: ServerApp,
    grid: DurableGrid,
    config: UserConfig,
    secret: bytes,
    *,
    resumable: bool,
) -> Final:
    """Run `app` to its end. The result is on record (`run.closed`) when this returns.

    `secret` is the run seed. Raises what the grid raised, A201 for what the app raised, A204 when
    every member failed, D104 for a full disk.
    """
    recorder = EngineRecorder(grid, derive(secret, "server"), resumable=resumable)
    grid.recorder = recorder
    taken = _Taken(recorder)
    flower.become_server(grid.terms.run_id)
    context = flower.new_context(grid.terms.run_id, flower.SERVER_NODE_ID, {}, RecordDict(), config)
    flower.seed_generators(derive(secret, "server", "start"))
    with (
        _working_directory_kept(),
        _threads_told_once(grid),
        marked(lambda: not grid.live),
        flower.one_copy_arrays(),
        flower.strategy_start_watched(grid, recorder.rule, taken.finished),
    ):
        _call(app, grid, context)
    grid.close_open_batches()
    _check_contributions(grid)
    final = recorder.final or Final(grid.tally.digest(), {})
    grid.close({"model": final.model, "named": recorder.final is not None, "report": final.report})
    return final


class _Taken:
    """Takes the arrays with which a `Strategy.start` ended, unless the app has named its model."""

    def __init__(self, recorder: EngineRecorder) -> None:
        self._recorder = recorder

    def finished(self, strategy: Any, arrays: ArrayRecord) -> None:
        if arrays:
            self._recorder.finish(arrays, {})


@contextmanager
def _working_directory_kept() -> Iterator[None]:
    """Afterwards it is what it was, wherever the app went."""
    here = os.open(".", os.O_RDONLY)
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)


@contextmanager
def _threads_told_once(grid: DurableGrid) -> Iterator[None]:
    """A thread of the app that ends by the grid's failure is silent: the run ends by it, and says so.

    Such a thread may outlive the run, so after a failure this stays.
    """
    theirs = threading.excepthook

    def told(arguments: threading.ExceptHookArgs) -> None:
        if grid.failure is None:
            theirs(arguments)

    threading.excepthook = told
    try:
        yield
    finally:
        if grid.failure is None:
            threading.excepthook = theirs


def _call(app: ServerApp, grid: DurableGrid, context: Context) -> None:
    """Run the app. `sys.exit()` and `sys.exit(0)` are its end; the grid's failure outlives any catch."""
    raised: BaseException | None = None
    try:
        app(grid, context)
    except SystemExit as error:
        raised = None if error.code in (None, 0) else error
    except Exception as error:
        raised = error
    if grid.failure is not None:
        with disk_errors(Path("the run's directory")):
            raise _explained(grid.failure, OSError)
    if raised is not None:
        raise _explained(raised)


def _explained(error: BaseException, *as_it_is: type[BaseException]) -> BaseException:
    """What a person is told; the error itself if it says so already or is one of `as_it_is`."""
    if isinstance(error, (BarnraiseError, *as_it_is)) or not isinstance(
        error, (Exception, SystemExit)
    ):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return disk_full(file_of(error, Path("the run's directory")))
    told = BarnraiseError(
        "A201",
        "the ServerApp raised",
        f"{type(error).__name__}: {error}\nat {flower.place_of(error)}",
        next="mend the app",
    )
    told.__cause__ = error
    return told


def _check_contributions(grid: DurableGrid) -> None:
    counts = grid.tally.counts
    kind = "train " if counts["train refused"] or counts["train accepted"] else ""
    if counts[f"{kind}accepted"] == 0 and counts[f"{kind}refused"] > 0:
        raise BarnraiseError(
            "A204",
            f"every member failed, in every {kind}batch",
            "\n".join(f"{member}: {reason}" for member, reason in grid.tally.refusals.items()),
            next="mend the ClientApp",
        )
