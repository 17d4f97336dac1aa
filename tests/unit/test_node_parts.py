"""The node's parts that need no other process: spool, approval, frames, logs, environment, transfers."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.client.node import frames, outgoing, supervisor, transfers
from barnraise.client.node.handlers import Files, _Listener
from barnraise.client.node.kept import Answer, Kept, Reply, name_of
from barnraise.client.node.logs import Capped
from barnraise.client.node.norms import update_norms
from barnraise.client.node.policy import Held, Policy, may_start
from barnraise.client.node.spares import LEAST, MARK_EVERY, MOST, Growing
from barnraise.client.node.spool import Spool
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.canonical import digest
from barnraise.protocols.content import (
    ArrayEntry,
    Arrays,
    ContentError,
    Envelope,
    Failure,
    Values,
)
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.tensors import encode
from barnraise.protocols.transfers import CHUNK

ORDER, OTHER = digest(b"order"), digest(b"other")
ENVELOPE = Envelope().encode()
NAME = digest(ENVELOPE)
DONE = {"said": "done", "order": ORDER, "content": NAME, "state": None, "carry": None}


def sign(order: str, content: str) -> dict[str, str]:
    return {"order": order, "content": content}


def spool(root: Path, run: str = "run") -> Spool:
    return Spool(root, run, remembered=3)


def worker(spooled: Spool) -> Files:
    return Files(spooled.stores(), spooled.outgoing, spooled.lent)


def content(files: Files, value: float) -> str:
    """A content with one array, written as the worker does."""
    blob = files.put(encode({"w": np.full(3, value, np.float32)}))
    return files.put([Envelope((("a", Arrays(blob, (ArrayEntry("w"),))),)).encode()])


def bytes_of(part: transfers.Part) -> bytes:
    return part.held if isinstance(part.held, bytes) else part.held.read_bytes()


# --- spool ------------------------------------------------------------------------------------------


def test_a_commit_is_there_again_after_a_kill(tmp_path: Path) -> None:
    first = spool(tmp_path)
    reply, state = content(worker(first), 1.0), content(worker(first), 2.0)
    first.commit(Answer(ORDER, reply, state, None), sign)
    again = spool(tmp_path)
    assert again.kept == first.kept
    assert again.kept.state == state
    assert again.kept.carry is None
    assert again.kept.replies[ORDER].statement == sign(ORDER, reply)
    parts = again.parts(ORDER)
    assert [digest(bytes_of(part)) for part in parts] == [part.digest for part in parts]
    assert sum(part.size for part in parts) == again.kept.replies[ORDER].size
    assert again.whole(ORDER)


def test_a_worker_that_leaves_links_and_folders_gets_nothing_sent_and_ends_no_node(
    tmp_path: Path,
) -> None:
    first, secret = spool(tmp_path / "spool"), tmp_path / "identity.key"
    secret.write_bytes(b"secret")
    named = digest(b"anything")
    envelope = Envelope((("a", Arrays(named, (ArrayEntry("w"),))),)).encode()
    asked = worker(first).put([envelope])
    (first.outgoing / named[7:]).symlink_to(secret)
    with pytest.raises(ContentError, match="link"):
        first.commit(Answer(ORDER, asked), sign)
    (first.outgoing / digest(b"link")[7:]).symlink_to(secret)
    with pytest.raises(ContentError, match="link"):
        first.left(Answer(ORDER, digest(b"link")))
    os.mkfifo(first.outgoing / digest(b"pipe")[7:])
    with pytest.raises(ContentError, match="has not written"):
        first.left(Answer(ORDER, digest(b"pipe")))
    (first.outgoing / "folder" / "inner").mkdir(parents=True)
    first.empty_outgoing()
    assert not list(first.outgoing.iterdir())
    assert not first.kept.replies
    assert secret.read_bytes() == b"secret"


def test_what_is_to_be_measured_is_the_daemons_own_copy(tmp_path: Path) -> None:
    first = spool(tmp_path)
    asked = content(worker(first), 1.0)
    (blob,) = first.left(Answer(ORDER, asked)).blobs()
    with (first.outgoing / blob[7:]).open("r+b") as kept_open:
        first.own(blob)
        kept_open.write(b"another")
    assert digest(first.find(blob).read_bytes()) == blob
    (first.outgoing / digest(b"named")[7:]).write_bytes(b"other bytes than named")
    with pytest.raises(ContentError, match="is not it"):
        first.own(digest(b"named"))


def test_what_a_worker_wrote_and_nobody_took_is_dropped(tmp_path: Path) -> None:
    first = spool(tmp_path)
    content(worker(first), 1.0)
    assert list(first.outgoing.iterdir())
    assert not list(spool(tmp_path).outgoing.iterdir())


def test_a_state_that_a_commit_does_not_change_stays(tmp_path: Path) -> None:
    held = spool(tmp_path)
    state = content(worker(held), 2.0)
    held.commit(Answer(ORDER, content(worker(held), 1.0), state, state), sign)
    held.commit_failure(OTHER, Failure(2, "why"), sign)
    held.sweep(set())
    assert (held.kept.state, held.kept.carry) == (state, state)
    assert held.is_failure(OTHER)
    assert not held.is_failure(ORDER)
    assert worker(held).records(state)["a"]["w"].numpy().tolist() == [2.0] * 3


def test_forgetting_keeps_the_last_orders_names_and_frees_the_disk(tmp_path: Path) -> None:
    held = spool(tmp_path)
    orders = [digest(str(n).encode()) for n in range(5)]
    for n, order in enumerate(orders):
        held.commit(Answer(order, content(worker(held), float(n))), sign)
    for order in orders:
        held.forget(order)
    held.sweep(set())
    assert spool(tmp_path).whole(orders[0])  # it is not forgotten durably yet
    held.settle()
    held.sweep(set())
    assert held.kept == Kept("run", done=tuple(orders[-3:]))
    assert spool(tmp_path).kept == held.kept
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and "current.json" not in p.name]


def test_what_the_worker_names_must_be_there(tmp_path: Path) -> None:
    held = spool(tmp_path)
    blob = digest(b"nowhere")
    files = worker(held)
    named = files.put([Envelope((("a", Arrays(blob, (ArrayEntry("w"),))),)).encode()])
    for answer in (Answer(ORDER, named), Answer(ORDER, blob), Answer(ORDER, "../../etc/passwd")):
        with pytest.raises(ContentError):
            held.commit(answer, sign)
    with pytest.raises(ContentError):
        held.commit(Answer(ORDER, files.put([b"no envelope"])), sign)
    assert held.kept == Kept("run")


def test_a_reply_of_the_orders_own_arrays_is_kept_when_the_order_is_gone(tmp_path: Path) -> None:
    held = spool(tmp_path)
    data = b"".join(bytes(p) for p in encode({"w": np.ones(3, np.float32)}))
    envelope = Envelope((("a", Arrays(digest(data), (ArrayEntry("w"),))),)).encode()
    for piece in (data, envelope):
        (held.partial / digest(piece)[7:]).write_bytes(piece)
    held.received([digest(data), digest(envelope)])
    assert worker(held).has(digest(data))
    reply = worker(held).put([envelope])
    held.commit(Answer(ORDER, reply), sign)
    held.sweep(set())
    assert held.whole(ORDER)
    assert not held.has(digest(data))


def test_an_orders_arrays_that_were_a_reply_stay_where_the_worker_found_them(
    tmp_path: Path,
) -> None:
    held = spool(tmp_path)
    reply = content(worker(held), 1.0)
    held.commit(Answer(ORDER, reply), sign)
    for part in held.parts(ORDER):
        (held.partial / part.digest[7:]).write_bytes(bytes_of(part))
    names = [part.digest for part in held.parts(ORDER)]
    held.received(names)
    arrays = worker(held).records(reply)["a"]
    held.forget(ORDER)
    held.settle()
    held.sweep({reply})
    assert arrays["w"].numpy().tolist() == [1.0] * 3
    held.sweep(set())
    assert not [held.find(name) for name in names if held.find(name).exists()]


def test_contents_are_held_against_their_digests_after_a_restart(tmp_path: Path) -> None:
    held = spool(tmp_path)
    for data in (b"one", b"two"):
        (held.partial / digest(data)[7:]).write_bytes(data)
    held.received([digest(b"one"), digest(b"two")])
    path = tmp_path / "inbox" / "blobs" / digest(b"two")[7:]
    path.write_bytes(b"2wo")
    again = spool(tmp_path)
    assert again.has(digest(b"one"))
    assert not again.has(digest(b"two"))
    assert not path.exists()


def test_a_damaged_reply_is_noticed(tmp_path: Path) -> None:
    held = spool(tmp_path)
    held.commit(Answer(ORDER, content(worker(held), 1.0)), sign)
    path = held.find(held.parts(ORDER)[1].digest)
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    assert not held.whole(ORDER)
    path.unlink()
    assert not held.whole(ORDER)
    with pytest.raises(BarnraiseError, match="is gone"):
        held.parts(ORDER)


def test_another_run_begins_with_nothing(tmp_path: Path) -> None:
    held = spool(tmp_path)
    held.commit(Answer(ORDER, content(worker(held), 1.0)), sign)
    assert spool(tmp_path, "another").kept == Kept("another")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"run": "run"}',
        '{"run": "run", "state": "x", "carry": null, "replies": {}, "done": []}',
        '{"run": "run", "state": null, "carry": null, "replies": {"x": {}}, "done": []}',
        '{"run": "run", "state": null, "carry": null, "replies": {}, "done": ["../x"], "envelopes": {}}',
        '{"run": "run", "state": null, "carry": null, "replies": {}, "done": [], "envelopes": []}',
        '{"run": "run", "state": null, "carry": null, "replies": {}, "done": [], "envelopes": {"x": "{}"}}',
    ],
)
def test_a_damaged_commit_is_an_error_and_not_a_fresh_start(tmp_path: Path, text: str) -> None:
    spool(tmp_path)
    (tmp_path / "current.json").write_text(text)
    with pytest.raises(BarnraiseError) as caught:
        spool(tmp_path)
    assert caught.value.code == "D106"


DIGESTS = st.binary(min_size=1, max_size=2).map(digest)
REPLIES = st.builds(
    Reply, DIGESTS, st.integers(0, 2**50), st.dictionaries(st.text(), st.text(), max_size=2)
)
KEPT = st.builds(
    Kept,
    st.text(),
    st.none() | DIGESTS,
    st.none() | DIGESTS,
    st.dictionaries(DIGESTS, REPLIES, max_size=3),
    st.lists(DIGESTS, max_size=3).map(tuple),
    st.lists(st.text(), max_size=2).map(lambda texts: {name_of(text): text for text in texts}),
)


@given(KEPT)
@settings(deadline=None)
def test_a_commit_comes_back_as_it_was_written(kept: Kept) -> None:
    assert Kept.decode(kept.encode()) == kept


# --- small envelopes ----------------------------------------------------------------------------------


def said(files: Files, value: float) -> tuple[str, str]:
    """A content whose envelope the worker says, and its blob."""
    blob = files.put(encode({"w": np.full(3, value, np.float32)}))
    envelope = Envelope((("a", Arrays(blob, (ArrayEntry("w"),))),))
    return files.put_envelope(envelope.encode()), blob


def test_a_small_envelope_is_in_the_commit_and_no_file(tmp_path: Path) -> None:
    held = spool(tmp_path)
    files = worker(held)
    (reply, blob), (state, _) = said(files, 1.0), said(files, 2.0)
    assert not (held.outgoing / reply[7:]).exists()
    held.commit(Answer(ORDER, reply, state, None, files.said), sign)
    again = spool(tmp_path)
    assert again.whole(ORDER)
    assert [part.digest for part in again.parts(ORDER)] == [reply, blob]
    assert digest(bytes_of(again.parts(ORDER)[0])) == reply
    assert again.small(reply, state, None) == files.said
    held.forget(ORDER)
    held.settle()
    held.sweep(set())
    assert held.small(reply, state) == {state: files.said[state]}
    assert not held.find(blob).exists()
    taken = worker(held)
    taken.begin(held.small(state))
    assert taken.records(state)["a"]["w"].numpy().tolist() == [2.0] * 3


def test_a_large_envelope_is_a_file(tmp_path: Path) -> None:
    held = spool(tmp_path)
    files = worker(held)
    items = tuple((f"k{n}", "x" * 100) for n in range(frames.SMALL // 100))
    large = files.put_envelope(Envelope((("c", Values("config", items)),)).encode())
    assert not files.said
    held.commit(Answer(ORDER, large, large), sign)
    again = spool(tmp_path)
    assert not again.small(large)
    (part,) = again.parts(ORDER)
    assert isinstance(part.held, Path)
    assert again.whole(ORDER)
    assert worker(again).records(large)["c"]["k0"] == "x" * 100


def test_an_envelope_under_another_name_is_not_taken(tmp_path: Path) -> None:
    held = spool(tmp_path)
    files = worker(held)
    reply, _ = said(files, 1.0)
    another = Envelope(failure=Failure(2, "another")).encode().decode()
    with pytest.raises(ContentError, match="is not it"):
        held.commit(Answer(ORDER, reply, envelopes={reply: another}), sign)
    with pytest.raises(ContentError):
        held.commit(Answer(ORDER, reply, envelopes={digest(b"x"): files.said[reply]}), sign)
    assert held.kept == Kept("run")


def test_a_worker_says_nothing_about_what_was_kept_before(tmp_path: Path) -> None:
    """A lie about an older content, whose envelope is a file, would never be read again."""
    held = spool(tmp_path)
    files = worker(held)
    items = tuple((f"k{n}", "x" * 100) for n in range(frames.SMALL // 100))
    state = files.put_envelope(Envelope((("c", Values("config", items)),)).encode())
    held.commit(Answer(ORDER, state, state), sign)
    reply, _ = said(files, 1.0)
    held.commit(Answer(OTHER, reply, envelopes={**files.said, state: "a lie"}), sign)
    again = spool(tmp_path)
    assert again.kept.envelopes == files.said and again.kept.state == state
    assert again.whole(ORDER) and again.whole(OTHER)


def test_envelopes_of_the_widest_text_fit_into_a_frame() -> None:
    """Of all characters that stand as they are in canonical JSON, 0x7f becomes the longest in a frame."""
    texts = {digest(b"%d" % n): "\x7f" * frames.SMALL for n in range(3)}
    pipe = Pipe()
    frames.send(cast(socket.socket, pipe), DONE | {"envelopes": texts})
    received = frames.receive(cast(socket.socket, pipe))
    assert received is not None and received["envelopes"] == texts


def test_an_envelope_that_is_no_text_is_left_to_be_fetched_and_refused(tmp_path: Path) -> None:
    held = spool(tmp_path)
    held.bring(digest(b"\xff\xfe"), b"\xff\xfe")
    held.bring(NAME, ENVELOPE)
    assert held.small(NAME, digest(b"\xff\xfe")) == {NAME: ENVELOPE.decode()}
    held.unneeded(set())
    assert not held.has(NAME)


def test_what_comes_with_an_order_is_taken_for_its_content_alone(tmp_path: Path) -> None:
    held, source = spool(tmp_path), Source([ENVELOPE])
    held.bring(NAME, b"something else")
    assert fetch(source, held) == [NAME]
    (held.partial / NAME[7:]).unlink()
    held.bring(NAME, ENVELOPE)
    assert fetch(source, held) == []
    assert len(source.asked) == 1
    assert held.small(NAME) == {NAME: ENVELOPE.decode()}
    held.sweep({NAME})
    assert held.has(NAME)
    held.sweep(set())
    assert not held.has(NAME)


def test_a_file_with_another_name_is_never_a_spare(tmp_path: Path) -> None:
    """Whoever takes a spare writes over it: not for a moment may it be what a state still needs."""
    held = spool(tmp_path)
    (tmp_path / "old").write_bytes(bytes(LEAST))
    (tmp_path / "other name").hardlink_to(tmp_path / "old")
    seen: list[str] = []
    rename = Path.rename

    def spy(path: Path, target: Path) -> Path:
        seen.append(path.name)
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "rename", spy)
        held.spares.keep(tmp_path / "old")
    assert not seen and not (tmp_path / "old").exists()
    assert not held.spares.take(tmp_path / "taken", LEAST)
    for n in range(MOST + 2):
        (tmp_path / f"{n}").write_bytes(bytes(LEAST))
        held.spares.keep(tmp_path / f"{n}")
    assert len(list(held.spares.folder.iterdir())) == MOST


class Near:
    """A gate that lets updates of at most one leave, and no error's words."""

    def measures(self, kind: str) -> bool:
        return True

    def plain(self, reason: str) -> str:
        return "in plain words"

    def forbids(self, order: Envelope, reply: Envelope, blob: Any) -> str:
        norms = update_norms(order, reply, blob, None).values()
        return "" if all(norm is not None and norm <= 1 for norm in norms) else "it is too far"


