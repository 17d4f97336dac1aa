"""FlowerFleet: the members behind any grid of Flower's, so that a run on its engines has our journal.

Orders go out by the grid's `push_messages` and replies are polled for by `pull_messages`: all that every
grid of Flower's can. Flower signs nothing, so replies carry no statement, and the run says so on record.

Flower knows a node by a number alone. A member is called `node-` and that number with leading zeros, so
that canonical order is the order of the numbers, and a name always says which node it is. An order for a
node that is not connected waits here until it is; which batch waits for whom, and how long, the Grid says.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from barnraise.coordinator.evidence import StoredEvidence
from barnraise.coordinator.fleet import Delivery, Order, Receipt
from barnraise.coordinator.intake import REMEMBERED
from barnraise.protocols import flower
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.content import ContentError, Envelope, Failure
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member

POLL = 0.5  # seconds between two questions for replies
LOOK = 3.0  # seconds between two questions for who is connected
MARK = "barnraise"  # the record that tells our ClientApp which order this is
_PREFIX, _DIGITS = "node-", 20  # of the largest node id, 2^64 - 1

T = TypeVar("T")


def name_of(node_id: int) -> str:
    """The member that Flower knows by this number."""
    return f"{_PREFIX}{node_id:0{_DIGITS}d}"


def node_of(name: str) -> int:
    """The number by which Flower knows this member."""
    return int(name.removeprefix(_PREFIX))


def member(name: str) -> Member:
    """Flower gives a node no key; the id that an app sees on our Grid follows from the name alone."""
    return Member(name, name.encode())


class FlowerFleet:
    """Owned by the thread in which the ServerApp runs, as is the grid.

    `said` goes with each order to our own ClientApp, beside the order's id, in a record that is none of
    the order's content; None for an app that knows nothing of us, which is sent its content alone.
    """

    signed = False

    def __init__(
        self,
        grid: Grid,
        members: Iterable[Member],
        blobs: BlobStore,
        said: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid, self._blobs, self._said = grid, blobs, said
        self._evidence = StoredEvidence(blobs)
        self._members = sorted(members)
        self._clock, self._pause = clock, pause
        self._waiting: OrderedDict[str, Order] = OrderedDict()
        self._out: OrderedDict[str, Order] = OrderedDict()  # Flower's message id -> the order
        self._failed: deque[Delivery] = deque()
        self._connected: frozenset[int] = frozenset()
        self._looked_at = float("-inf")

    def roster(self) -> Sequence[Member]:
        """The members of the run, connected or not: a broken connection changes no roster."""
        return self._members

    def now(self) -> float:
        return self._clock()

    def dispatch(self, orders: Sequence[Order]) -> None:
        """One message at a time: no more than one is held in memory, and each gets its own id."""
        known = {order.id for order in self._out.values()} | self._waiting.keys()
        self._waiting |= {order.id: order for order in orders if order.id not in known}
        self._push()

    def withdraw(self, orders: Mapping[str, str]) -> None:
        """What has not been sent is not sent any more; of what has been, a reply may come, and is late."""
        for order in orders:
            self._waiting.pop(order, None)
        while len(self._out) > REMEMBERED:
            self._out.popitem(last=False)

    def arrivals(self, until: float | None) -> Sequence[Delivery]:
        """Asks for replies every `POLL` seconds; the clock is the process's own."""
        while True:
            self._push()
            if arrived := self._pull():
                return arrived
            now = self.now()
            if until is not None and now >= until:
                return []
            self._pause(POLL if until is None else min(POLL, until - now))

    def acknowledge(self, receipts: Sequence[Receipt]) -> None:
        """A node of Flower's forgets its reply when it has sent it."""

    def patiently(self, act: Callable[[], T], /) -> T:
        return act()

    def close(self) -> None:
        """The grid is Flower's to close."""

    # --- out --------------------------------------------------------------------------------------

    def connected(self) -> frozenset[int]:
        """The nodes that Flower says are connected, looked up every `LOOK` seconds."""
        if self.now() - self._looked_at >= LOOK:
            self._connected = frozenset(_asked(self._grid.get_node_ids))
            self._looked_at = self.now()
        return self._connected

    def _push(self) -> None:
        """Send what waits to the nodes that are connected."""
        if not self._waiting:
            return
        here = self.connected()
        for order in [o for o in self._waiting.values() if node_of(o.member.name) in here]:
            del self._waiting[order.id]
            self._send(order)

    def _send(self, order: Order) -> None:
        message = self._message(order)
        ids = [i for i in _asked(lambda: self._grid.push_messages([message])) if i]
        if ids:
            self._out[ids[0]] = order
        else:
            self._fail(order, Failure(flower.CRASHED, "Flower's grid did not take the order"))

    def _message(self, order: Order) -> Message:
        records = flower.decode(self._evidence.envelope(order.content), self._blobs)
        if self._said is not None:
            records[MARK] = ConfigRecord({**self._said, "order": order.id})
        node = node_of(order.member.name)
        return flower.new_instruction(records, order.type, node, order.group, order.ttl)

    # --- in ---------------------------------------------------------------------------------------

    def _pull(self) -> list[Delivery]:
        arrived = list(self._failed)
        self._failed.clear()
        if self._out:
            ids = list(self._out)
            for reply in _asked(lambda: self._grid.pull_messages(ids)):
                arrived += self._taken(reply)
        return arrived

    def _taken(self, reply: Message) -> list[Delivery]:
        """The reply as a delivery; none where the node went away, whose order waits again."""
        order = self._out.pop(reply.metadata.reply_to_message_id, None)
        if order is None:
            return []
        if reply.has_error() and int(reply.error.code) == flower.NODE_UNAVAILABLE:
            self._waiting[order.id] = order
            return []
        return [self._delivery(order, self._envelope(reply))]

    def _envelope(self, reply: Message) -> Envelope:
        if reply.has_error():
            return Envelope(failure=Failure(int(reply.error.code), str(reply.error.reason or "")))
        try:
            return flower.encode(reply.content, self._blobs)
        except (ContentError, TypeError) as error:
            return Envelope(failure=Failure(flower.RAISED, f"its reply cannot be kept: {error}"))

    def _delivery(self, order: Order, envelope: Envelope) -> Delivery:
        data = envelope.encode()
        content = self._blobs.put_envelope(data)
        size = len(data) + sum(self._blobs.size(blob) for blob in envelope.blobs())
        return Delivery(order.id, order.member.name, content, size, None, self.now())

    def _fail(self, order: Order, failure: Failure) -> None:
        self._failed.append(self._delivery(order, Envelope(failure=failure)))


def _asked(ask: Callable[[], Iterable[Any]]) -> list[Any]:
    """What Flower's grid answers. K112 if it fails, whatever it stands on."""
    try:
        return list(ask())
    except Exception as error:
        raise BarnraiseError(
            "K112",
            "Flower's grid does not answer",
            f"{type(error).__name__}: {error}",
            "what is on record stays",
            next="start the SuperLink and the same `flwr run` again: the run continues",
        ) from error
