"""What of a node survives a kill: replies without receipt, `Context.state` and the carry, in one commit.

    NODE_DIR/spool/blobs/…        the blobs of what is committed, and envelopes that are not small
    NODE_DIR/spool/current.json   names them; replaced in one step, after they are durable: the commit
    NODE_DIR/spool/inbox/blobs/…  contents of orders; not synced, held against their digests after a restart
    NODE_DIR/spool/partial/…      what is being fetched; a cut transfer goes on at the end of its file
    NODE_DIR/spool/outgoing/…     what the worker has written and the daemon not yet taken
    NODE_DIR/spool/spare/…        large files of orders, that are written over by what is fetched next
    NODE_DIR/spool/lent/…         large files of the worker's, that it writes over

Owned by the daemon's main thread. The thread that fetches writes into `partial` alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from barnraise.client.node import failpoints
from barnraise.client.node.frames import SMALL
from barnraise.client.node.kept import Answer, Envelopes, Kept, Reply, name_of
from barnraise.client.node.spares import Spares, emptied
from barnraise.client.node.transfers import ENVELOPE, Part
from barnraise.protocols import files
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.canonical import digest as digest_of
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.content import ContentError, Envelope, Failure
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.swap import swap

Sign = Callable[[str, str], Mapping[str, Any]]
"""(order, content) → the reply's statement."""


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
        self.lent = Spares(root / "lent")
        for spares in (self.spares, self.lent):
            spares.clear()
        self._blobs = BlobStore(root, flat=True)
        self._inbox = BlobStore(root / "inbox", durable=False, flat=True)
        self._unchecked = set(self._inbox.all())
        self._own: set[str] = set()  # of the blobs, those whose files the worker could never write
        self._brought: dict[str, bytes] = {}  # envelopes that came with their orders
        self._path = root / "current.json"
        self.kept = self._written = self._read(run)  # `_written` is what current.json says
        self._drop_but(self._blobs, self._needed(self.kept.contents()), self.lent)
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
        """Reply, state and carry in one step; `ContentError` if what the worker left is not whole."""
        for content in answer.contents():
            self._adopt(content, answer.envelopes)
        self._blobs.sync()
        failpoints.reach("daemon:blobs-durable")
        size = sum(part.size for part in self._parts(answer.content, answer.envelopes))
        reply = Reply(answer.content, size, sign(answer.order, answer.content))
        self._replace(self.kept.answered(answer.order, reply, answer))
        failpoints.reach("daemon:committed")
        self.empty_outgoing()

    def commit_failure(self, order: str, failure: Failure, sign: Sign) -> None:
        """Answer an order with an error; the member stays as it was."""
        self.commit(self.reword(Answer(order, ""), Envelope(failure=failure)), sign)

    def forget(self, order: str) -> None:
        """Its receipt has come. Durable with the next commit or `settle`: a kill before costs a repeat."""
        self.kept = self.kept.receipted(order, self._remembered)

    def settle(self) -> None:
        """Make durable what was forgotten, so that a sweep may drop it."""
        if self.kept is not self._written:
            self._replace(self.kept)

    def _replace(self, kept: Kept) -> None:
        data, forgotten = kept.encode(), self.kept is not self._written
        failpoints.reach("daemon:written")
        swap(self._path, data)
        self.kept = self._written = kept
        if forgotten:
            failpoints.reach("daemon:forgotten")

    def left(self, answer: Answer) -> Envelope:
        """The envelope of the reply that the worker left; `ContentError` if there is none."""
        if is_digest(answer.content) and self._text(answer.content, answer.envelopes) is None:
            self.own(answer.content)
        return self._envelope_out(answer.content, answer.envelopes)

    def reword(self, answer: Answer, envelope: Envelope) -> Answer:
        """The same answer with another content, which has no arrays that lie nowhere yet."""
        text = envelope.encode().decode()
        name = name_of(text)
        return replace(answer, content=name, envelopes={**answer.envelopes, name: text})

    def own(self, digest: str) -> None:
        """Have what is called so in a file that the worker could never write; `ContentError` if it is not it.

        Also what was committed before: of that the worker may hold the file open, for it was only renamed.
        """
        if digest in self._own:
            return
        taken, committed = self._taken(digest), self._blobs.has(digest)
        if taken is not None or committed:
            copy = self._copied(taken or self._blobs.path(digest), digest)
            if committed:
                files.sync(copy)
                copy.rename(self._blobs.path(digest))
            else:
                self._blobs.adopt(copy, digest)
            if taken is not None:
                taken.unlink()
        elif self.has(digest) and self._inbox.has(digest):
            self._adopt_brought(digest)
        else:
            return
        self._own.add(digest)

    def _copied(self, source: Path, digest: str) -> Path:
        copy, hasher = self.partial / f"own-{digest[7:]}-copy", hashlib.sha256()
        with source.open("rb") as there, copy.open("wb") as target:
            while piece := there.read(1 << 20):
                hasher.update(piece)
                target.write(piece)
        if "sha256:" + hasher.hexdigest() != digest:
            copy.unlink()
            raise ContentError(f"what the worker calls {digest} is not it")
        return copy

    def find(self, digest: str) -> Path:
        """Where a blob lies that an order brought, or that is the daemon's own. What the worker calls so is
        looked at only where there is no other."""
        return self._inbox.path(digest) if self._inbox.has(digest) else self._blobs.path(digest)

    def _adopt(self, content: str, envelopes: Envelopes) -> None:
        """Take a content's files over from the worker. What is kept already is not looked at again."""
        blobs = self._envelope_out(content, envelopes).blobs()
        for digest in blobs if self._text(content, envelopes) else (content, *blobs):
            if (taken := self._taken(digest)) is not None:
                self._blobs.adopt(taken, digest)
            elif self._inbox.has(digest) and not self._blobs.has(digest):
                self._adopt_brought(digest)
            elif not self._blobs.has(digest):
                raise ContentError(f"the worker names {digest}, and has not written it")

    def _adopt_brought(self, digest: str) -> None:
        """A reply's blob that is an order's: one file with two names."""
        link = self.partial / f"own-{digest[7:]}-link"
        link.unlink(missing_ok=True)
        link.hardlink_to(self._inbox.path(digest))
        self._blobs.adopt(link, digest)

    def _taken(self, digest: str) -> Path | None:
        """The file that the worker wrote under this name, moved to where it cannot write, now or before a
        full disk stopped that; `ContentError` for a link, for it leads anywhere."""
        written, taken = self.outgoing / digest[7:], self.partial / f"own-{digest[7:]}"
        if written.is_file():
            written.rename(taken)
        elif not taken.exists():
            return None
        if not stat.S_ISREG(taken.lstat().st_mode):
            taken.unlink()
            raise ContentError("the worker left a link where a file belongs")
        return taken

    def _envelope_out(self, content: str, envelopes: Envelopes) -> Envelope:
        if not is_digest(content):
            raise ContentError("the worker names something that is no digest")
        if (text := self._text(content, envelopes)) is not None:
            if name_of(text) != content:
                raise ContentError(f"what the worker calls {content} is not it")
            return _decoded(text.encode())
        written = self.outgoing / content[7:]
        try:
            return Envelope.decode(
                _read(written)
                if written.is_file() and content not in self._own
                else self._blobs.read(content)
            )
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            raise ContentError(f"the worker names {content}, and has not written it") from None

    def _text(self, content: str, more: Envelopes) -> str | None:
        """An envelope that is no file: one that is kept, or one of these."""
        return self.kept.envelopes.get(content, more.get(content))

    def empty_outgoing(self) -> None:
        """Drop what a worker wrote that was not taken."""
        emptied(self.outgoing)

    # --- replies --------------------------------------------------------------------------------

    def parts(self, order: str) -> list[Part]:
        """A reply's envelope and blobs. D106 if one is gone."""
        with files.disk_errors(self.root):
            return self._parts(self.kept.replies[order].content, {})

    def _parts(self, content: str, more: Envelopes) -> list[Part]:
        text, store = self._text(content, more), self._blobs
        data = store.read(content) if text is None else text.encode()
        first = [] if text is None else [Part(content, len(data), data)]
        blobs = _decoded(data).blobs()
        rest = blobs if first else (content, *blobs)
        return [*first, *(Part(blob, store.size(blob), store.path(blob)) for blob in rest)]

    def whole(self, order: str) -> bool:
        """Whether a reply's bytes still are what was signed."""
        try:
            for part in self.parts(order):
                if isinstance(part.held, Path):
                    self._blobs.check(part.digest)
        except (BarnraiseError, ContentError):
            return False
        return True

    def is_failure(self, order: str) -> bool:
        return self.reply(order).failure is not None

    def reply(self, order: str) -> Envelope:
        """What is kept as the reply to an order."""
        content = self.kept.replies[order].content
        text = self._text(content, {})
        return _decoded(self._blobs.read(content) if text is None else text.encode())

    # --- contents of orders ---------------------------------------------------------------------

    def bring(self, content: str, data: bytes) -> None:
        """An envelope has come with its order. What is not the content's, or no text, is as if it had not."""
        if data and digest_of(data) == content and _is_text(data):
            self._brought[content] = data

    def unneeded(self, contents: set[str]) -> None:
        """Only these contents are still ordered: no other envelope that came with an order is kept."""
        self._brought = {name: data for name, data in self._brought.items() if name in contents}

    def small(self, *contents: str | None) -> dict[str, str]:
        """Those envelopes of these contents that are not files."""
        found = dict[str, str]()
        for content in filter(None, contents):
            if content in self.kept.envelopes:
                found[content] = self.kept.envelopes[content]
            elif content in self._brought:
                found[content] = self._brought[content].decode()
        return found

    def has(self, digest: str) -> bool:
        """Whether an order has brought this, whole. Also asked by the thread that fetches."""
        if digest in self._brought:
            return True
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
        """What an order has brought. Also asked by the thread that fetches."""
        data = self._brought.get(digest)
        return self._inbox.read(digest) if data is None else data

    def stores(self) -> list[Path]:
        """Where the worker finds blobs."""
        return [self._blobs.root, self._inbox.root]

    def sweep(self, contents: set[str], *, lacking: bool = False) -> None:
        """Drop every blob that neither `current.json` nor one of these orders' contents needs.

        An order may bring the very bytes of a forgotten reply: the worker then reads the reply's copy,
        which it finds first, so that stays too. Not while something is being fetched. `lacking`: for want
        of room; no file is kept to be written over, but what was fetched in part, which goes on.
        """
        ordered = self._needed(contents)
        self._drop_but(self._blobs, ordered | self._needed(self._written.contents()), self.lent)
        self._drop_but(self._inbox, ordered, self.spares)
        if self._own:
            self._own.intersection_update(self._blobs.all())
        self.unneeded(contents)
        if lacking:
            self.spares.clear()
            self.lent.clear()
        for path in () if lacking else self.partial.iterdir():
            path.unlink()

    def _needed(self, contents: Iterable[str]) -> set[str]:
        """These contents, and the blobs that they name where their envelopes are here."""
        needed = set(contents)
        for content in contents:
            if (data := self._found(content)) is not None:
                needed.update(_decoded(data).blobs())
        return needed

    def _found(self, content: str) -> bytes | None:
        """An envelope, wherever it is."""
        if (text := self._written.envelopes.get(content)) is not None:
            return text.encode()
        if content in self._brought:
            return self._brought[content]
        for store in (self._blobs, self._inbox):
            if store.has(content):
                return store.read(content)
        return None

    def _drop_but(self, store: BlobStore, needed: set[str], spares: Spares) -> None:
        for digest in set(store.all()) - needed:
            spares.keep(store.path(digest))
            store.drop(digest)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@lru_cache(maxsize=32)
def _remembered(data: bytes) -> Envelope:
    return Envelope.decode(data)


def _decoded(data: bytes) -> Envelope:
    """Several steps of a content's way ask for the same small envelope."""
    return _remembered(data) if len(data) <= SMALL else Envelope.decode(data)


def _read(path: Path) -> bytes:
    """An envelope that the worker wrote: a regular file, of no more bytes than one may have."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        data = file.read(ENVELOPE + 1)
    if len(data) > ENVELOPE:
        raise ContentError(f"an envelope of more than {ENVELOPE} bytes")
    return data