def arrays_of(value: float) -> tuple[bytes, bytes]:
    """A blob and the envelope of a content that has it as its only arrays."""
    data = b"".join(encode({"w": np.full(100, value, np.float32)}))
    return data, Envelope((("a", Arrays(digest(data), (ArrayEntry("w"),))),)).encode()


BASE, NEAR, FAR = (arrays_of(value) for value in (0.0, 0.01, 9.0))


def asked_for_an_update(root: Path) -> tuple[Spool, Files]:
    """A spool to which an order has brought `BASE`."""
    held = spool(root)
    for data in BASE:
        (held.partial / digest(data)[7:]).write_bytes(data)
    held.received([digest(data) for data in BASE])
    return held, worker(held)


def leave(held: Spool, order: str, answer: Answer, gate: Any = None) -> list[bytes]:
    """What of an answer to an order for an update leaves: its error, or its blobs."""
    asked = cast(Any, SimpleNamespace(id=order, type="train", content=digest(BASE[1])))
    look = outgoing.checked(gate or Near(), asked, answer, held, logging.getLogger())
    held.commit(look, sign)
    if held.is_failure(order):
        return [str(held.reply(order).failure).encode()]
    return [bytes_of(part) for part in held.parts(order)[1:]]


def test_an_update_is_measured_by_what_leaves(tmp_path: Path) -> None:
    held, files = asked_for_an_update(tmp_path)
    for order, (blob, envelope) in ((ORDER, NEAR), (OTHER, FAR)):
        files.put([blob])
        left = leave(held, order, Answer(order, files.put([envelope])))
        assert (left == [blob]) == (order == ORDER)


