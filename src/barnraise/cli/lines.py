"""JSON logs: with `--log-format json`, what `serve` and `node up` say is one JSON object a line, on stderr.

{"time": RFC 3339, "level": "info" | "warning" | "error", "what": a sentence, …fields}
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from barnraise.protocols.errors import BarnraiseError

if TYPE_CHECKING:
    from barnraise.coordinator import events

Format = Annotated[
    str,
    typer.Option(
        "--log-format",
        metavar="text|json",
        envvar="BARNRAISE_LOG",
        show_envvar=True,
        help="How it says what happens: for a person, or one JSON object a line.",
    ),
]
_chosen = "text"  # of this process; set once, before anything is said


def choose(form: str) -> None:
    """How this process says things from now on. X102 for a form that there is not."""
    global _chosen
    if form not in ("text", "json"):
        raise BarnraiseError(
            "X102", f"--log-format {form!r} is none", "there are: text, json", next="give json"
        )
    _chosen = form


def wanted() -> bool:
    """Whether JSON lines were asked for."""
    return _chosen == "json"


def line(level: str, what: str, at: float | None = None, **fields: Any) -> str:
    """One object; `at` is in seconds since 1970, by default now."""
    time = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    said = {"time": time.isoformat(timespec="milliseconds"), "level": level, "what": what}
    return json.dumps({**said, **fields}, ensure_ascii=False, default=str)


def write(level: str, what: str, **fields: Any) -> None:
    """Say it on what is stderr now."""
    sys.stderr.write(line(level, what, **fields) + "\n")
    sys.stderr.flush()


class Formatter(logging.Formatter):
    """A log record as one object."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"logger": record.name}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return line(record.levelname.lower(), record.getMessage(), record.created, **fields)


@contextmanager
def logging_as_lines(name: str) -> Iterator[None]:
    """Inside, what this logger's handlers write are such objects."""
    handlers = [(h, h.formatter) for h in logging.getLogger(name).handlers]
    for handler, _ in handlers:
        handler.setFormatter(Formatter())
    try:
        yield
    finally:
        for handler, theirs in handlers:
            handler.setFormatter(theirs)


class Events:
    """A watcher of a run that writes what happens; of a member's details only what state it is in."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def __call__(self, event: events.Event) -> None:
        name = type(event).__name__
        fields = asdict(event)
        if name == "Progress" or (name == "MemberState" and self._known(fields)):
            return
        fields = {key: value for key, value in fields.items() if key != "what"}
        write(_level(name, fields), sentence(event), event=name, **fields)

    def _known(self, fields: dict[str, Any]) -> bool:
        known = bool(self._states.get(fields["member"]) == fields["state"])
        self._states[fields["member"]] = fields["state"]
        return known


def _level(name: str, fields: dict[str, Any]) -> str:
    trouble = name == "DiskFull" and fields["needed"] > 0
    lost = name == "BatchClosed" and any(fields[key] for key in ("refused", "absent", "void"))
    return "warning" if trouble or lost or fields.get("verdict") in ("refused", "late") else "info"


def sentence(event: events.Event) -> str:
    """The event for a person who reads the object."""
    told = asdict(event)
    match type(event).__name__:
        case "RunOpened":
            return f"the run {told['app']} {'goes on' if told['resumed'] else 'is opened'}"
        case "BatchSent":
            return (
                f"batch {told['batch']} ({told['type']}) is sent to {len(told['members'])} members"
            )
        case "MemberState":
            return f"{told['member']} is {told['state']}"
        case "Answered":
            return f"the reply of {told['member']} to batch {told['batch']} is {told['verdict']}"
        case "BatchClosed":
            return f"batch {told['batch']} ({told['type']}) is closed: {told['reason']}"
        case "Sealed":
            return f"round {told['round']} is sealed"
        case "RunClosed":
            return "the run has ended"
        case "Witnessed":
            return f"{len(told['members'])} members have cosigned {told['size']} entries"
    return str(getattr(event, "text", type(event).__name__))
