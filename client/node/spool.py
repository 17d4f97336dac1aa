"""What of a node survives a kill: replies without receipt, `Context.state` and the carry, in one commit.

    NODE_DIR/spool/sha256/…       the blobs of what is committed
    NODE_DIR/spool/current.json   names them; replaced by one rename, after they are durable: the commit
    NODE_DIR/spool/inbox/…        contents of orders; not synced, held against their digests after a restart
    NODE_DIR/spool/partial/…      what is being fetched; a cut transfer goes on at the end of its file
    NODE_DIR/spool/outgoing/…     what the worker has written and the daemon not yet taken
    NODE_DIR/spool/spare/…        large files that are written over by what comes next

Owned by the daemon's main thread. The thread that fetches writes into `partial` alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from barnraise.client.node import failpoints
from barnraise.client.node.spares import Spares
from barnraise.client.node.transfers import ENVELOPE
from barnraise.protocols import files
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.content import ContentError, Envelope, Failure
from barnraise.protocols.errors import BarnraiseError

Sign = Callable[[str, str], Mapping[str, Any]]
"""(order, content) → the reply's statement."""


@dataclass(frozen=True)
class Reply:
    """A committed reply: its content, the bytes of envelope and blobs, and the statement over it."""

    content: str
    size: int
    statement: Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """What `current.json` holds. `state` and `carry` name contents; None for empty.

    `done` are the last orders whose receipts came, oldest first.
    """

    run: str
    state: str | None = None
    carry: str | None = None
    replies: Mapping[str, Reply] = field(default_factory=dict)
    done: tuple[str, ...] = ()

    def encode(self) -> bytes:
        document = {
            "run": self.run,
            "state": self.state,
            "carry": self.carry,
            "replies": {order: vars(reply) for order, reply in self.replies.items()},
            "done": list(self.done),
        }
        return json.dumps(document).encode()

    @classmethod
    def decode(cls, data: bytes) -> Kept:
        """`ValueError` for what `encode` does not write."""
        document = json.loads(data)
        try:
            replies = {order: Reply(**held) for order, held in document["replies"].items()}
            kept = cls(**{**document, "replies": replies, "done": tuple(document["done"])})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not what a node keeps: {error!r}") from None
        named = [*replies, *kept.done, *kept.contents()]
        if not all(is_digest(name) for name in named):
            raise ValueError("a name in it is no digest")
        return kept

    def contents(self) -> list[str]:
        ours = [c for c in (self.state, self.carry) if c is not None]
        return [*ours, *(reply.content for reply in self.replies.values())]


@dataclass(frozen=True)
class Answer:
    """What the worker left for an order, as digests of contents. None where the member stays as it was."""

    order: str
    content: str
    state: str | None = None
    carry: str | None = None