def test_what_is_measured_was_not_committed_before_in_a_file_that_the_worker_holds_open(
    tmp_path: Path,
) -> None:
    held, files = asked_for_an_update(tmp_path)
    blob = files.put([NEAR[0]])
    with (held.outgoing / blob[7:]).open("r+b") as mine:
        state = files.put([NEAR[1]])
        held.commit(Answer(ORDER, files.put([ENVELOPE]), state), sign)
        assert leave(held, OTHER, Answer(OTHER, state)) == [NEAR[0]]
        mine.write(FAR[0])
    assert [bytes_of(part) for part in held.parts(OTHER)[1:]] == [NEAR[0]]
    assert spool(tmp_path).whole(OTHER)


def test_an_update_is_measured_from_what_the_order_brought(tmp_path: Path) -> None:
    """Not from what the worker says it was: a state of its own that it calls by the name of that."""
    held, files = asked_for_an_update(tmp_path)
    (held.outgoing / digest(BASE[0])[7:]).write_bytes(FAR[0])
    held.commit(Answer(ORDER, files.put([ENVELOPE]), files.put([BASE[1]])), sign)
    files.put([FAR[0]])
    (left,) = leave(held, OTHER, Answer(OTHER, files.put([FAR[1]])))
    assert b"forbids" in left
    with pytest.raises(ContentError, match="is not it"):
        leave(held, ORDER, Answer(ORDER, digest(BASE[1])))


