"""Transfers in two threads of their own, each transfer ending in one fact for the daemon's main thread.

One that ended without a word would be waited for for ever, so whatever goes wrong is a fact too. The threads
stay: to start one for each transfer holds the main thread up until the new one runs.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from barnraise.client.node import transfers
from barnraise.client.node.desk import Order
from barnraise.client.node.link import Link, Teller
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.spool import Spool


@dataclass(frozen=True)
class Fetched:
    """How fetching an order's content ended; the digests of what came, if it did."""

    order: str
    outcome: list[str] | transfers.Failed | transfers.Refused


@dataclass(frozen=True)
class Delivered:
    """How delivering a reply ended; `problem` is None if it was taken in."""

    order: str
    problem: Exception | None


Todo = queue.SimpleQueue[Callable[[], None] | None]


def _thread(name: str) -> Todo:
    """What is put there is done one by one in a thread of this name, until None is."""
    todo: Todo = queue.SimpleQueue()

    def work() -> None:
        while (move := todo.get()) is not None:
            move()

    threading.Thread(target=work, name=name, daemon=True).start()
    return todo


class Moves:
    """`let_go` is the last order withdrawn before it was begun: set by the main thread, read by its fetch."""

    def __init__(self, link: Link, spool: Spool, mail: Mailbox, log: logging.Logger) -> None:
        self._link, self._spool, self._mail, self._log = link, spool, mail, log
        self.let_go = ""
        self._fetches, self._deliveries = _thread("fetch"), _thread("deliver")

    def fetch(self, stub: Any, order: Order) -> None:
        self._fetches.put(partial(self._fetch, stub, order))

    def deliver(self, stub: Any, order: str, statement: bytes, parts: list[transfers.Part]) -> None:
        self._deliveries.put(partial(self._deliver, stub, order, statement, parts))

    def end(self) -> None:
        """Nothing more is moved; what is under way ends with its connection."""
        for todo in (self._fetches, self._deliveries):
            todo.put(None)

    def _fetch(self, stub: Any, order: Order) -> None:
        tell = Teller(self._link, order.id, "fetching byte")

        def moved(done: int, total: int) -> None:
            if self.let_go == order.id:
                raise transfers.Failed("the order is withdrawn")
            tell(done, total)

        try:
            outcome: Any = transfers.fetch(stub, order.content, order.size, self._spool, moved)
        except (transfers.Failed, transfers.Refused) as error:
            outcome = error
        except Exception as error:
            self._log.exception("fetching %s", order.id)
            outcome = transfers.Failed(repr(error))
        self._mail.post(Fetched(order.id, outcome))

    def _deliver(
        self, stub: Any, order: str, statement: bytes, parts: list[transfers.Part]
    ) -> None:
        problem: Exception | None = None
        try:
            moved = Teller(self._link, order, "delivering byte")
            transfers.deliver(stub, order, statement, parts, moved)
        except (transfers.Failed, transfers.Refused, OSError) as error:
            problem = error
        except Exception as error:
            self._log.exception("delivering %s", order)
            problem = transfers.Failed(repr(error))
        self._mail.post(Delivered(order, problem))
