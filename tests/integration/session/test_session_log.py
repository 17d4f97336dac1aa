"""The log as members are shown it: evidence with every message, cosignatures, objections, and by request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from session_kit import (
    FEDERATION,
    RUN,
    SECRET,
    SOON,
    House,
    Node,
    Reply,
    member,
    refusal,
    status,
)

from barnraise.coordinator.prover import BATCHES, Prover
from barnraise.coordinator.transparency import MOST_ENTRIES
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import merkle, notes, witnessing
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.federation_pb2_grpc import TransparencyStub
from barnraise.protocols.files import disk_full
from barnraise.protocols.identity import simulated_key
from barnraise.protocols.notes import Checkpoint
from barnraise.protocols.witnessing import Shown


class Eye:
    """What a node would make of the evidence that it is shown, one message after another."""

    def __init__(self, house: House) -> None:
        self.key = house.authority.vkey
        self.seen: Checkpoint | None = None

    def look(self, evidence: pb.Evidence) -> Entry | None:
        assert evidence.old_size == (self.seen.size if self.seen else 0)
        checkpoint = witnessing.opened(evidence.checkpoint, self.key)
        self.seen = witnessing.step(self.seen, checkpoint, evidence.consistency)
        shown = Shown(
            evidence.checkpoint,
            index=evidence.index,
            inclusion=tuple(evidence.inclusion),
            entry=evidence.entry,
            body=evidence.body,
        )
        return witnessing.included(shown, checkpoint) if evidence.entry else None


def sent_on_record(house: House, batch: int, names: tuple[str, ...] = ("ada",)) -> str:
    """A batch on record and dispatched, as the Grid does; ada's order."""
    orders = [house.order(name, batch) for name in names]
    body: dict[str, Any] = {"batch": batch, "kind": "send", "timeout": None}
    group = {"type": "train", "group": "", "content": orders[0].content, "ttl": 60}
    body["orders"] = [{**group, "members": list(names)}]
    house.log.write(("batch.sent", body))
    house.fleet.dispatch(orders)
    return orders[0].id


def test_every_message_of_a_session_proves_what_it_says(house: House, tmp_path: Path) -> None:
    house.log.write(("run.opened", {"federation": FEDERATION}))
    ada, eye = house.node("ada"), Eye(house)
    session = ada.attend()
    opened = eye.look(session.next().evidence)
    assert opened is not None
    assert opened.type == "run.opened"
    order = sent_on_record(house, 1)
    entry = eye.look(session.next().evidence)
    assert entry is not None
    assert (entry.type, entry.body["batch"]) == ("batch.sent", 1)
    ada.deliver(order, Reply.good(tmp_path / "reply"))
    (receipt,) = house.accept(house.arrivals())
    entry = eye.look(session.next().evidence)
    assert entry is not None
    assert (entry.type, entry.body["order"]) == ("reply.accepted", receipt.order)


def test_a_node_that_has_seen_more_is_shown_the_log_from_there(house: House) -> None:
    for _ in range(5):
        house.log.write(("batch.closed", {"batch": 1}))
    eye = Eye(house)
    eye.seen = Checkpoint(f"{FEDERATION}/log", 3, house.reader.root(3))
    welcome = house.node("ada").attend(log_size=3).next()
    eye.look(welcome.evidence)
    assert eye.seen.size == 5


def test_a_node_that_has_seen_more_than_there_is_gets_no_proof_and_can_tell(house: House) -> None:
    house.log.write(("batch.closed", {"batch": 1}))
    eye = Eye(house)
    eye.seen = Checkpoint(f"{FEDERATION}/log", 1000, b"x" * 32)
    evidence = house.node("ada").attend(log_size=1000).next().evidence
    with pytest.raises(witnessing.Misconduct) as caught:
        eye.look(evidence)
    assert caught.value.code == "N311"