def test_an_order_that_is_sent_back_leaves_as_it_came(tmp_path: Path) -> None:
    held, _ = asked_for_an_update(tmp_path)
    assert leave(held, ORDER, Answer(ORDER, digest(BASE[1]))) == [BASE[0]]


@pytest.mark.parametrize("failed", [False, True], ids=["update", "error"])
def test_an_envelope_is_the_one_that_was_looked_at(tmp_path: Path, failed: bool) -> None:
    held, files = asked_for_an_update(tmp_path)
    near, far = files.put([NEAR[0]]), files.put([FAR[0]])
    first = Envelope(failure=Failure(2, "in plain words")).encode() if failed else NEAR[1]
    then = Envelope(failure=Failure(2, "what it read")).encode() if failed else FAR[1]
    named = files.put([first])

    class Meanwhile(Near):
        def plain(self, reason: str) -> str:
            (held.outgoing / named[7:]).write_bytes(then)
            return super().plain(reason)

        def forbids(self, order: Envelope, reply: Envelope, blob: Any) -> str:
            (held.outgoing / named[7:]).write_bytes(then)
            return super().forbids(order, reply, blob)

    leave(held, ORDER, Answer(ORDER, named), Meanwhile())
    assert held.reply(ORDER).encode() == first
    assert far not in held.reply(ORDER).blobs() and (failed or near in held.reply(ORDER).blobs())


