"""What a node does next: a pure state machine over orders, the replies it keeps, and its worker's deaths.

Facts go in (an order, a receipt, a cut, a death), each with the time where time matters; what to fetch, work
on and deliver is asked for. It opens no file and no connection, and reads no clock.

An order is queued, fetched, worked on, one at a time in order of arrival; once its reply is committed it is
kept until its receipt has come, and delivered again in every session until then.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from barnraise.client.node.backoff import delay
from barnraise.client.node.frames import SMALL
from barnraise.protocols.canonical import is_digest

QUEUE = 1024  # orders that may wait; a coordinator sends what is beyond again
REMEMBERED = 256  # receipted orders that are known as done
DEATHS = 2  # of the worker over one order, after which it is answered with an error


@dataclass(frozen=True)
class Order:
    """An order as it came. `content` names its envelope; `size` is what all its bytes are said to be.

    `envelope` may be the content's own bytes, brought with the order; nobody has looked at them yet.
    """

    id: str
    run: str
    batch: int
    round: int
    type: str
    group: str
    content: str
    ttl: float
    created: float
    size: int
    envelope: bytes = b""

    @classmethod
    def of(cls, said: Any) -> Order:
        """The order that a message tells. An envelope that is not small is left to be fetched."""
        order = cls(**{one.name: getattr(said, one.name) for one in fields(cls)})
        return order if len(order.envelope) <= SMALL else replace(order, envelope=b"")


class _Retry:
    """One kind of transfer: what is under way, and when a failed one may be tried again."""

    def __init__(self) -> None:
        self.busy: str | None = None
        self.failures = 0
        self.not_before = -math.inf

    def failed(self, now: float, draw: float) -> None:
        self.busy = None
        self.failures += 1
        self.not_before = now + delay(self.failures, draw)

    def succeeded(self) -> None:
        self.busy, self.failures, self.not_before = None, 0, -math.inf


class Desk:
    """Owned by the daemon's main thread. `kept`: orders with a committed reply; `done`: receipted ones."""

    def __init__(
        self,
        run: str,
        kept: Iterable[str],
        done: Iterable[str],
        draw: Callable[[], float],
    ) -> None:
        self._run, self._draw = run, draw
        self._kept = set(kept)
        self._done = set(done)
        self._queue: deque[Order] = deque()
        self._fetched: set[str] = set()
        self._working: Order | None = None
        self._deaths = 0
        self._falls = 0
        self._restart_at = -math.inf
        self._present = False
        self._deliver: deque[str] = deque()
        self._fetching, self._delivering = _Retry(), _Retry()

    # --- sessions -------------------------------------------------------------------------------

    def attended(self) -> None:
        """A session has begun: every kept reply is delivered (again), and no transfer waits any more."""
        self._present = True
        self._deliver = deque(sorted(self._kept))
        self._fetching.not_before = self._delivering.not_before = -math.inf

    def lost(self) -> None:
        """The session has ended. Training goes on."""
        self._present = False

    # --- orders ---------------------------------------------------------------------------------

    def take(self, order: Order) -> str:
        """Take an order in; else say why not."""
        if why := self._unfit(order):
            return why
        if order.id in self._kept:
            self.again(order.id)
            return ""
        if self._working is not None and self._working.id == order.id:
            return ""
        if all(waiting.id != order.id for waiting in self._queue):
            self._queue.append(order)
        return ""

    def _unfit(self, order: Order) -> str:
        if order.run != self._run:
            return f"it is of the run {order.run[:80]!r}, and this site approved {self._run!r}"
        if not is_digest(order.id) or not is_digest(order.content):
            return "its id or its content is no digest"
        if not (math.isfinite(order.ttl) and math.isfinite(order.created)):
            return "its times are not finite"
        if order.id in self._done:
            return "it has been answered, and its receipt has come"
        if len(self._queue) >= QUEUE:
            return f"{QUEUE} orders are waiting already"
        return ""

    def withdrawn(self, order: str) -> bool:
        """Its batch is closed: let it go if it has not been begun. Begun work goes on, and is late."""
        before = len(self._queue)
        self._queue = deque(waiting for waiting in self._queue if waiting.id != order)
        self._fetched.discard(order)
        return len(self._queue) < before

    def next_fetch(self, now: float) -> Order | None:
        """The order whose content is to be fetched now; at most one order ahead of the worker."""
        retry = self._fetching
        if not self._present or retry.busy is not None or now < retry.not_before:
            return None
        for order in list(self._queue)[:1]:
            if order.id not in self._fetched:
                retry.busy = order.id
                return order
        return None

    def fetched(self, order: str) -> None:
        self._fetching.succeeded()
        if any(waiting.id == order for waiting in self._queue):
            self._fetched.add(order)

    def fetch_failed(self, now: float) -> None:
        self._fetching.failed(now, self._draw())

    def fetch_refused(self, order: str) -> None:
        """The coordinator will not give its content: it is no order any more, unless it comes again."""
        self._fetching.succeeded()
        self._queue = deque(waiting for waiting in self._queue if waiting.id != order)

    def next_work(self) -> Order | None:
        """The order to hand to the worker now."""
        if self._working is not None or not self._queue or self._queue[0].id not in self._fetched:
            return None
        self._working = self._queue.popleft()
        self._fetched.discard(self._working.id)
        return self._working

    @property
    def working(self) -> Order | None:
        return self._working

    def died(self, now: float) -> Order | None:
        """The worker has died: redo what it was at (`working`), or answer the returned order with an error.

        It is started again at once, and if it dies again without having answered, after a while.
        """
        self._restart_at = now + delay(self._falls, self._draw()) if self._falls else now
        self._falls += 1
        if self._working is None:
            return None
        self._deaths += 1
        return self._working if self._deaths >= DEATHS else None

    @property
    def restart_at(self) -> float:
        """When a dead worker may be started again."""
        return self._restart_at

    def answered(self) -> None:
        """The worker has proved able to answer."""
        self._falls = 0

    # --- replies --------------------------------------------------------------------------------

    def committed(self, order: str) -> None:
        """The reply is on disk; it may be delivered."""
        self._working, self._deaths = None, 0
        self._kept.add(order)
        self._deliver.append(order)

    def next_delivery(self, now: float) -> str | None:
        retry = self._delivering
        if not self._present or retry.busy is not None or now < retry.not_before:
            return None
        if not self._deliver:
            return None
        retry.busy = self._deliver.popleft()
        return retry.busy

    def delivered(self) -> None:
        """Taken in by the coordinator; its receipt is still to come."""
        self._delivering.succeeded()

    def delivery_failed(self, now: float) -> None:
        if self._delivering.busy in self._kept and self._delivering.busy not in self._deliver:
            self._deliver.appendleft(self._delivering.busy)
        self._delivering.failed(now, self._draw())

    def again(self, order: str) -> None:
        """Deliver its reply once more, also if that is being done: what was taken may be lost by now."""
        if order in self._kept and order not in self._deliver:
            self._deliver.append(order)

    def receipted(self, order: str) -> bool:
        """Whether a reply is kept for this order, which may now be forgotten."""
        if order not in self._kept:
            return False
        self._kept.discard(order)
        self._done.add(order)
        self._deliver = deque(waiting for waiting in self._deliver if waiting != order)
        return True

    # --- what is seen from outside --------------------------------------------------------------

    def wake_at(self) -> float:
        """When, without any new fact, there may be something to do: a retry that is due; else infinity."""
        if not self._present:
            return math.inf
        times = []
        if self._queue and self._fetching.busy is None and self._queue[0].id not in self._fetched:
            times.append(self._fetching.not_before)
        if self._deliver and self._delivering.busy is None:
            times.append(self._delivering.not_before)
        return min(times, default=math.inf)

    def contents(self) -> set[str]:
        """The contents that are still needed, or being fetched."""
        orders = [*self._queue, *([self._working] if self._working else [])]
        return {order.content for order in orders}

    @property
    def empty(self) -> bool:
        """Whether nothing is begun, and nothing waits to be delivered or for its receipt."""
        return self._working is None and not self._kept

    @property
    def expecting(self) -> bool:
        """Whether a content is being fetched, or is still to be."""
        waiting = any(order.id not in self._fetched for order in self._queue)
        return waiting or self._fetching.busy is not None

    @property
    def transferring(self) -> bool:
        """Whether something is being moved now."""
        return self._fetching.busy is not None or self._delivering.busy is not None

    @property
    def moving(self) -> bool:
        """Whether something is being moved, or is still to be fetched."""
        return self.expecting or self._delivering.busy is not None

    def state(self) -> tuple[str, str]:
        """(state, order) in the words of the protocol: what most holds things up."""
        if (order := self._working) is not None:
            return _AT_WORK.get(order.type.partition(".")[0], "answering"), order.id
        if self._queue:
            return "fetching", self._queue[0].id
        if self._deliver or self._delivering.busy is not None:
            return "delivering", self._delivering.busy or self._deliver[0]
        return "idle", ""


_AT_WORK = {"train": "training", "evaluate": "evaluating"}
