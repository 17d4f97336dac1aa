"""What members are shown of the log, and what they cosign of it.

A `View` is one session's: what its node has seen by now, and the evidence that is due next. Evidence is
made in the session's thread, from the `Log`; the Grid's thread makes none of it and waits for none of it.

All orders of a batch are shown under one checkpoint, taken when the first of them is told, so that the
members cosign the same. Now and then the coordinator asks for that; a release needs it, a round does not.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from barnraise.coordinator import refusals
from barnraise.coordinator.log import Log
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import merkle, notes
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.notes import NoteError
from barnraise.protocols.witnessing import quorum

ASK_EVERY = 1.0  # seconds between two batches whose checkpoint is to be cosigned
BATCHES = 16  # whose checkpoint is remembered
NODES = 4096  # hashes of the tree that are remembered
POINTER = 512  # bytes of an entry that names a blob in place of its body, at most
MOMENT = 5.0  # seconds in which all may cosign, where a quorum is enough
ASKED = 64  # sizes for which cosignatures are taken


@dataclass(frozen=True)
class Held:
    """A checkpoint's note and size, and what it shows: an entry with its path, or none."""

    note: bytes
    size: int
    evidence: pb.Evidence


@dataclass(frozen=True)
class Cosigned:
    """A checkpoint of `size` entries with the lines of a quorum, or None; who signed, and how many must."""

    note: bytes | None
    size: int
    names: tuple[str, ...]
    needed: int


