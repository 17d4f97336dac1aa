"""How a handler says how far it is, without knowing who listens.

The engine that runs the handler installs a listener; anywhere else a report goes nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("barnraise.progress", default=None)


def report(what: str, done: int, total: int) -> None:
    """Say that `done` of `total` steps of `what` ("training step", "evaluating") are done."""
    if (listener := _listener.get()) is not None:
        listener(what, done, total)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Send the reports made inside to `listener(what, done, total)`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
