"""`barnraise serve`: one process for one run, or for the time between two (DESIGN §7).

Before a run opens and after it ends the command executes itself anew, so that every app has a fresh
interpreter. What must outlive that is on disk, and nodes come back by themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barnraise.coordinator import campaigns, control, events
from barnraise.coordinator.campaigns import Conduct
from barnraise.coordinator.enrolment import serve_enrolment
from barnraise.coordinator.federation import Federation, opened
from barnraise.coordinator.floor import Floor
from barnraise.coordinator.operator import Operator, Sizes
from barnraise.protocols.errors import BarnraiseError

PATIENCE = 10.0  # seconds in which another command may finish with the directory
LOOK = 0.5  # seconds between two drawings of the table


@dataclass(frozen=True)
class Shown:
    """How a person sees it: `run` gives a watcher for a run, `table` draws who attends between runs. Inside
    `beside` machines may ask as well."""

    run: Callable[[Federation, campaigns.Run], AbstractContextManager[events.Watcher]]
    table: Callable[[Operator], AbstractContextManager[Callable[[], None]]]
    beside: Callable[[Operator, Floor], AbstractContextManager[object]] = lambda o, f: nullcontext()


def serve(root: Path, shown: Shown, sizes: Sizes = lambda app, text: None) -> dict[str, Any]:
    """Serve the federation in `root` until there is reason to begin anew; what happened.

    Raises D102, F101, N118, and KeyboardInterrupt. A run that stops in an error is put aside with it.
    """
    with patiently(root) as federation:
        run = campaigns.open_run(federation)
        if run is None:
            return _between(federation, shown, sizes)
        with shown.run(federation, run) as watcher:
            return _conduct(federation, run, watcher, shown, sizes)


@contextmanager
def patiently(root: Path) -> Iterator[Federation]:
    """The opened federation, once a command that works on it without `serve` is done. Raises D102."""
    end = time.monotonic() + PATIENCE
    while True:
        with ExitStack() as stack:
            try:
                federation = stack.enter_context(opened(root))
            except BarnraiseError as error:
                if error.code != "D102" or time.monotonic() > end:
                    raise
                threading.Event().wait(0.1)
                continue
            yield federation
            return


def _between(federation: Federation, shown: Shown, sizes: Sizes) -> dict[str, Any]:
    floor = Floor(federation, None)
    operator = Operator(federation, floor, sizes)
    asked = _asked(federation, operator)
    with shown.beside(operator, floor), floor.between_runs(), asked, shown.table(operator) as draw:
        try:
            while not floor.wait_anew(LOOK):
                draw()
        finally:
            floor.end()
    return {"run": None}


def _conduct(
    federation: Federation,
    run: campaigns.Run,
    watcher: events.Watcher,
    shown: Shown,
    sizes: Sizes,
) -> dict[str, Any]:
    floor = None

    def watch(event: events.Event) -> None:
        if floor is not None:
            floor.watch(event)
        watcher(event)

    try:
        conduct = Conduct(federation, run, watch)
        floor = Floor(federation, conduct)
        operator = Operator(federation, floor, sizes)
        with shown.beside(operator, floor), _asked(federation, operator):
            closed = conduct.conduct(lambda c: floor.during_run(c))
    except BarnraiseError as error:
        if error.code == "F115":
            return {"run": run.name, "aborted": True}
        if error.code == "N118":
            raise
        run.stopped(error)
        return {"run": run.name, "stopped": error.as_dict()}
    return {"run": run.name, "model": closed["model"], "report": closed["report"]}


@contextmanager
def _asked(federation: Federation, operator: Operator) -> Iterator[None]:
    """Inside, the operator's socket and the Enrolment port are open."""

    def ask(verb: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return operator.ask(verb, given)

    said = federation.description
    server, _ = serve_enrolment(federation.authority, said.listens(said.enrolment), said.hosts)
    try:
        with control.listening(federation.root, ask):
            yield
    finally:
        server.stop(0).wait()