def test_what_a_worker_leaves_among_its_spares_is_nothing_to_what_is_fetched(
    tmp_path: Path,
) -> None:
    """It may hold open, link and name there what it likes: no order is written into that."""
    held, secret = spool(tmp_path / "spool"), tmp_path / "identity.key"
    secret.write_bytes(b"secret")
    size = 2 * LEAST
    lent = held.lent.folder
    (lent / "1").mkdir()
    (lent / "link").symlink_to(secret)
    with (lent / "open").open("wb") as mine:
        mine.write(bytes(size))
        wanted = b"w" * size
        path = held.partial / digest(wanted)[7:]
        growing = Growing(path, held.spares, size)
        growing.write(wanted)
        growing.close()
        held.received([digest(wanted)])
        mine.seek(0)
        mine.write(b"not what came")
    assert held.read(digest(wanted)) == wanted
    assert secret.read_bytes() == b"secret"
    (lent / "open").unlink()
    (tmp_path / "old").write_bytes(bytes(size))
    held.lent.keep(tmp_path / "old")
    assert not (tmp_path / "old").exists()
    again = spool(tmp_path / "spool")
    assert not list(again.lent.folder.iterdir())


def test_what_a_worker_had_in_its_hands_is_lent_to_it_alone(tmp_path: Path) -> None:
    """It may hold its replies' files open. What an order brought was never open to it."""
    held = spool(tmp_path)
    reply = worker(held).put([bytes(LEAST)])
    envelope = Envelope((("a", Arrays(reply, (ArrayEntry("w"),))),)).encode()
    held.commit(
        Answer(ORDER, NAME, worker(held).put([envelope]), None, {NAME: ENVELOPE.decode()}), sign
    )
    brought = digest(b"b" * LEAST)
    (held.partial / brought[7:]).write_bytes(b"b" * LEAST)
    held.received([brought])
    held.commit(Answer(OTHER, NAME, NAME, None, {NAME: ENVELOPE.decode()}), sign)
    held.sweep(set())
    assert [p.read_bytes()[:1] for p in held.lent.folder.iterdir()] == [b"\0"]
    assert [p.read_bytes()[:1] for p in held.spares.folder.iterdir()] == [b"b"]


