"""The node as a witness of its federation's log: what it has seen, what it was shown, what it cosigns.

    NODE_DIR/witness/checkpoint   the newest signed checkpoint that this node has seen; durable before any
                                  cosignature of it leaves
    NODE_DIR/evidence/            there once the coordinator was caught (`misconduct`)

Whether what is shown holds is decided by `protocols.witnessing`; this module reads, writes, asks and signs.
Threads: `look` is called by the link's alone, which owns `_kept`; the witness's own thread writes and
cosigns, so that neither an order nor a round waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.client.node.approval import Approval
from barnraise.client.node.link import Cut, Heard, Link
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import files, notes, witnessing
from barnraise.protocols.apps import BUILT_IN
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.federation_pb2_grpc import TransparencyStub
from barnraise.protocols.notes import Checkpoint, NoteError
from barnraise.protocols.swap import swap
from barnraise.protocols.tlog_proof import TlogProof
from barnraise.protocols.witnessing import Approved, Misconduct, Shown

FOLDER = "witness"
SAVE_EVERY = 0.5  # seconds between two writes of a checkpoint that nobody asked to be cosigned
PATIENCE = 10.0  # seconds for a proof that had to be asked for
BEYOND = (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.INVALID_ARGUMENT)


@dataclass(frozen=True)
class Seen:
    """A checkpoint and the signed note in which it came."""

    checkpoint: Checkpoint
    note: bytes


@dataclass(frozen=True)
class Proved:
    """An entry that a message has shown to be in the log; `data` are its bytes."""

    entry: Entry
    data: bytes
    proof: TlogProof


@dataclass(frozen=True)
class Caught:
    """The coordinator did what no honest one does: what, with what, and what had been seen before."""

    misconduct: Misconduct
    message: pb.ToNode
    seen: Seen | None
    asked: tuple[bytes, ...] = ()


class Witness:
    """`say` sends a message in the session of now, if there is one. Call `close` at the end."""

    def __init__(
        self, home: Path, member: str, key: Ed25519PrivateKey, log_key: str, log: logging.Logger
    ) -> None:
        """Raises D106 for a damaged checkpoint."""
        self.member, self._key, self.log_key, self._log = member, key, log_key, log
        self.public_key = key.public_key().public_bytes_raw()
        self._path = home / FOLDER / "checkpoint"
        with files.disk_errors(home):
            self._path.parent.mkdir(exist_ok=True, mode=0o700)
            self._kept = _read(self._path, log_key)
        self._say: Callable[[pb.FromNode], object] = lambda message: None
        self._asked_path: tuple[bytes, ...] = ()
        self._trouble = ""  # what its thread has said last
        self._changed = threading.Condition()  # what follows is under it
        self._unsaved: Seen | None = None
        self._to_cosign: Seen | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    @property
    def seen(self) -> Seen | None:
        return self._kept

    @property
    def size(self) -> int:
        """How many entries the log had when it was last seen."""
        return self._kept.checkpoint.size if self._kept is not None else 0

    def approved(self, approval: Approval) -> Approved:
        """What the log must say of a run that this site approved."""
        return Approved(
            self.member,
            self.public_key,
            approval.federation,
            approval.run,
            approval.app,
            approval.members,
            one_content=approval.client == BUILT_IN,
        )

    def speak(self, say: Callable[[pb.FromNode], object]) -> None:
        """How cosignatures get out."""
        self._say = say

    def close(self) -> None:
        """What was seen is durable on return."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    # --- looking ----------------------------------------------------------------------------------

    def heard(self, said: Heard | Cut, link: Link) -> Heard | Cut:
        """What the link heard, with what its evidence proves. Raises `grpc.RpcError`."""
        if isinstance(said, Cut):
            return said
        return Heard(said.message, self.look(said.message, link.transparency))

    def look(
        self, message: pb.ToNode, stub: Callable[[], TransparencyStub | None]
    ) -> Proved | Caught | None:
        """What the message proves; None where it shows no entry. Raises `grpc.RpcError`."""
        evidence = _evidence_of(message)
        if evidence is None:
            return None
        self._asked_path = ()
        try:
            return self._looked(_shown(evidence), stub, cosign=evidence.cosign)
        except Misconduct as misconduct:
            return Caught(misconduct, message, self._kept, self._asked_path)

    def _looked(
        self, shown: Shown, stub: Callable[[], TransparencyStub | None], *, cosign: bool
    ) -> Proved | None:
        checkpoint = self._opened(shown.note)
        kept = self._kept.checkpoint if self._kept is not None else None
        newest = witnessing.step(kept, checkpoint, self._path_to(checkpoint, shown, stub))
        entry = witnessing.included(shown, checkpoint) if shown.entry else None
        if newest != kept:
            self._kept = Seen(newest, shown.note)
            self._note(self._kept, cosign=cosign)
        elif cosign and self._kept is not None and newest == checkpoint:
            self._note(self._kept, cosign=True)
        if entry is None:
            return None
        return Proved(entry, shown.entry, TlogProof(shown.index, shown.inclusion, shown.note))

    def _opened(self, note: bytes) -> Checkpoint:
        if self._kept is not None and note == self._kept.note:
            return self._kept.checkpoint
        return witnessing.opened(note, self.log_key)

    def _path_to(
        self, shown: Checkpoint, evidence: Shown, stub: Callable[[], TransparencyStub | None]
    ) -> tuple[bytes, ...]:
        """The consistency proof that was pushed, or, where it is from another size, one that is asked for.

        A coordinator that says that its log does not reach so far has none.
        """
        kept = self._kept.checkpoint if self._kept is not None else None
        sizes = witnessing.wanted(kept, shown)
        if sizes is None or evidence.old_size == self.size:
            return evidence.consistency
        asked = stub()
        if asked is None:
            return ()
        request = pb.ConsistencyRequest(old_size=sizes[0], new_size=sizes[1])
        try:
            path = tuple(asked.Consistency(request, timeout=PATIENCE).hashes)
        except grpc.RpcError as error:
            if error.code() not in BEYOND:
                raise
            path = ()
        self._asked_path = path
        return path

    # --- writing and cosigning ------------------------------------------------------------------------

    def _note(self, seen: Seen, *, cosign: bool) -> None:
        with self._changed:
            self._unsaved = seen
            if cosign:
                self._to_cosign = seen
            self._changed.notify_all()

    def _run(self) -> None:
        saved_at = float("-inf")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unsaved or self._closing)
                wait = saved_at + SAVE_EVERY - time.monotonic()
                self._changed.wait_for(lambda: self._to_cosign or self._closing, max(0.0, wait))
                unsaved, to_cosign, closing = self._unsaved, self._to_cosign, self._closing
                self._unsaved = self._to_cosign = None
            if unsaved is not None and not self._save(unsaved, to_cosign):
                with self._changed:  # again in a while, unless there is something newer by then
                    self._changed.wait_for(lambda: self._closing, SAVE_EVERY)
                    self._unsaved = self._unsaved or unsaved
                    self._to_cosign = self._to_cosign or to_cosign
            saved_at = time.monotonic()
            if closing:
                return

    def _save(self, seen: Seen, to_cosign: Seen | None) -> bool:
        """False if it could not be kept: then it is not cosigned either."""
        try:
            swap(self._path, seen.note)
        except OSError as error:
            if (trouble := str(error)) != self._trouble:
                self._log.error("the checkpoint that was seen cannot be kept: %s", trouble)
            self._trouble = trouble
            return False
        self._trouble = ""
        if to_cosign is not None:
            checkpoint = to_cosign.checkpoint
            line = notes.cosign(self._key, self.member, checkpoint, int(time.time()))
            said = pb.Cosignature(size=checkpoint.size, line=line)
            self._say(pb.FromNode(cosignature=said))
        return True

    def forget(self) -> None:
        """The checkpoint lies with the evidence now: whoever moves that away begins anew."""
        self.close()
        self._path.unlink(missing_ok=True)


def _read(path: Path, log_key: str) -> Seen | None:
    try:
        note = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Seen(notes.open_checkpoint(note, log_key).checkpoint, note)
    except NoteError as error:
        raise BarnraiseError(
            "D106",
            f"{path} is damaged",
            f"it should be a checkpoint of this federation's log, and is {error}",
            "the node was not started",
            next=f"restore {path} from a backup, or remove it: the node then begins anew to watch the log",
        ) from None


def _evidence_of(message: pb.ToNode) -> pb.Evidence | None:
    said = message.WhichOneof("said")
    if said == "evidence":
        return message.evidence
    if said not in ("welcome", "order", "receipt"):
        return None
    part = getattr(message, said)
    return part.evidence if part.HasField("evidence") else None


def _shown(evidence: pb.Evidence) -> Shown:
    return Shown(
        evidence.checkpoint,
        evidence.old_size,
        tuple(evidence.consistency),
        evidence.index,
        tuple(evidence.inclusion),
        evidence.entry,
        evidence.body,
    )
