"""Asking whoever holds a directory: `serve`, or a node's daemon, over its socket; else, the files.

While `serve` executes itself anew it neither listens nor holds its lock for a moment, but it is the same
process: as long as that lives it is asked again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from barnraise.protocols import control
from barnraise.protocols.errors import BarnraiseError

PATIENCE = 20.0  # seconds in which a process that holds the lock must come to listen
_AGAIN = 0.2


def asked(directory: Path, kind: str, verb: str, given: dict[str, Any], seconds: float) -> Any:
    """The answer of the process that listens in `directory`; None if nobody does. Raises what it says."""
    import grpc

    from barnraise.protocols import control_pb2 as pb
    from barnraise.protocols.control_pb2_grpc import ControlStub

    name = control.SOCKET[kind]
    if not (directory / name).exists():
        return None
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with grpc.insecure_channel(f"unix:/proc/self/fd/{folder}/{name}") as channel:
            question = pb.Question(json=control.written({"verb": verb, **given}))
            answer = ControlStub(channel).Ask(question, timeout=seconds)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return None
        raise
    finally:
        os.close(folder)
    return control.answer(answer.json)


def ask(
    directory: Path, verb: str, *, seconds: float = 60.0, offline: bool = True, **given: Any
) -> dict[str, Any]:
    """The answer of a federation's `serve`, or, with `offline`, of its directory. F105 if nobody serves."""
    end = time.monotonic() + PATIENCE
    while (answer := asked(directory, "serve", verb, given, seconds)) is None:
        if not _begins_anew(directory) or time.monotonic() > end:
            try:
                return _offline(directory, verb, given, offline)
            except BarnraiseError as error:
                if error.code != "D102" or time.monotonic() > end:
                    raise
        threading.Event().wait(_AGAIN)
    return dict(answer)


def _begins_anew(directory: Path) -> bool:
    """Whether the process that held the lock last is another one that lives still."""
    try:
        holder = int((directory / "lock").read_text())
        os.kill(holder, 0)
    except (OSError, ValueError):
        return False
    return holder != os.getpid()


def _offline(directory: Path, verb: str, given: dict[str, Any], offline: bool) -> dict[str, Any]:
    from barnraise.coordinator.federation import opened
    from barnraise.coordinator.operator import Operator, not_served

    with opened(directory) as federation:
        if not offline:
            raise not_served(directory)
        return {"ok": True, **Operator(federation).ask(verb, given)}


def until(ready: Callable[[], bool], seconds: float) -> bool:
    """Whether `ready` came true within so many seconds, asked some times a second."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            return False
        threading.Event().wait(_AGAIN)
    return True
