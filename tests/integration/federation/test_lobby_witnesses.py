"""Between runs: members who attend are shown the log, and cosign it when a release asks for that."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from floor_kit import Attending, House

from barnraise.coordinator.prover import Cosigned
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import merkle, notes
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.notes import Checkpoint

SOON = 10.0


def witnesses(house: House) -> dict[str, str]:
    return {name: member.public_key.hex() for name, member in house.members.items()}


def asked(house: House, attending: Attending) -> Checkpoint:
    """The checkpoint that this member is asked to cosign."""
    message = attending.next()
    while not message.HasField("evidence"):
        message = attending.next()
    assert message.evidence.cosign
    return notes.open_checkpoint(message.evidence.checkpoint, house.authority.vkey).checkpoint


def cosign(house: House, attending: Attending, name: str, checkpoint: Checkpoint) -> None:
    line = notes.cosign(house.members[name].key, name, checkpoint, 1_800_000_000)
    said = pb.Cosignature(size=checkpoint.size, line=line)
    attending.feed.put(pb.FromNode(cosignature=said))


def welcomed(house: House, name: str, **hello: Any) -> tuple[Attending, pb.Welcome]:
    attending = house.attend(name, **hello)
    return attending, attending.next().welcome


def ask(house: House, patience: float) -> Future[Cosigned]:
    pool = ThreadPoolExecutor(1)
    house.stack.callback(pool.shutdown)
    return pool.submit(house.floor.cosigned, witnesses(house), patience)


def test_a_member_that_attends_is_shown_how_the_log_has_grown(house: House) -> None:
    old = 1
    _, welcome = welcomed(house, "ada", log_size=old)
    shown = notes.open_checkpoint(welcome.evidence.checkpoint, house.authority.vkey).checkpoint
    before = house.federation.log.root(old)
    path = list(welcome.evidence.consistency)
    merkle.check_consistency(old, shown.size, before, shown.root, path)
    assert shown.size == house.federation.log.size() and not welcome.run


def test_a_quorum_makes_it_witnessed_and_late_members_are_asked_as_well(house: House) -> None:
    ada, _ = welcomed(house, "ada")
    waiting = ask(house, SOON)
    cosign(house, ada, "ada", asked(house, ada))
    bob, _ = welcomed(house, "bob")
    cosign(house, bob, "bob", asked(house, bob))
    done = waiting.result(SOON)
    assert done.names == ("ada", "bob") and done.note is not None
    lines = notes.open_checkpoint(done.note, house.authority.vkey).lines
    assert sorted(map(notes.line_name, lines)) == ["ada", "bob"]


def test_too_few_and_false_signatures_are_no_quorum(house: House) -> None:
    ada, _ = welcomed(house, "ada")
    bob, _ = welcomed(house, "bob")
    waiting = ask(house, 1.0)
    checkpoint = asked(house, ada)
    cosign(house, ada, "ada", checkpoint)
    forged = notes.cosign(house.members["ada"].key, "bob", checkpoint, 1_800_000_000)
    said = pb.Cosignature(size=checkpoint.size, line=forged)
    bob.feed.put(pb.FromNode(cosignature=said))
    done = waiting.result(SOON)
    assert (done.note, done.names, done.needed) == (None, ("ada",), 2)


def test_whoever_waits_is_let_go_when_the_process_ends(house: House) -> None:
    ada, _ = welcomed(house, "ada")
    waiting = ask(house, 600.0)
    asked(house, ada)
    house.floor.end()
    assert waiting.result(SOON).note is None


def test_a_release_of_a_run_that_never_was_leaves_no_entry(house: House) -> None:
    before = house.types()
    digest = "sha256:" + "00" * 32
    with pytest.raises(BarnraiseError) as caught:
        house.operator.ask(
            "release.publish",
            {
                "run": "0123456789abcdef",
                "manifest": digest,
                "model": digest,
                "contributions": "sealed",
                "patience": 0.1,
            },
        )
    assert caught.value.code == "G101"
    assert house.types() == before