def test_a_spare_that_is_written_over_counts_as_far_as_is_noted(tmp_path: Path) -> None:
    """A kill leaves old bytes behind the new ones: they must never count."""
    held = spool(tmp_path)
    size = MARK_EVERY + 3 * LEAST
    for written, counts in ((LEAST, 0), (MARK_EVERY + LEAST, MARK_EVERY + LEAST)):
        (tmp_path / "old").write_bytes(b"o" * size)
        held.spares.keep(tmp_path / "old")
        path = held.partial / f"{written}"
        growing = Growing(path, held.spares, size)
        growing.write(b"n" * written)
        os.close(growing._fd)  # killed
        again = Growing(path, held.spares, size)
        assert again.at == counts
        again.write(b"m" * (size - 1 - again.at))
        again.close()
        assert path.read_bytes() == b"n" * counts + b"m" * (size - 1 - counts)
        assert [p.name for p in held.partial.iterdir()] == [path.name]
        path.unlink()


# --- delivering -------------------------------------------------------------------------------------


class Answering:
    """A coordinator that says what a test writes down, whatever it is told; a call of `deliver`'s."""

    def __init__(self, *said: pb.ToMember) -> None:
        self.said, self.cancelled = said, False

    def Deliver(self, messages: Iterator[bytes]) -> Answering:
        return self

    def __iter__(self) -> Iterator[pb.ToMember]:
        yield from self.said

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize("parts", [[[], []], [[0], [0]], [[0, 0]]])
def test_what_is_wanted_is_said_once(parts: list[list[int]]) -> None:
    """Whatever else a coordinator says is not kept, or it would fill the node's memory."""
    part = transfers.Part(NAME, len(ENVELOPE), ENVELOPE)
    said = [pb.Wanted(parts=[pb.Want(digest=NAME, offset=at) for at in one]) for one in parts]
    told = Answering(*(pb.ToMember(wanted=one) for one in said))
    with pytest.raises(transfers.Failed, match="twice"):
        transfers.deliver(cast(Any, told), ORDER, b"", [part], lambda done, total: None)
    assert told.cancelled


# --- frames -----------------------------------------------------------------------------------------


class Pipe:
    """As much of a socket as frames need: what is sent comes back in pieces."""

    def __init__(self, data: bytes = b"", pieces: int = 1 << 20) -> None:
        self.data, self.pieces = data, pieces

    def sendall(self, data: bytes) -> None:
        self.data += data

    def recv(self, count: int) -> bytes:
        piece = self.data[: min(count, self.pieces)]
        self.data = self.data[len(piece) :]
        return piece


MESSAGES = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=4)


