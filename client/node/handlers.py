"""Inside the worker: one ClientApp, loaded once, and the orders that the daemon hands in, one by one.

Knows no key, no address and no member's secret: an order comes with the seed that the daemon drew for it.
What a handler raises is printed here, into the site's own log, and goes no further.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from barnraise.client.node import confinement, failpoints, frames
from barnraise.client.node.crew import Crew, OutOfStep
from barnraise.client.node.room import when_there_is_room
from barnraise.client.node.spares import Spares
from barnraise.client.node.tries import Watch
from barnraise.protocols import canonical, flower, progress
from barnraise.protocols.apps import BUILT_IN
from barnraise.protocols.blobs import FLAT
from barnraise.protocols.content import ContentError, Envelope, Failure
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.flower import Handled
from barnraise.protocols.tensors import BlobError, Spec, open_blob

OUT_OF_MEMORY = 77
TRAIN = "train"  # the type of order that all processes of a worker do
_PIECE = 1 << 20
_PROGRESS_EVERY = 0.1  # seconds
_speaking = threading.RLock()


def serve(own: socket.socket, hindered: Mapping[str, str], crew: Crew | None = None) -> bool:
    """Load the app that the first frame names, then answer orders until the daemon ends.

    `crew`: the other processes of this worker, which do each training order too. False if they are out
    of step, so that none of them is of use any more.
    """
    start = frames.receive(own)
    if start is None:
        return True
    if crew is not None:
        crew.share(start)
    try:
        return _serve(own, start, hindered, crew)
    finally:
        if crew is not None:
            crew.share(None)


def follow(crew: Crew) -> None:
    """What the other processes of a worker do: each training order, whose reply is the first's alone."""
    if (start := crew.next()) is None:
        return
    files = _files(start)
    app, failure = _load(start["client"], Path(start["code"]))
    while (asked := crew.next()) is not None:
        if app is not None:
            files.begin(asked["envelopes"])
            handled = _handled(app, asked, start, files)
            sys.stderr.write(handled.log)
            failure = handled.failure.reason if handled.failure is not None else ""
        crew.report(failure)


def _files(start: Mapping[str, Any]) -> Files:
    stores = [Path(p) for p in start["stores"]]
    return Files(stores, Path(start["outgoing"]), Spares(Path(start["spares"])))


def _serve(
    own: socket.socket, start: Mapping[str, Any], hindered: Mapping[str, str], crew: Crew | None
) -> bool:
    files = _files(start)
    if watched := start.get("watched"):
        _watch(own, watched)
    app, failure = _load(start["client"], Path(start["code"]))
    frames.send(own, {"said": "ready", "hindered": hindered, "failure": failure})
    while (asked := frames.receive(own)) is not None:
        failpoints.reach("worker:asked")
        files.begin(asked["envelopes"])
        mates = crew if asked["type"].partition(".")[0] == TRAIN else None
        if mates is not None:
            mates.share(asked)
        answer, in_step = (
            _answer(app, asked, start, files, own, mates) if app else _settled(failure, mates)
        )
        content = when_there_is_room(
            partial(files.put_envelope, answer.envelope), _Listener(own, asked["id"])
        )
        failpoints.reach("worker:encoded")
        _send(
            own,
            {
                "said": "done",
                "order": asked["id"],
                "content": content,
                "state": answer.state,
                "carry": answer.carry,
                "envelopes": files.said,
            },
        )
        if not in_step:
            return False
    return True


def _send(own: socket.socket, message: Mapping[str, Any]) -> None:
    with _speaking:
        frames.send(own, message)


def _watch(own: socket.socket, watched: Mapping[str, Any]) -> None:
    """Tell what the code tries."""
    anywhere = [*confinement.reading_anywhere(), *confinement.own_process()]
    reading = [*map(str, anywhere), *watched["reading"]]
    writing = [*watched["writing"], "/dev/null", "/dev/shm"]

    def tell(what: str, where: str) -> None:
        _send(own, {"said": "tried", "what": what, "where": where})

    Watch(reading, writing, tell).begin()


class _Answer:
    """A reply's envelope; state and carry are digests, or None where the member stays as it was."""

    def __init__(self, envelope: bytes, state: str | None = None, carry: str | None = None) -> None:
        self.envelope, self.state, self.carry = envelope, state, carry


def _failure(reason: str) -> bytes:
    return Envelope(failure=Failure(flower.RAISED, reason)).encode()


def _load(client: str, code: Path) -> tuple[ClientApp | None, str]:
    """The ClientApp, or why there is none: the error's code and place, without its text."""
    sys.path.insert(0, str(code))
    try:
        if client == BUILT_IN:
            from barnraise.client.app import client_app

            return client_app(code), ""
        return flower.load_client_app(client, code), ""
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        said = error.code if isinstance(error, BarnraiseError) else type(error).__name__
        cause = error.__cause__ or error
        return None, f"{said} at {flower.place_of(cause)}"


# --- one order ------------------------------------------------------------------------------------


def _answer(
    app: ClientApp,
    asked: Mapping[str, Any],
    start: Mapping[str, Any],
    files: Files,
    own: socket.socket,
    crew: Crew | None,
) -> tuple[_Answer, bool]:
    """The order's answer, and whether the crew, if there is one, is of use after it."""
    with progress.listening(_Listener(own, asked["id"])):
        handled = _handled(app, asked, start, files)
    failpoints.reach("worker:handled")
    if handled.log:
        sys.stderr.write(handled.log.rstrip("\n") + "\n")
    failed = handled.failure.reason if handled.failure is not None else ""
    apart = _apart(crew, failed)
    if apart and not failed:
        return _Answer(_failure(apart)), False
    answer = when_there_is_room(partial(_encoded, handled, files), _Listener(own, asked["id"]))
    return answer, not apart


