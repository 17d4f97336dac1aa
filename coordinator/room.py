"""Room on the disk: asked for before a reply comes in, and waited for where the record itself needs it.

    claim        a delivery's bytes, before any of them comes; refused (N211) where they would not fit
    patiently    what the Grid's thread must write: tried again until there is room, for as long as it takes

Whoever asked in vain is said to the operator, and so is that there is room again (law L10). While the
Grid's thread waits the fleet's clock stands still, so a full disk costs no member its deadline; a reply
that is refused stops nobody's clock, or one member could. What is kept free for the record is `headroom`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from barnraise.coordinator import refusals
from barnraise.coordinator.events import DiskFull
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import is_full

HEADROOM = 16 << 20  # bytes kept free for entries, receipts and what is on its way already
LOOK = 1.0  # seconds between two looks at a disk that was full
FORGOTTEN = 30.0  # seconds after which nobody seems to want any more what was refused

T = TypeVar("T")


def free_of(folder: Path) -> int:
    """Bytes that may still be written under `folder`."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


class Claim:
    """Room held for one delivery; `spent` says how much of it has become a file."""

    def __init__(self, room: Room, size: int) -> None:
        self._room, self._left = room, size

    @property
    def left(self) -> int:
        return self._left

    def spent(self, count: int) -> None:
        self._left = max(0, self._left - count)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._room.give_up(self)


class Room:
    """All state is under `_lock`. `claim`, `lacking` and `now` may be used from any thread, the rest from
    the Grid's alone; `wake` is called, outside the lock, when there is something to tell."""

    def __init__(
        self,
        folder: Path,
        wake: Callable[[], None],
        *,
        headroom: int = HEADROOM,
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[Path], int] = free_of,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self._folder, self._wake, self._headroom = folder, wake, headroom
        self._clock, self._free = clock, free
        self._pause = pause or threading.Event().wait
        self._lock = threading.Lock()
        self._claims: set[Claim] = set()
        self._lacking = 0  # bytes that were asked for in vain; 0 while there is room
        self._asked_at = 0.0
        self._told = False
        self._standing: float | None = None  # when the Grid's thread began to wait
        self._lost = 0.0  # seconds that it has waited before

    # --- from any thread ---------------------------------------------------------------------------

    def now(self) -> float:
        """The clock, without the time in which the Grid's thread waited for room. Never goes back."""
        with self._lock:
            at = self._clock() if self._standing is None else self._standing
            return at - self._lost

    def claim(self, size: int) -> Claim:
        """Hold room for so many bytes; `Refused` (N211) where they would not fit beside the rest."""
        claim = Claim(self, size)
        with self._lock:
            fits = self._available() >= size + self._headroom
            if fits:
                self._claims.add(claim)
        if not fits:
            self.lacking(size)
            raise refusals.not_now("the disk is full")
        return claim

    def give_up(self, claim: Claim) -> None:
        with self._lock:
            self._claims.discard(claim)

    def lacking(self, size: int) -> None:
        """So many bytes were asked for in vain."""
        with self._lock:
            self._lacking = max(self._lacking, size + self._headroom)
            self._asked_at = self._clock()
        self._wake()

    def _available(self) -> int:
        return self._free(self._folder) - sum(claim.left for claim in self._claims)

    # --- from the Grid's thread --------------------------------------------------------------------

    def patiently(self, act: Callable[[], T], tell: Callable[[DiskFull], None]) -> T:
        """What `act` returns. While the disk is too full for it, wait, say so, and try it again."""
        while True:
            try:
                done = act()
            except (OSError, BarnraiseError) as error:
                if not is_full(error):
                    raise
                with self._lock:
                    self._standing = self._clock() if self._standing is None else self._standing
                self.lacking(0)
                for news in self.news():
                    tell(news)
                self._pause(LOOK)
                continue
            self._go_on()
            return done

    def _go_on(self) -> None:
        with self._lock:
            if self._standing is not None:
                self._lost += self._clock() - self._standing
                self._standing = None

    def news(self) -> list[DiskFull]:
        """What is to be told now: that there is no room, or that there is again; it counts as told."""
        with self._lock:
            if not self._lacking:
                return []
            available = self._available()
            wanted = self._clock() - self._asked_at < FORGOTTEN
            if self._standing is None and available >= (self._lacking if wanted else 1):
                told, self._told, self._lacking = self._told, False, 0
                return [DiskFull(self._folder, available, 0)] if told else []
            if self._told:
                return []
            self._told = True
            return [DiskFull(self._folder, max(available, 0), self._lacking)]

    def next_look(self) -> float | None:
        """Seconds until there may be news of themselves; None if nothing is lacking."""
        with self._lock:
            return LOOK if self._lacking else None
