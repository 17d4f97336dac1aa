"""Watching a run from a terminal: where its rows go, what of Flower's log is shown, and Ctrl-C."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

import barnraise
from barnraise.cli import lines as json_lines
from barnraise.cli.rounds import Rounds
from barnraise.cli.status import StatusFile
from barnraise.coordinator import events
from barnraise.protocols.errors import BarnraiseError


@contextmanager
def watched(
    directory: Path | None,
    verbose: bool,
    *,
    seals: bool = False,
    replays: bool = False,
    status: Path | None = None,
    interrupted: bool = True,
) -> Iterator[events.Watcher]:
    """Inside, the run that is given this watcher is shown on stderr, and in `status.json` of `status`
    (by default `directory`). Ctrl-C becomes X103, if `interrupted`.

    `verbose` shows Flower's own log lines, which leave no room for lines that are drawn anew.
    """
    try:
        out = console()
        live = out.is_terminal and not out.is_dumb_terminal and not verbose
        with ExitStack() as stack:
            rounds: events.Watcher = json_lines.Events()
            if not json_lines.wanted():
                shown = Rounds(out, directory, seals=seals, replays=replays, live=live)
                rounds = stack.enter_context(shown)
            if not verbose:
                stack.enter_context(engines_log_hidden())
            if json_lines.wanted():
                stack.enter_context(json_lines.logging_as_lines("flwr"))
            place = status or directory
            yield rounds if place is None or replays else both(rounds, StatusFile(place))
    except KeyboardInterrupt as interruption:
        if not interrupted:
            raise
        raise _interrupted(directory) from interruption


def both(one: events.Watcher, other: events.Watcher) -> events.Watcher:
    """A watcher that tells two."""

    def tell(event: events.Event) -> None:
        one(event)
        other(event)

    return tell


class _AppsAlone(logging.Filter):
    """Lets through what an app logs with Flower's logger, and nothing of Flower's own or of ours."""

    def __init__(self) -> None:
        super().__init__()
        import flwr

        self._engines = tuple(f"{Path(m.__path__[0])}{os.sep}" for m in (flwr, barnraise))

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.pathname.startswith(self._engines)


@contextmanager
def engines_log_hidden() -> Iterator[None]:
    """Inside, the console shows of Flower's log only what apps write to it, on what is stderr now."""
    from barnraise.protocols import flower  # noqa: F401  (Flower's logger has its handler now)

    hiding = _AppsAlone()
    handlers = [
        (h, h.stream)
        for h in logging.getLogger("flwr").handlers
        if isinstance(h, logging.StreamHandler)
    ]
    for handler, _ in handlers:
        handler.addFilter(hiding)
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler, stream in handlers:
            handler.removeFilter(hiding)
            handler.setStream(stream)


def console() -> Console:
    """A console on what is stderr now."""
    return Console(file=sys.stderr, highlight=False)


def say(*lines: str) -> None:
    """Lines for a person, on stderr; `next:` stands out."""
    if json_lines.wanted():
        for line in lines:
            json_lines.write("info", line.strip())
        return
    out = console()
    for line in lines:
        text = Text(line)
        if line.startswith("next:"):
            text.stylize("bold", 0, 5)
        out.print(text, soft_wrap=True)


def _interrupted(directory: Path | None) -> BarnraiseError:
    if directory is None:
        return BarnraiseError(
            "X103",
            "interrupted",
            changed="the run had no --dir: nothing of it is kept",
            next="run it again with --dir D, and it will continue where it was stopped",
        )
    return BarnraiseError(
        "X103",
        "interrupted",
        changed=f"every acknowledged reply is kept in {directory}; the same command continues",
        next=f"barnraise {shlex.join(sys.argv[1:])}",
    )
