"""A real node against a coordinator that plays false: caught, with the proof on disk; and an honest one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from node_kit import (
    FEDERATION,
    IDENTITY,
    MEMBER,
    RUN,
    Coordinator,
    Site,
    ended,
    evidence_of,
    node_site,
    sent_body,
    wait_until,
)

from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import merkle, notes
from barnraise.protocols.apps import BUILT_IN, app_digest, code_kept
from barnraise.protocols.tlog_proof import TlogProof

Tamper = Callable[[pb.ToNode, int], None]


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator()
    for batch in range(3):
        made.log.append("batch.closed", {"run": "an earlier one", "batch": batch})
    made.serve()
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path: Path, coordinator: Coordinator) -> Iterator[Site]:
    with node_site(tmp_path, coordinator) as made:
        yield made


def vkey(coordinator: Coordinator) -> str:
    return coordinator.membership().log_key


def caught(site: Site, process: subprocess.Popen[bytes], code: str) -> Path:
    """The node ends by itself with this code; its evidence."""
    assert process.wait(60) == 1
    assert f"error[{code}]" in site.log
    folder = site.home / "evidence"
    report = json.loads((folder / "report.json").read_text())
    assert report["code"] == code
    assert (folder / "shown.json").is_file()
    return folder


def objection(coordinator: Coordinator) -> str:
    """What the operator hears of it."""
    coordinator.until(lambda: [m for m in coordinator.said if m.HasField("objection")])
    (said,) = [m.objection for m in coordinator.said if m.HasField("objection")]
    return said.code


def looked(site: Site) -> None:
    """Wait until the node has seen the log."""
    wait_until((site.home / "witness" / "checkpoint").exists)


def watched(site: Site, coordinator: Coordinator) -> None:
    """Let the node see the log as it stands, and end."""
    process = site.start()
    looked(site)
    assert ended(process) == 0
    note = (site.home / "witness" / "checkpoint").read_bytes()
    assert notes.open_checkpoint(note, vkey(coordinator)).checkpoint.size == coordinator.log.size


# --- the log ------------------------------------------------------------------------------------------


def test_a_log_that_forked_while_the_node_was_away(site: Site, coordinator: Coordinator) -> None:
    watched(site, coordinator)
    coordinator.log = coordinator.log.branch(coordinator.log.size - 2)
    coordinator.opened = None
    for batch in range(5):
        coordinator.log.append("batch.closed", {"run": "invented", "batch": batch})
    folder = caught(site, site.start(), "N310")
    assert objection(coordinator) == "N310"
    seen, shown = (
        notes.open_checkpoint((folder / f"{name}.checkpoint").read_bytes(), vkey(coordinator))
        for name in ("seen", "shown")
    )
    assert seen.checkpoint.size < shown.checkpoint.size
    sessions = len(coordinator.sessions)
    assert site.start().wait(60) == 1
    assert site.log.count("error[N310]") == 2
    assert len(coordinator.sessions) == sessions
    folder.rename(site.home / "settled")
    assert not (site.home / "witness" / "checkpoint").exists()
    site.start()
    coordinator.delivered(coordinator.order())


def test_a_log_that_was_restored_from_a_backup(site: Site, coordinator: Coordinator) -> None:
    watched(site, coordinator)
    coordinator.log = coordinator.log.branch(2)
    coordinator.opened = None
    caught(site, site.start(), "N311")
    assert objection(coordinator) == "N311"


def test_two_logs_of_one_size_in_one_session(site: Site, coordinator: Coordinator) -> None:
    process = site.start()
    looked(site)
    other = coordinator.log.branch(coordinator.log.size - 1)
    other.append("batch.closed", {"run": "invented"})
    evidence = pb.Evidence()
    other.prove(evidence, coordinator.log.size)
    with coordinator.changed:
        coordinator._tell(pb.ToNode(evidence=evidence))
    caught(site, process, "N310")


def test_a_checkpoint_by_another_key(site: Site, coordinator: Coordinator) -> None:
    coordinator.log.key = Ed25519PrivateKey.generate()
    caught(site, site.start(), "N312")


def flip_in(name: str) -> Tamper:
    def tamper(message: pb.ToNode, seen: int) -> None:
        evidence = evidence_of(message)
        if message.WhichOneof("said") == "order" and evidence is not None:
            hashes = getattr(evidence, name)
            hashes[0] = bytes([hashes[0][0] ^ 1]) + hashes[0][1:]

    return tamper


@pytest.mark.parametrize(("name", "code"), [("consistency", "N310"), ("inclusion", "N312")])
def test_a_proof_with_a_bit_flipped(
    site: Site, coordinator: Coordinator, name: str, code: str
) -> None:
    coordinator.tamper = flip_in(name)
    process = site.start()
    looked(site)
    coordinator.order()
    caught(site, process, code)
    assert not coordinator.fetches
    assert site.trained() == []


def test_an_earlier_view_that_is_proved_is_no_misconduct(
    site: Site, coordinator: Coordinator
) -> None:
    process = site.start()
    looked(site)
    evidence = pb.Evidence()
    coordinator.log.prove(evidence, coordinator.log.size, size=2)
    with coordinator.changed:
        coordinator._tell(pb.ToNode(evidence=evidence))
    order = coordinator.order()
    coordinator.delivered(order)
    assert ended(process) == 0
    note = (site.home / "witness" / "checkpoint").read_bytes()
    assert notes.open_checkpoint(note, vkey(coordinator)).checkpoint.size == coordinator.log.size


def test_a_node_asked_to_cosigns_what_it_has_seen(site: Site, coordinator: Coordinator) -> None:
    site.start()
    looked(site)
    with coordinator.changed:
        coordinator._tell(pb.ToNode(evidence=pb.Evidence(cosign=True)))
    coordinator.until(lambda: [m for m in coordinator.said if m.HasField("cosignature")])
    (said,) = [m.cosignature for m in coordinator.said if m.HasField("cosignature")]
    checkpoint = coordinator.log.checkpoint(said.size)
    notes.check_cosignature(said.line, MEMBER, IDENTITY.public_key().public_bytes_raw(), checkpoint)
    kept = (site.home / "witness" / "checkpoint").read_bytes()
    assert notes.open_checkpoint(kept, vkey(coordinator)).checkpoint == checkpoint


# --- runs and orders ------------------------------------------------------------------------------------


def test_a_run_with_a_member_whom_the_agreement_does_not_name(
    site: Site, coordinator: Coordinator
) -> None:
    site.approve(members=dict(coordinator.members))
    coordinator.members["mallory"] = "e" * 64
    caught(site, site.start(), "N313")


def test_a_run_of_another_app(site: Site, coordinator: Coordinator) -> None:
    coordinator.app = "sha256:" + "0" * 64
    caught(site, site.start(), "N313")


def test_an_order_that_is_not_in_the_log(site: Site, coordinator: Coordinator) -> None:
    def another(message: pb.ToNode, seen: int) -> None:
        if message.WhichOneof("said") == "order":
            message.order.content = "sha256:" + "0" * 64

    coordinator.tamper = another
    process = site.start()
    coordinator.order()
    caught(site, process, "N314")
    assert not coordinator.fetches


def test_different_contents_for_the_members_of_our_app(
    site: Site, coordinator: Coordinator
) -> None:
    def split(message: pb.ToNode, seen: int) -> None:
        if message.WhichOneof("said") != "order":
            return
        order = message.order
        body = sent_body(RUN, order.batch, "train", order.content)
        theirs = sent_body(RUN, order.batch, "train", "sha256:" + "0" * 64, ["cusco"])
        body["orders"] += theirs["orders"]
        index = coordinator.log.append("batch.sent", body)
        order.evidence.CopyFrom(coordinator.log.entry_of(index))
        coordinator.log.prove(order.evidence, seen)

    coordinator.app = app_digest(code_kept(site.home.parent / "app"))
    approved = {**json.loads((site.home / "approved.json").read_text()), "client": BUILT_IN}
    site.write_approval({**approved, "app": coordinator.app})
    coordinator.tamper = split
    process = site.start()
    coordinator.order()
    caught(site, process, "N314")
    assert not coordinator.fetches


def test_without_a_proof_nothing_is_trained_and_nobody_is_accused(
    site: Site, coordinator: Coordinator
) -> None:
    def bare(message: pb.ToNode, seen: int) -> None:
        if message.WhichOneof("said") == "order":
            message.order.ClearField("evidence")

    coordinator.tamper = bare
    process = site.start()
    coordinator.order()
    coordinator.state("refusing: order")
    assert "no proof that the log has it" in site.log
    assert ended(process) == 0
    assert not (site.home / "evidence").exists()
    assert site.trained() == []


# --- receipts -------------------------------------------------------------------------------------------


def test_a_receipt_leaves_what_anybody_can_check(site: Site, coordinator: Coordinator) -> None:
    site.start()
    order = coordinator.order()
    reply = coordinator.delivered(order)
    coordinator.receipt(order)
    wait_until(lambda: not site.kept()["replies"])
    stem = site.home / "receipts" / RUN[:8] / f"0001-{order[7:19]}"
    proof = TlogProof.decode(stem.with_suffix(".tlog-proof").read_bytes())
    entry = stem.with_suffix(".json").read_bytes()
    checkpoint = proof.check(entry, vkey(coordinator))
    assert checkpoint.origin == f"{FEDERATION}/log"
    said = json.loads(entry)
    assert said["type"] == "reply.accepted"
    assert (said["body"]["order"], said["body"]["content"]) == (order, reply.content)
    with pytest.raises(merkle.ProofError):
        proof.check(entry.replace(b"accepted", b"refused!"), vkey(coordinator))


def test_an_entry_that_a_crash_took_is_made_again_from_its_proof(
    site: Site, coordinator: Coordinator
) -> None:
    process = site.start()
    order = coordinator.order()
    coordinator.delivered(order)
    coordinator.receipt(order)
    wait_until(lambda: not site.kept()["replies"])
    assert ended(process) == 0
    (entry,) = (site.home / "receipts").glob("*/*.json")
    data = entry.read_bytes()
    entry.write_bytes(b"")
    site.start()
    coordinator.attended(2)
    wait_until(lambda: entry.read_bytes() == data)


def test_a_receipt_that_proves_nothing_forgets_nothing(
    site: Site, coordinator: Coordinator
) -> None:
    def bare(message: pb.ToNode, seen: int) -> None:
        if message.WhichOneof("said") == "receipt":
            message.receipt.ClearField("evidence")

    coordinator.tamper = bare
    process = site.start()
    order = coordinator.order()
    coordinator.delivered(order)
    coordinator.receipt(order)
    wait_until(lambda: "N305: a receipt that proves nothing" in site.log)
    assert set(site.kept()["replies"]) == {order}
    assert ended(process) == 0


def test_a_receipt_whose_entry_says_otherwise(site: Site, coordinator: Coordinator) -> None:
    process = site.start()
    order = coordinator.order()
    coordinator.delivered(order)
    other = coordinator.verdict(order, reason="because", statement=None)

    def exchanged(message: pb.ToNode, seen: int) -> None:
        if message.WhichOneof("said") == "receipt":
            message.receipt.evidence.CopyFrom(other)
            coordinator.log.prove(message.receipt.evidence, seen)

    coordinator.tamper = exchanged
    coordinator.receipt(order)
    caught(site, process, "N315")
    assert set(site.kept()["replies"]) == {order}