def test_all_members_of_a_batch_are_shown_one_checkpoint_to_cosign(house: House) -> None:
    sessions = [house.node(name).attend().welcomed() for name in ("ada", "bob", "cyd")]
    sent_on_record(house, 1, ("ada", "bob", "cyd"))
    shown = [session.next().evidence for session in sessions]
    assert len({evidence.checkpoint for evidence in shown}) == 1
    assert all(evidence.cosign for evidence in shown)
    for name, session, evidence in zip(("ada", "bob", "cyd"), sessions, shown, strict=True):
        session.say(cosignature(name, evidence.checkpoint, house))

    def witnesses() -> set[str]:
        note = house.reader.witnessed()
        lines = notes.open_checkpoint(note, house.authority.vkey).lines if note is not None else ()
        return {notes.line_name(line) for line in lines}

    house.until(lambda: witnesses() == {"ada", "bob", "cyd"})


def cosignature(name: str, note: bytes, house: House, signer: str = "") -> pb.Cosignature:
    checkpoint = notes.open_checkpoint(note, house.authority.vkey).checkpoint
    key = simulated_key(SECRET, signer or name)
    line = notes.cosign(key, name, checkpoint, 1_800_000_000)
    return pb.Cosignature(size=checkpoint.size, line=line)


def test_at_the_end_everybody_is_asked_and_the_missing_are_named(house: House) -> None:
    house.log.write(("run.closed", {"model": "x"}))
    session = house.node("ada").attend().welcomed()
    ended: list[Any] = []
    import threading

    asking = threading.Thread(target=lambda: ended.append(house.fleet.have_cosigned(SOON)))
    asking.start()
    evidence = session.next()
    assert evidence.cosign
    session.say(cosignature("ada", evidence.checkpoint, house))
    asking.join(SOON)
    assert (ended[0].members, ended[0].missing) == (("ada",), ("bob", "cyd"))


def test_an_objection_ends_the_session_and_is_shown_to_the_operator(house: House) -> None:
    session = house.node("ada").attend().welcomed()
    session.say(pb.Objection(code="N310", text="two logs"))
    assert session.end() is None
    state = house.fleet.presence("ada")
    assert (state.state, state.detail) == ("objects", "N310: two logs")
    house.fleet.restarting("ada", "it died")
    assert house.fleet.presence("ada").state == "objects"