@given(st.lists(MESSAGES, max_size=4), st.integers(1, 50))
@settings(deadline=None)
def test_frames_come_as_they_were_sent(messages: list[dict[str, Any]], pieces: int) -> None:
    pipe = Pipe(pieces=pieces)
    for message in messages:
        frames.send(cast(socket.socket, pipe), message)
    received = []
    while (message := frames.receive(cast(socket.socket, pipe))) is not None:
        received.append(message)
    assert received == messages


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0\x09{}"])
def test_a_stream_that_ends_has_no_next_frame(data: bytes) -> None:
    assert frames.receive(cast(socket.socket, Pipe(data))) is None


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x02{:", b"\0\0\0\x01\xff"]
)
def test_what_is_no_frame_is_not_read_on(data: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.receive(cast(socket.socket, Pipe(data)))


def test_a_frame_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(frames.FrameError):
        frames.send(cast(socket.socket, Pipe()), {"text": "x" * frames.LARGEST})


def test_progress_is_reported_not_too_often_and_never_without_its_end() -> None:
    pipe = Pipe()
    listener = _Listener(cast(socket.socket, pipe), ORDER)
    for done in range(1, 1000):
        listener("training step", done, 1000)
    listener("training step", 1000, 1000)
    heard = []
    while (message := frames.receive(cast(socket.socket, pipe))) is not None:
        heard.append(message)
    assert len(heard) < 20
    assert heard[0] == {
        "said": "progress",
        "order": ORDER,
        "what": "training step",
        "done": 1,
        "total": 1000,
    }
    assert heard[-1]["done"] == 1000


@pytest.mark.parametrize("what", ["patient: Ada", "Ada", "", "a" * 41, "näher", "step\n"])
def test_progress_cannot_quote_data(what: str) -> None:
    """L7: it goes to the coordinator, and the site's code chooses its words."""
    said = {"said": "progress", "order": ORDER, "what": what, "done": -1, "total": 2**70}
    assert supervisor.parsed(said) == supervisor.Progress(ORDER, "working", 0, 2**53)
    known = supervisor.parsed(said | {"what": "training step"})
    assert known == supervisor.Progress(ORDER, "training step", 0, 2**53)


def test_why_code_is_held_back_cannot_quote_data() -> None:
    """L7: that leaves with the node's state, and the reasons are words of the worker's process."""
    why = "patient: Ada\ud800\n"
    for said in ({"said": "ready", "failure": why}, {"said": "refused"}):
        heard = supervisor.parsed({**said, "hindered": {"network": why, "files": ""}})
        assert isinstance(heard, supervisor.Ready | supervisor.Refused)
        assert heard.hindered == {"network": "patient: Ada??", "files": ""}
        held = may_start(Policy.model_validate({"isolation": {"required": True}}), heard.hindered)
        assert isinstance(held, Held) and "network" in str(held) and "Ada" not in str(held)


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"said": "nothing"},
        {"said": "ready", "hindered": [], "failure": ""},
        {"said": "ready", "hindered": {"patient: Ada": "yes"}, "failure": ""},
        {"said": "refused", "hindered": {"\ud800": "yes"}},
        {"said": "progress", "order": ORDER, "what": "step", "done": 0.5, "total": 1},
        {"said": "done", "order": ORDER, "content": None, "state": None, "carry": None},
        {"said": "done", "order": ORDER, "content": NAME, "state": 7, "carry": None},
        {"said": "done", "order": ORDER, "content": NAME, "state": None, "carry": None},
        DONE | {"envelopes": []},
        DONE | {"envelopes": {NAME: 7}},
        DONE | {"envelopes": {NAME: "\ud800"}},
        DONE | {"envelopes": {NAME: "x" * (frames.SMALL + 1)}},
    ],
)
def test_a_frame_that_no_worker_writes_ends_its_life(frame: dict[str, Any]) -> None:
    with pytest.raises(frames.FrameError):
        supervisor.parsed(frame)


# --- logs and environment -----------------------------------------------------------------------------


def test_a_capped_log_keeps_what_came_last(tmp_path: Path) -> None:
    log = Capped(tmp_path / "worker.log", most=100)
    for n in range(95):
        log.write(b"line %04d\n" % n)
    log.close()
    assert {p.name for p in tmp_path.iterdir()} == {"worker.log", "worker.log.1"}
    assert all(p.stat().st_size <= 100 for p in tmp_path.iterdir())
    assert (tmp_path / "worker.log").read_bytes().endswith(b"line 0094\n")
    log = Capped(tmp_path / "worker.log", most=100)
    log.write(b"and on\n")
    log.close()
    assert (tmp_path / "worker.log").read_bytes().endswith(b"line 0094\nand on\n")


def test_a_worker_gets_what_it_needs_of_the_environment_and_no_more() -> None:
    own = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "AWS_SECRET_ACCESS_KEY": "s",
        "https_proxy": "http://user:secret@proxy",
        "PYTHONHASHSEED": "random",
        "SSH_AUTH_SOCK": "/agent",
    }
    given = supervisor.environment(own)
    assert given.items() >= {"PATH": "/bin", "LC_ALL": "C", "PYTHONHASHSEED": "0"}.items()
    assert not {"AWS_SECRET_ACCESS_KEY", "https_proxy", "SSH_AUTH_SOCK"} & given.keys()