class Prover:
    """May be used from any thread; `_changed` guards what is remembered. Owns `log`'s witnesses.

    The first session that tells of a batch reads the log under it: the others need just that.

    `members`: the run's, with their raw keys; `file_of`: where a blob lies that was too large for an
    entry. `run` is empty where no run is open.
    """

    def __init__(
        self,
        log: Log,
        run: str,
        members: Mapping[str, bytes],
        file_of: Callable[[str], Path],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log, self._run, self._file_of, self._now = log, run, file_of, now
        self._members = dict(members)
        self._changed = threading.Condition()
        self._batches: OrderedDict[int, Held] = OrderedDict()
        self._nodes: dict[
            tuple[int, int], bytes
        ] = {}  # set and read in one step each, without the lock
        self._asked: OrderedDict[int, set[str]] = OrderedDict()  # size -> who has cosigned it
        self._asked_at = float("-inf")
        self._last: Held | None = None
        self._ended = False
        log.expect(self._members, quorum(len(self._members)))

    def view(self, size: int) -> View:
        """For a session whose node has seen `size` entries."""
        return View(self, size)

    # --- what is shown -------------------------------------------------------------------------------

    def opened(self) -> Held:
        return self._held(f"run.opened {self._run}" if self._run else None)

    def batch(self, number: int, seen: int) -> Held:
        """The entry of a batch under the batch's checkpoint; under a newer one where that is behind."""
        key = f"batch.sent {self._run} {number}"
        with self._changed:
            held = self._batches.get(number)
            if held is None:
                held = self._batches[number] = self._held(key, cosign=self._due())
                if len(self._batches) > BATCHES:
                    self._batches.popitem(last=False)
        return held if held.size >= seen else self._held(key)

    def verdict(self, order: str) -> Held:
        return self._held(order)

    def last(self, seen: int) -> Held:
        """The checkpoint that `ask` fixed; the log as it stands where that is behind what was seen."""
        with self._changed:
            held = self._last
        return held if held is not None and held.size >= seen else self._held(None)

    def _held(self, key: str | None, cosign: bool = False) -> Held:
        """The entry with this key under the checkpoint of now."""
        index = self.log.find(key) if key is not None else None
        note = self.log.checkpoint()
        size = notes.size_in(note)
        evidence = pb.Evidence(checkpoint=note, cosign=cosign)
        if index is not None:
            evidence.index, evidence.entry = index, self.log.entry(index)
            evidence.inclusion.extend(merkle.inclusion_path(self._node, index, size))
            evidence.body = self._body_of(evidence.entry)
        if cosign:
            self._ask_for(size)
        return Held(note, size, evidence)

    def consistency(self, low: int, high: int) -> list[bytes]:
        """Between two sizes that the log has; none from an empty tree."""
        return merkle.consistency_path(self._node, low, high) if low else []

    def _node(self, level: int, index: int) -> bytes:
        """A complete subtree never changes: the last ones are remembered."""
        if (value := self._nodes.get((level, index))) is None:
            if len(self._nodes) >= NODES:
                self._nodes.clear()
            value = self._nodes[level, index] = self.log.node(level, index)
        return value

    def _due(self) -> bool:
        now = self._now()
        if now - self._asked_at < ASK_EVERY:
            return False
        self._asked_at = now
        return True

    def _body_of(self, entry: bytes) -> bytes:
        """The blob that an entry names in place of its body; empty where it holds it itself."""
        if len(entry) > POINTER:
            return b""
        body = Entry.decode(entry).body
        return self._file_of(body["blob"]).read_bytes() if set(body) == {"run", "blob"} else b""

    # --- what members cosign ---------------------------------------------------------------------------

    def ask(self) -> int:
        """Fix the log as it stands as what everybody is to cosign; its size."""
        held = self._held(None, cosign=True)
        with self._changed:
            self._last = held
        return held.size

    def _ask_for(self, size: int) -> None:
        with self._changed:
            self._asked.setdefault(size, set())
            while len(self._asked) > ASKED:
                self._asked.popitem(last=False)

    def cosigned(self, member: str, size: int, line: str) -> str:
        """Keep a cosignature that was asked for; else say why not. What the disk says ends no session: a
        cosignature that is not kept is asked for again."""
        with self._changed:
            if size not in self._asked:
                return f"nobody asked for a cosignature over {size} entries"
        try:
            self.log.keep_cosignature(size, self.log.root(size), member, line)
        except NoteError as error:
            return str(error)
        except (BarnraiseError, OSError):
            return "the cosignature could not be kept: the disk is full, or failed"
        with self._changed:
            self._asked.get(size, set()).add(member)
            self._changed.notify_all()
        return ""

    def missing(self, size: int, names: set[str], seconds: float) -> set[str]:
        """Who of these has not cosigned the checkpoint of this size, at the latest after `seconds`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or names <= self._asked.get(size, set()), seconds
            )
            return names - self._asked.get(size, set())

    def gathered(self, size: int, names: set[str], needed: int, seconds: float) -> set[str]:
        """Who of these has cosigned that size, once `needed` of them have: the others have a moment more."""
        end = self._now() + seconds
        self.missing(size, names, min(MOMENT, seconds))
        with self._changed:
            enough = partial(self._enough, size, names, needed)
            self._changed.wait_for(enough, max(0.0, end - self._now()))
            return names & self._asked.get(size, set())

    def _enough(self, size: int, names: set[str], needed: int) -> bool:
        return self._ended or len(names & self._asked.get(size, set())) >= needed

    def end(self) -> None:
        """Nobody is waited for any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class View:
    """What one session's node has seen of the log. Owned by the session's thread.

    `Refused` (N211) where the log cannot be read: the node comes again.
    """

    def __init__(self, prover: Prover, size: int) -> None:
        self._prover, self._size = prover, size

    def opened(self) -> pb.Evidence:
        """Of `run.opened`; only the checkpoint where no run is open."""
        return self._shown(self._prover.opened)

    def order(self, batch: int) -> pb.Evidence:
        return self._shown(partial(self._prover.batch, batch, self._size))

    def receipt(self, order: str) -> pb.Evidence:
        return self._shown(partial(self._prover.verdict, order))

    def last(self) -> pb.Evidence:
        return self._shown(partial(self._prover.last, self._size))

    def _shown(self, take: Callable[[], Held]) -> pb.Evidence:
        try:
            return self._evidence(take())
        except (BarnraiseError, OSError) as error:
            raise refusals.not_now("the log cannot be read") from error

    def _evidence(self, held: Held) -> pb.Evidence:
        """A node that has seen more than the log has is shown the log as it is, without proof."""
        shown = pb.Evidence()
        shown.CopyFrom(held.evidence)
        shown.old_size = self._size
        if self._size <= held.size:
            shown.consistency.extend(self._prover.consistency(self._size, held.size))
            self._size = held.size
        return shown
