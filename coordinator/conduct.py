"""Conduct one run: call the ServerApp on a grid, take its final model, close the journal's run.

Knows neither where members are nor who watches. The same function drives a first run, a resumed one
and a replay; what differs is what the journal already holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, RecordDict, UserConfig
from flwr.serverapp import ServerApp

from barnraise.coordinator.grid import DurableGrid
from barnraise.coordinator.output import marked
from barnraise.coordinator.seals import EngineRecorder, Final
from barnraise.protocols import flower
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import FULL, disk_errors, disk_full
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
        return disk_full(Path(str(error.filename or "the run's directory")))
    told = BarnraiseError(
        "A201",
        "the ServerApp raised",
        f"{type(error).__name__}: {error}\nat {flower.place_of(error)}",
        changed="everything up to there is on record; no accepted reply is lost",
        next="mend the app; run it in a new directory (or again in this one if the cause was outside it)",
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
            changed="the refusals are on record; there is no new model",
            next="mend the ClientApp, then run it in a new directory",
        )