# --- transfers ----------------------------------------------------------------------------------------


class Stream:
    """A call that gives chunks, then ends as it is told."""

    def __init__(self, chunks: Sequence[bytes], end: Exception | None) -> None:
        self._chunks, self._end = chunks, end

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        if self._end is not None:
            raise self._end

    def cancel(self) -> None:
        pass


class Cut(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "N209: not here"


class Source:
    """A coordinator's Fetch; `scripts` says what it does at each call, in place of what is right."""

    def __init__(
        self, blobs: Sequence[bytes], *scripts: tuple[list[bytes], Exception | None]
    ) -> None:
        self.blobs = {digest(data): data for data in blobs}
        self.scripts = list(scripts)
        self.asked: list[tuple[str, int]] = []

    def Fetch(self, request: pb.FetchRequest) -> Stream:
        self.asked.append((request.digest, request.offset))
        if self.scripts:
            return Stream(*self.scripts.pop(0))
        data = self.blobs[request.digest][request.offset :]
        return Stream([data[at : at + CHUNK] for at in range(0, len(data), CHUNK)], None)


def fetch(source: Source, shelf: Spool, name: str = NAME, size: int = len(ENVELOPE)) -> list[str]:
    return transfers.fetch(cast(Any, source), name, size, shelf, lambda done, total: None)


def test_a_cut_fetch_asks_for_the_rest_alone(tmp_path: Path) -> None:
    source = Source([ENVELOPE], ([ENVELOPE[:5]], Cut(grpc.StatusCode.UNAVAILABLE)))
    with pytest.raises(transfers.Failed):
        fetch(source, spool(tmp_path))
    shelf = spool(tmp_path)
    assert fetch(source, shelf) == [NAME]
    assert source.asked == [(NAME, 0), (NAME, 5)]
    shelf.received([NAME])
    assert fetch(source, shelf) == []
    assert len(source.asked) == 2


def test_a_fetch_that_was_complete_is_not_asked_for(tmp_path: Path) -> None:
    shelf, source = spool(tmp_path), Source([])
    (shelf.partial / NAME[7:]).write_bytes(ENVELOPE)
    assert fetch(source, shelf) == [NAME]
    assert not source.asked


@pytest.mark.parametrize(
    "chunks",
    [
        [ENVELOPE, b"x"],
        [b"x" * len(ENVELOPE)],
        [ENVELOPE[:-1]],
        [b"x" * (CHUNK + 1)],
    ],
    ids=["longer than announced", "other bytes", "shorter", "too large a chunk"],
)
def test_what_is_not_what_was_announced_is_dropped_and_tried_again(
    tmp_path: Path, chunks: list[bytes]
) -> None:
    source, shelf = Source([ENVELOPE], (chunks, None)), spool(tmp_path)
    size = max(len(ENVELOPE), len(chunks[0]) if len(chunks) == 1 else 0)
    with pytest.raises(transfers.Failed):
        fetch(source, shelf, size=size)
    assert not list(shelf.partial.iterdir())
    assert fetch(source, shelf) == [NAME]


def test_a_content_that_is_none_or_is_refused_is_not_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(transfers.Refused, match="malformed"):
        fetch(Source([b"no envelope"]), spool(tmp_path), digest(b"no envelope"), 11)
    source = Source([], ([], Cut(grpc.StatusCode.NOT_FOUND)))
    with pytest.raises(transfers.Refused) as caught:
        fetch(source, spool(tmp_path))
    assert caught.value.code == "N209"


def test_an_envelope_that_names_more_than_was_announced_is_cut(tmp_path: Path) -> None:
    data = b"".join(bytes(p) for p in encode({"w": np.ones(1 << 19, np.float32)}))
    envelope = Envelope((("a", Arrays(digest(data), (ArrayEntry("w"),))),)).encode()
    source, shelf = Source([data, envelope]), spool(tmp_path)
    with pytest.raises(transfers.Failed, match="goes on beyond"):
        fetch(source, shelf, digest(envelope), len(envelope) + CHUNK)
    assert fetch(source, shelf, digest(envelope), len(envelope) + len(data)) == [
        digest(envelope),
        digest(data),
    ]


def test_the_answer_of_a_damaged_approval_names_the_file(tmp_path: Path) -> None:
    from barnraise.client.node.approval import Approval

    (tmp_path / "approved.json").write_text(json.dumps([]))
    with pytest.raises(BarnraiseError, match=r"approved\.json cannot be used"):
        Approval.read(tmp_path)
