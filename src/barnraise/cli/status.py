"""`D/status.json`: what is going on in the run that `D` holds, for another process to show."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from barnraise.cli import words
from barnraise.cli.picture import Picture
from barnraise.coordinator import events
from barnraise.protocols.errors import BarnraiseError

EVERY = 0.5  # seconds between two writings


class StatusFile:
    """A watcher that keeps `status.json`. It is a courtesy: a disk that refuses it ends no run.

    What happens soon after the last writing is written by a timer, so that the file is `EVERY` seconds
    behind at most, and a run of quick rounds does not spend its time on it.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._clock = directory.absolute(), clock  # an app may change where it is
        self._lock = threading.Lock()  # the three below
        self._picture = Picture()
        self._written = float("-inf")
        self._timer: threading.Timer | None = None

    def __call__(self, event: events.Event) -> None:
        with self._lock:
            now = self._clock()
            self._picture.see(event, now)
            due = self._written + EVERY
            if now >= due or isinstance(event, events.RunClosed):
                self._write(now)
            elif self._timer is None:
                self._timer = threading.Timer(due - now, self._late)
                self._timer.daemon = True
                self._timer.start()

    def _late(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._write(self._clock())

    def _write(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._written = None, now
        temp = self._directory / ".status.json.new"
        try:
            told = {
                "at": time.time(),
                **self._picture.as_dict(now),
                "waits": self._picture.waits(now),
            }
            temp.write_text(json.dumps(told))
            temp.rename(self._directory / "status.json")
        except OSError:
            return


def read(directory: Path, lock: Path | None = None) -> dict[str, Any]:
    """What the run in `directory` last said of itself, and whether a process is running it. Raises D103.

    That process holds `lock`, by default the directory's own.
    """
    try:
        told: dict[str, Any] = json.loads((directory / "status.json").read_text())
    except (OSError, ValueError):
        raise BarnraiseError(
            "D103",
            f"{directory} holds no run that was watched",
            "it has no status.json" if directory.is_dir() else "there is no such directory",
            next="give the --dir of a run",
        ) from None
    told["age"] = round(max(0.0, time.time() - told.pop("at")), 3)
    running, waits = _is_locked(lock or directory / "lock"), told.pop("waits", None)
    whom = None
    if running and waits is not None:
        waiting = events.Waiting(**waits)
        told["waiting"], whom = waiting.said(told["age"]), waiting.whom
    return {"ok": True, "running": running, **told, "waits_for": whom}


def _is_locked(path: Path) -> bool:
    """Whether a process holds this lock."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def line(told: dict[str, Any]) -> str:
    """What `read` returned, for a person, as far as it does not change with time alone."""
    running = "running" if told["running"] else "not running"
    total = f"/{told['rounds']}" if told["rounds"] else ""
    parts = [running, f"round {told['round']}{total}"]
    if (batch := told["batch"]) is not None:
        answered = f"{len(batch['answered'])}/{len(batch['asked'])} answered"
        parts.append(f"batch {batch['number']} ({batch['type']}), {answered}")
    if told["waits_for"]:
        parts.append(f"waits for {told['waits_for']}")
    return " · ".join(parts)


def lines(told: dict[str, Any]) -> list[str]:
    """All of it: a line per member, and for whom the run waits and since when."""
    head = f"{line(told | {'waits_for': None})} · said {words.duration(told['age'])} ago"
    width = max(map(len, told["members"]), default=0)
    who = [
        f"  {name:{width}}  {one['state']} {one['detail']}".rstrip()
        + f" ({words.duration(one['seconds'])})"
        for name, one in told["members"].items()
    ]
    if not told["running"]:
        return [head, *who]  # it waits for nobody; what it waited for is in the data
    return [head, *who, *([told["waiting"]] if told["waiting"] else [])]