def test_a_log_that_cannot_be_read_is_trouble_and_no_false_word(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> bytes:
        raise BarnraiseError("D105", "the disk failed")

    with monkeypatch.context() as patched:
        patched.setattr(house.reader, "checkpoint", unreadable)
        session = house.node("ada").attend()
        assert status(session.next()) == ("UNAVAILABLE", "N211")
    house.node("ada").attend().welcomed()


# --- by request ---------------------------------------------------------------------------------------


@pytest.fixture
def asked(house: House, ada: Node) -> TransparencyStub:
    for batch in range(300):
        house.log.write(("batch.closed", {"batch": batch}))
    return TransparencyStub(ada.channel)


def test_the_log_by_request_checks(house: House, asked: TransparencyStub) -> None:
    reply = asked.Checkpoint(pb.CheckpointRequest())
    checkpoint = notes.open_checkpoint(reply.checkpoint, house.authority.vkey).checkpoint
    assert (checkpoint.size, reply.witnessed) == (300, b"")
    entries = asked.Entries(pb.EntriesRequest(start=40, count=2)).entries
    assert [Entry.decode(data).body["batch"] for data in entries] == [40, 41]
    path = asked.Inclusion(pb.InclusionRequest(index=41, size=300)).hashes
    merkle.check_inclusion(merkle.leaf_hash(entries[1]), 41, 300, path, checkpoint.root)
    path = asked.Consistency(pb.ConsistencyRequest(old_size=77, new_size=300)).hashes
    merkle.check_consistency(77, 300, house.reader.root(77), checkpoint.root, path)


def test_answers_are_bounded_and_what_is_not_there_is_said(asked: TransparencyStub) -> None:
    assert len(asked.Entries(pb.EntriesRequest(start=0, count=2**63)).entries) == MOST_ENTRIES
    assert len(asked.Entries(pb.EntriesRequest(start=299, count=9)).entries) == 1
    for call in (
        lambda: asked.Entries(pb.EntriesRequest(start=300, count=1)),
        lambda: asked.Inclusion(pb.InclusionRequest(index=300, size=300)),
        lambda: asked.Inclusion(pb.InclusionRequest(index=0, size=301)),
        lambda: asked.Consistency(pb.ConsistencyRequest(old_size=1, new_size=2**63)),
        lambda: asked.Consistency(pb.ConsistencyRequest(old_size=9, new_size=8)),
    ):
        assert refusal(call) == ("OUT_OF_RANGE", "N203")


def test_a_cosignature_is_taken_only_if_it_was_asked_for_and_is_the_members(
    house: House, asked: TransparencyStub
) -> None:
    note = asked.Checkpoint(pb.CheckpointRequest()).checkpoint
    good = cosignature("ada", note, house)
    assert refusal(lambda: asked.Cosign(good)) == ("INVALID_ARGUMENT", "N203")
    assert house.fleet.have_cosigned(0.0).members == ()
    forged = cosignature("ada", note, house, signer="bob")
    assert refusal(lambda: asked.Cosign(forged)) == ("INVALID_ARGUMENT", "N203")
    other = pb.Cosignature(size=good.size, line=cosignature("bob", note, house).line)
    assert refusal(lambda: asked.Cosign(other)) == ("INVALID_ARGUMENT", "N203")
    asked.Cosign(good)
    kept = house.reader.kept()
    assert kept is not None
    assert [
        notes.line_name(li) for li in notes.open_checkpoint(kept, house.authority.vkey).lines
    ] == ["ada"]


def test_a_stranger_is_not_answered(house: House, asked: TransparencyStub) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{house.port}") as channel:
        said = refusal(lambda: TransparencyStub(channel).Checkpoint(pb.CheckpointRequest()))
    assert said[0] == "UNAVAILABLE"


def test_what_a_prover_remembers_is_bounded(house: House) -> None:
    prover = Prover(house.reader, RUN, {"ada": member("ada").public_key}, house.blobs.kept)
    view = prover.view(0)
    for batch in range(BATCHES + 20):
        house.log.write(("batch.sent", {"batch": batch}))
        assert view.order(batch).entry
    assert len(prover._batches) == BATCHES
    assert view.order(0).entry


def test_a_node_that_has_seen_more_than_was_asked_about_is_shown_no_older_log(house: House) -> None:
    prover = Prover(house.reader, RUN, {"ada": member("ada").public_key}, house.blobs.kept)
    asked = prover.ask()
    assert prover.view(asked).last().checkpoint.split(b"\n")[1] == str(asked).encode()
    house.log.write(("batch.sent", {"batch": 1}))
    later = prover.view(asked + 1).last()
    assert later.checkpoint.split(b"\n")[1] == str(asked + 1).encode()


def test_a_cosignature_that_finds_no_room_ends_no_session(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.log.write(("roster.seen", {"members": []}))
    assert house.fleet._prover is not None
    size, tried = house.fleet._prover.ask(), []

    def full(*_: object) -> None:
        tried.append(True)
        raise disk_full(house.root)

    monkeypatch.setattr(house.reader._cosignatures, "keep_note", full)
    checkpoint = notes.open_checkpoint(house.reader.checkpoint(), house.authority.vkey).checkpoint
    line = notes.cosign(simulated_key(SECRET, "ada"), "ada", checkpoint, 1)
    session = house.node("ada").attend().welcomed()
    session.say(pb.Cosignature(size=size, line=line))
    house.until(lambda: bool(tried))
    house.fleet.dispatch([house.order("ada")])
    assert session.orders(1)
    session.say(pb.Cosignature(size=size, line=line))
    house.until(lambda: len(tried) > 1)
    session.cut()