def _settled(failure: str, crew: Crew | None) -> tuple[_Answer, bool]:
    return _Answer(_failure(failure)), not _apart(crew, failure)


def _apart(crew: Crew | None, failure: str) -> str:
    """Why the crew is out of step, "" if it is not."""
    try:
        if crew is not None:
            crew.settle(failure)
        return ""
    except OutOfStep as error:
        return f"K114: the worker's processes are out of step: {error}"


def _handled(
    app: ClientApp, asked: Mapping[str, Any], start: Mapping[str, Any], files: Files
) -> Handled:
    """What the app's handler leaves of this order."""
    try:
        records = files.records(asked["content"])
    except (ContentError, BlobError) as error:
        why = f"the order cannot be read: {type(error).__name__}"
        failure = Failure(flower.RAISED, why)
        return Handled(None, failure, None, None, "".join(traceback.format_exception(error)))
    state, carry = files.records(asked["state"]), files.records(asked["carry"])
    header = flower.Header(
        start["run_id"],
        asked["id"],
        start["node_id"],
        asked["type"],
        asked["group"],
        asked["ttl"],
        asked["created"],
    )
    context = flower.new_context(
        start["run_id"], start["node_id"], start["node_config"], state, start["run_config"]
    )
    message = flower.instruction(header, records)
    seed = bytes.fromhex(asked["seed"])
    return flower.run_handler(_dying_without_memory(app), message, context, carry, seed)


def _dying_without_memory(app: ClientApp) -> ClientApp:
    """The same app; but where memory runs out the worker dies, since only a fresh one has it all again."""

    def call(message: Message, context: Context) -> Message:
        try:
            return app(message, context)
        except MemoryError:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(OUT_OF_MEMORY)

    return cast(ClientApp, call)


def _encoded(handled: Handled, files: Files) -> _Answer:
    """A reply, a state or a carry that has no form in which it could be kept is a failure."""
    try:
        if handled.failure is not None:
            envelope = Envelope(failure=handled.failure)
        else:
            assert handled.reply is not None
            envelope = flower.encode(handled.reply, files)
        said = envelope.encode()
        return _Answer(said, files.keep(handled.state), files.keep(handled.carry))
    except (ContentError, TypeError) as error:
        traceback.print_exc()
        return _Answer(_failure(f"its reply cannot be sent: {error}"))


class _Listener:
    """Passes progress on, some times a second."""

    def __init__(self, own: socket.socket, order: str) -> None:
        self._own, self._order, self._last = own, order, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < _PROGRESS_EVERY and done != total:
            return
        self._last = now
        said = {"what": str(what)[:80], "done": int(done), "total": int(total)}
        _send(self._own, {"said": "progress", "order": self._order, **said})


# --- files ----------------------------------------------------------------------------------------


class Files:
    """Blobs by digest: read from the daemon's stores, written into the folder from which it takes them.

    Small envelopes are no files: `begin` brings those of an order, `said` has those of its answer, as text.
    """

    def __init__(self, stores: list[Path], outgoing: Path, spares: Spares) -> None:
        self._stores, self._outgoing, self._spares = stores, outgoing, spares
        self._brought: Mapping[str, str] = {}
        self.said: dict[str, str] = {}

    def begin(self, brought: Mapping[str, str]) -> None:
        """What comes now is of another order."""
        self._brought, self.said = brought, {}

    def path(self, digest: str) -> Path:
        for store in self._stores:
            if (path := store / FLAT / digest[7:]).is_file():
                return path
        return self._outgoing / digest[7:]

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def specs(self, digest: str) -> Mapping[str, Spec]:
        return open_blob(self.path(digest))

    def put(self, pieces: Iterable[memoryview | bytes]) -> str:
        """Write a file, hashed while it is written; the name it gets is its digest."""
        hasher, temp = hashlib.sha256(), self._outgoing / "writing"
        views = [memoryview(piece).cast("B") for piece in pieces]
        self._spares.take(temp, sum(map(len, views)))
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            for view in views:
                for at in range(0, len(view), _PIECE):
                    part = view[at : at + _PIECE]
                    hasher.update(part)
                    while part:
                        part = part[os.write(fd, part) :]
            os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))
        finally:
            os.close(fd)
        temp.rename(self._outgoing / hasher.hexdigest())
        return "sha256:" + hasher.hexdigest()

    def records(self, content: str | None) -> RecordDict:
        """The records of a content; empty for none."""
        if content is None:
            return RecordDict()
        brought = self._brought.get(content)
        data = self.path(content).read_bytes() if brought is None else brought.encode()
        envelope = Envelope.decode(data)
        if envelope.failure is not None:
            raise ContentError("an error where records belong")
        return flower.decode(envelope, self)

    def put_envelope(self, data: bytes) -> str:
        """Its digest; a large one is a file."""
        if len(data) > frames.SMALL:
            return self.put([data])
        name = canonical.digest(data)
        self.said[name] = data.decode()
        return name

    def keep(self, records: RecordDict | None) -> str | None:
        if records is None:
            return None
        return self.put_envelope(flower.encode(records, self).encode())
