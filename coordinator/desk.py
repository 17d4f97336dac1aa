"""A member's desk: what it is to be told, and what has become of it. Outlives every connection.

The Grid's thread puts orders and verdicts here; the thread of the member's session takes them, in small
handfuls, so that nobody waits for a member that does not read. An order without a verdict is told again
to each new session. Knows no sockets; every method may be called from any thread and does no I/O.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from barnraise.coordinator.fleet import Order

HANDFUL = 16  # messages that a session takes at a time
RECEIPTS = 64  # a member's last receipts, told again to each new session
WITHDRAWN = 4096  # orders of closed batches that may still be answered, of one member
RECALLED = 64  # of those, the last that each new session is told of

Standing = Literal["open", "taken", "withdrawn", "judged", "unknown"]


@dataclass(frozen=True)
class Part:
    """The envelope of a content, or one of its blobs. `size` in bytes; `data` where it is no file."""

    digest: str
    size: int
    data: bytes | None = None


@dataclass(frozen=True)
class Sent:
    """An order as its member is told of it. `parts` is its content; a reply is at most `cap` bytes."""

    order: Order
    parts: tuple[Part, ...]
    cap: int

    @property
    def id(self) -> str:
        return self.order.id

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


@dataclass(frozen=True)
class Told:
    """The receipt for the order `id`, signed: the bytes of its DSSE envelope."""

    id: str
    statement: bytes


@dataclass(frozen=True)
class Asked:
    """The member is asked to cosign the log as it stands."""

    id: str = "checkpoint"


@dataclass(frozen=True)
class Recalled:
    """The order `id` need not be begun any more: its batch is closed."""

    id: str


@dataclass(frozen=True)
class Dismissed:
    """The last that a session hears: displaced, revoked, finished."""

    why: str
    text: str


Message = Sent | Told | Asked | Recalled | Dismissed


class Desk:
    """All state is under `_changed`. `_session` is the serial of the live session, 0 if there is none.

    `_todo` is what the live session has not taken yet, in sequence; an order or its receipt stands in it
    under the order's id. `_busy_since` is when the session took its last handful, None while it
    waits for more.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._open: dict[str, Sent] = {}
        self._taken: dict[str, Mapping[str, int]] = {}  # with the sizes of the parts that came
        self._withdrawn: OrderedDict[str, None] = OrderedDict()
        self._receipts: OrderedDict[str, Told] = OrderedDict()
        self._serial = self._session = 0
        self._willing = False
        self._todo: OrderedDict[str, Sent | Told | Asked | Recalled] = OrderedDict()
        self._busy_since: float | None = None
        self._last: dict[int, Dismissed] = {}
        self._alive: set[int] = set()

    # --- what the Grid's thread says ---------------------------------------------------------------

    def dispatch(self, sent: Iterable[Sent]) -> None:
        """These orders wait for a reply. One that waits already stays as it is."""
        with self._changed:
            for one in sent:
                if one.id in self._open:
                    continue
                self._open[one.id] = one
                self._tell(one)

    def withdraw(self, orders: Iterable[str]) -> None:
        """Their batch is closed. A reply may still come and is late; who was told of them hears it."""
        with self._changed:
            for order in orders:
                unheard = order in self._todo
                self._drop(order)
                self._withdrawn[order] = None
                if not unheard:
                    self._tell(Recalled(order))
            while len(self._withdrawn) > WITHDRAWN:
                oldest = self._withdrawn.popitem(last=False)[0]
                self._taken.pop(oldest, None)
                self._todo.pop(oldest, None)

    def receipt(self, told: Told) -> None:
        """A verdict is on disk; the member hears it, now or when it attends."""
        with self._changed:
            self._drop(told.id)
            self._withdrawn.pop(told.id, None)
            self._taken.pop(told.id, None)
            self._receipts[told.id] = told
            self._receipts.move_to_end(told.id)
            if len(self._receipts) > RECEIPTS:
                self._receipts.popitem(last=False)
            self._tell(told)

    def ask(self) -> bool:
        """Ask the live session for a cosignature; False if there is none that is willing."""
        with self._changed:
            self._tell(Asked())
            return bool(self._session) and self._willing

    def _tell(self, message: Sent | Told | Asked | Recalled) -> None:
        if self._session and self._willing:
            self._todo[message.id] = message
            self._changed.notify_all()

    def _drop(self, order: str) -> None:
        if self._open.pop(order, None) is not None:
            self._todo.pop(order, None)

    # --- what the Exchange asks ----------------------------------------------------------------------

    def standing(self, order: str) -> Standing:
        with self._changed:
            if order in self._taken:
                return "taken"
            if order in self._open:
                return "open"
            if order in self._withdrawn:
                return "withdrawn"
            return "judged" if order in self._receipts else "unknown"

    def sent(self, order: str) -> Sent | None:
        """The order, while it waits for its verdict."""
        with self._changed:
            return self._open.get(order)

    def take(self, order: str, parts: Mapping[str, int] | None = None) -> bool:
        """All of this order's reply is in, with these parts and their sizes. False if that was so before, or
        it has its verdict."""
        with self._changed:
            if order in self._taken or not (order in self._open or order in self._withdrawn):
                return False
            self._taken[order] = parts or {}
            return True

    def handed(self, digest: str) -> int | None:
        """The size of this part of a reply that waits to be judged; None if none has it."""
        with self._changed:
            return next((p[digest] for p in self._taken.values() if digest in p), None)

    def asks(self) -> bool:
        """Whether an order waits for its verdict."""
        with self._changed:
            return bool(self._open)

    def part(self, digest: str) -> Part | None:
        """The part with this digest, if the content of an open order has one."""
        with self._changed:
            parts = (p for sent in self._open.values() for p in sent.parts)
            return next((p for p in parts if p.digest == digest), None)

    def repeat(self, order: str) -> None:
        """The member asks about a judged order: its session hears the receipt again."""
        with self._changed:
            if (told := self._receipts.get(order)) is not None:
                self._tell(told)

    # --- what a session says -------------------------------------------------------------------------

    def begin(self, *, willing: bool = True) -> int:
        """A new session, which displaces the one before: its serial. All that is open is to be told.

        A session that is not willing hears nothing but its dismissal.
        """
        with self._changed:
            if self._session:
                text = "the same member has attended from elsewhere"
                self._last[self._session] = Dismissed("displaced", text)
            self._serial += 1
            self._session = self._serial
            self._alive.add(self._serial)
            self._willing, self._busy_since = willing, None
            self._todo.clear()
            for sent in self._open.values():
                self._tell(sent)
            for told in self._receipts.values():
                self._tell(told)
            for order in list(self._withdrawn)[-RECALLED:]:
                self._tell(Recalled(order))
            self._changed.notify_all()
            return self._serial

    def next(self, serial: int) -> list[Message]:
        """The next handful for this session; waits for one; empty when the session is over."""
        with self._changed:
            if serial == self._session:
                self._busy_since = None
            while True:
                if serial not in self._alive:
                    return []
                if (last := self._last.pop(serial, None)) is not None:
                    self._end(serial)
                    return [last]
                if serial == self._session and self._todo:
                    self._busy_since = self._now()
                    count = min(HANDFUL, len(self._todo))
                    return [self._todo.popitem(last=False)[1] for _ in range(count)]
                self._changed.wait()

    def waits(self, serial: int) -> bool:
        """Whether something waits for this session to take it."""
        with self._changed:
            return serial in self._last or (serial == self._session and bool(self._todo))

    def end(self, serial: int) -> bool:
        """The session is over: its connection is gone. True if it was the live one."""
        with self._changed:
            return self._end(serial)

    def _end(self, serial: int) -> bool:
        live = serial == self._session
        if live:
            self._session, self._busy_since = 0, None
            self._todo.clear()
        self._last.pop(serial, None)
        self._alive.discard(serial)
        self._changed.notify_all()
        return live

    # --- who is there --------------------------------------------------------------------------------

    def dismiss(self, why: str, text: str) -> None:
        """Let the live session hear this as its last."""
        with self._changed:
            if self._session:
                self._last[self._session] = Dismissed(why, text)
                self._changed.notify_all()

    @property
    def live(self) -> int:
        """The serial of the live session; 0 if there is none."""
        with self._changed:
            return self._session

    def size(self) -> int:
        """How many things are kept here."""
        with self._changed:
            told = (self._withdrawn, self._receipts, self._todo, self._last)
            return len(self._open) + len(self._taken) + sum(len(kept) for kept in told)

    def stuck(self, patience: float) -> bool:
        """Whether the live session has not got rid of its last handful for so many seconds."""
        with self._changed:
            since = self._busy_since
            return since is not None and self._now() - since > patience