class Spool:
    def __init__(self, root: Path, run: str, *, remembered: int) -> None:
        """Open or make it. What it holds of another run is dropped: the site has approved this one.

        Raises D106 if what it holds is damaged.
        """
        self.root, self._remembered = root, remembered
        self.partial, self.outgoing = root / "partial", root / "outgoing"
        for folder in (self.partial, self.outgoing):
            folder.mkdir(parents=True, exist_ok=True)
        self.spares = Spares(root / "spare")
        self.spares.clear()
        self._blobs = BlobStore(root)
        self._inbox = BlobStore(root / "inbox", durable=False)
        self._unchecked = set(self._inbox.all())
        self._path = root / "current.json"
        self.kept = self._read(run)
        self._forgotten = False  # something that is still in current.json
        self._last: tuple[str, Envelope] | None = None
        self._drop_but(self._blobs, self._needed(self._blobs, self.kept.contents()))
        self.empty_outgoing()

    def _read(self, run: str) -> Kept:
        try:
            kept = Kept.decode(self._path.read_bytes())
        except FileNotFoundError:
            return Kept(run)
        except (ValueError, RecursionError) as error:
            raise BarnraiseError(
                "D106",
                f"{self._path} is damaged",
                str(error),
                next="restore the node's directory from a backup, or empty its spool",
            ) from None
        return kept if kept.run == run else Kept(run)

    # --- the commit -----------------------------------------------------------------------------

    def commit(self, answer: Answer, sign: Sign) -> None:
        """Reply, state and carry in one rename; `ContentError` if the worker's files do not hold together."""
        for content in (answer.content, answer.state, answer.carry):
            if content is not None:
                self._adopt(content)
        self._blobs.sync()
        failpoints.reach("daemon:blobs-durable")
        reply = Reply(
            answer.content, self._size(answer.content), sign(answer.order, answer.content)
        )
        kept = replace(self.kept, replies={**self.kept.replies, answer.order: reply})
        if answer.state is not None:
            kept = replace(kept, state=answer.state)
        if answer.carry is not None:
            kept = replace(kept, carry=answer.carry)
        self._replace(kept)
        failpoints.reach("daemon:committed")
        self.empty_outgoing()

    def commit_failure(self, order: str, failure: Failure, sign: Sign) -> None:
        """Answer an order with an error; the member stays as it was."""
        content = self._blobs.put([Envelope(failure=failure).encode()])
        self.commit(Answer(order, content), sign)

    def forget(self, order: str) -> None:
        """Its receipt has come. Durable with the next commit or sweep: until then a kill costs one repeat."""
        replies = {o: reply for o, reply in self.kept.replies.items() if o != order}
        done = (*self.kept.done, order)[-self._remembered :]
        self.kept = replace(self.kept, replies=replies, done=done)
        self._forgotten = True

    def _replace(self, kept: Kept) -> None:
        data = kept.encode()
        failpoints.reach("daemon:written")
        files.replace(self._path, data)
        self.kept = kept
        if self._forgotten:
            self._forgotten = False
            failpoints.reach("daemon:forgotten")

    def left(self, content: str) -> Envelope:
        """The envelope that the worker left; `ContentError` if there is none."""
        return self._envelope_out(content)

    def reword(self, answer: Answer, envelope: Envelope) -> Answer:
        """The same answer with another content, which has no arrays that lie nowhere yet."""
        data = envelope.encode()
        name = "sha256:" + hashlib.sha256(data).hexdigest()
        (self.outgoing / name[7:]).write_bytes(data)
        return replace(answer, content=name)

    def own(self, digest: str) -> None:
        """Copy what the worker wrote to where it cannot write, if it is what it is called."""
        written = self.outgoing / digest[7:]
        if not written.is_file():
            return
        taken = self._taken(written)
        copy, hasher = taken.with_name(f"{taken.name}-copy"), hashlib.sha256()
        with taken.open("rb") as source, copy.open("wb") as target:
            while piece := source.read(1 << 20):
                hasher.update(piece)
                target.write(piece)
        taken.unlink()
        if "sha256:" + hasher.hexdigest() != digest:
            copy.unlink()
            raise ContentError(f"what the worker calls {digest} is not it")
        self._blobs.adopt(copy, digest)

    def find(self, digest: str) -> Path:
        """Where a blob lies that is the daemon's own, or that an order brought."""
        return self._blobs.path(digest) if self._blobs.has(digest) else self._inbox.path(digest)

    def _adopt(self, content: str) -> None:
        """Take a content's files over from the worker. What is kept already is not looked at again."""
        for digest in (content, *self._envelope_out(content).blobs()):
            written = self.outgoing / digest[7:]
            if written.is_file():
                self._blobs.adopt(self._taken(written), digest)
            elif self._inbox.has(digest) and not self._blobs.has(digest):
                written.hardlink_to(self._inbox.path(digest))
                self._blobs.adopt(written, digest)
            elif not self._blobs.has(digest):
                raise ContentError(f"the worker names {digest}, and has not written it")

    def _taken(self, written: Path) -> Path:
        """Move a file to where the worker cannot write; `ContentError` for a link, for it leads anywhere."""
        taken = self.partial / f"own-{written.name}"
        written.rename(taken)
        if not stat.S_ISREG(taken.lstat().st_mode):
            taken.unlink()
            raise ContentError("the worker left a link where a file belongs")
        return taken

    def _envelope_out(self, content: str) -> Envelope:
        if not is_digest(content):
            raise ContentError("the worker names something that is no digest")
        written = self.outgoing / content[7:]
        try:
            return Envelope.decode(
                _read(written) if written.is_file() else self._blobs.read(content)
            )
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            raise ContentError(f"the worker names {content}, and has not written it") from None

    def empty_outgoing(self) -> None:
        """Drop what a worker wrote that was not taken."""
        for path in self.outgoing.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    # --- replies --------------------------------------------------------------------------------

    def parts(self, order: str) -> list[tuple[str, int, Path]]:
        """(digest, bytes, file) of a reply's envelope and blobs. D106 if one is gone."""
        content = self.kept.replies[order].content
        with files.disk_errors(self.root):
            digests = (content, *self._envelope(content).blobs())
            return [(d, self._blobs.size(d), self._blobs.path(d)) for d in digests]

    def whole(self, order: str) -> bool:
        """Whether a reply's bytes still are what was signed."""
        try:
            for digest, _, _ in self.parts(order):
                self._blobs.check(digest)
        except (BarnraiseError, ContentError):
            return False
        return True

    def is_failure(self, order: str) -> bool:
        return self.reply(order).failure is not None

    def reply(self, order: str) -> Envelope:
        """What is kept as the reply to an order."""
        return self._envelope(self.kept.replies[order].content)

    def _size(self, content: str) -> int:
        return sum(self._blobs.size(d) for d in (content, *self._envelope(content).blobs()))

    def _envelope(self, content: str) -> Envelope:
        """Of a committed reply. The last is remembered: several steps of its way out ask for it."""
        if self._last is None or self._last[0] != content:
            self._last = content, Envelope.decode(self._blobs.read(content))
        return self._last[1]

    # --- contents of orders ---------------------------------------------------------------------

    def has(self, digest: str) -> bool:
        """Whether the inbox has this blob, whole. Also asked by the thread that fetches."""
        if digest in self._unchecked:
            try:
                self._inbox.check(digest)
            except BarnraiseError:
                self._inbox.drop(digest)
            self._unchecked.discard(digest)
        return self._inbox.has(digest)

    def received(self, digests: list[str]) -> None:
        """Take over what was fetched into `partial`, each in a file named by its digest."""
        for digest in digests:
            self._inbox.adopt(self.partial / digest[7:], digest)
        self._inbox.sync()

    def read(self, digest: str) -> bytes:
        return self._inbox.read(digest)

    def stores(self) -> list[Path]:
        """Where the worker finds blobs."""
        return [self._blobs.root, self._inbox.root]

    def sweep(self, contents: set[str]) -> None:
        """Drop every blob that neither the last commit nor one of these orders' contents needs.

        An order may bring the very bytes of a forgotten reply: the worker then reads the reply's copy,
        which it finds first, so that stays too. Not while something is being fetched.
        """
        if self._forgotten:
            self._replace(self.kept)
        ordered = self._needed(self._inbox, contents)
        self._drop_but(self._blobs, ordered | self._needed(self._blobs, self.kept.contents()))
        self._drop_but(self._inbox, ordered)
        for path in self.partial.iterdir():
            path.unlink()

    def _needed(self, store: BlobStore, contents: Iterable[str]) -> set[str]:
        """These contents, and the blobs that they name where the store has them."""
        needed = set()
        for content in contents:
            needed.add(content)
            if store.has(content):
                needed.update(Envelope.decode(store.read(content)).blobs())
        return needed

    def _drop_but(self, store: BlobStore, needed: set[str]) -> None:
        for digest in set(store.all()) - needed:
            self.spares.keep(store.path(digest))
            store.drop(digest)


def _read(path: Path) -> bytes:
    """An envelope that the worker wrote: a regular file, of no more bytes than one may have."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        data = file.read(ENVELOPE + 1)
    if len(data) > ENVELOPE:
        raise ContentError(f"an envelope of more than {ENVELOPE} bytes")
    return data
