"""The witness's own state: what it keeps, what it asks for, and when it cosigns."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.client.node import misconduct, witness
from barnraise.client.node.witness import Caught, Witness
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import merkle, notes
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.notes import Checkpoint
from barnraise.protocols.witnessing import Misconduct

KEY = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
ME = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
VKEY = notes.verifier_key("barn/log", KEY.public_key().public_bytes_raw())
LEAVES = [merkle.leaf_hash(b"%d" % i) for i in range(20)]
NODES = {
    (level, index): value
    for frontier in [merkle.Frontier()]
    for leaf in LEAVES
    for level, index, value in frontier.append(leaf)
}


def node(level: int, index: int) -> bytes:
    return NODES[level, index]


def shown(size: int, old: int, *, cosign: bool = False) -> pb.ToNode:
    note = notes.sign_checkpoint(KEY, Checkpoint("barn/log", size, merkle.root_of(node, size)))
    low, high = sorted((old, size))
    path = merkle.consistency_path(node, low, high) if low else []
    evidence = pb.Evidence(checkpoint=note, old_size=old, consistency=path, cosign=cosign)
    return pb.ToNode(evidence=evidence)


class Asked:
    """A Transparency stub that answers with what a log of `size` entries can."""

    def __init__(self, size: int, problem: grpc.StatusCode = grpc.StatusCode.OUT_OF_RANGE) -> None:
        self.size, self.problem = size, problem
        self.requests: list[tuple[int, int]] = []

    def Consistency(self, request: pb.ConsistencyRequest, timeout: float) -> pb.Path:
        self.requests.append((request.old_size, request.new_size))
        if request.new_size > self.size:
            raise Refusal(self.problem)
        return pb.Path(hashes=merkle.consistency_path(node, request.old_size, request.new_size))


class Refusal(grpc.RpcError):
    def __init__(self, problem: grpc.StatusCode) -> None:
        super().__init__(problem)
        self._problem = problem

    def code(self) -> grpc.StatusCode:
        return self._problem


def made(home: Path) -> Witness:
    return Witness(home, "basel", ME, VKEY, logging.getLogger("test"))


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Witness]:
    watching = made(tmp_path)
    yield watching
    watching.close()


def look(watching: Witness, message: pb.ToNode, asked: Any = None) -> Any:
    return watching.look(message, lambda: asked)


def test_what_was_seen_outlives_the_process(tmp_path: Path) -> None:
    first = made(tmp_path)
    look(first, shown(7, 0))
    first.close()
    second = made(tmp_path)
    assert second.size == 7
    assert look(second, shown(9, 7)) is None
    second.close()
    assert made(tmp_path).size == 9


def test_a_proof_from_another_size_than_was_seen_is_asked_for(watching: Witness) -> None:
    look(watching, shown(7, 0))
    asked = Asked(20)
    assert look(watching, shown(12, 5), asked) is None
    assert (asked.requests, watching.size) == ([(7, 12)], 12)
    assert look(watching, shown(3, 5), asked) is None
    assert (asked.requests[-1], watching.size) == ((3, 12), 12)


def test_a_log_that_cannot_prove_that_it_reached_so_far_has_gone_back(watching: Witness) -> None:
    look(watching, shown(12, 0))
    found = look(watching, shown(7, 5), Asked(7))
    assert isinstance(found, Caught)
    assert found.misconduct.code == "N311"
    assert found.seen is not None
    assert found.seen.checkpoint.size == 12


def test_a_connection_that_breaks_while_a_proof_is_asked_for_is_no_misconduct(
    watching: Witness,
) -> None:
    look(watching, shown(7, 0))
    with pytest.raises(grpc.RpcError):
        look(watching, shown(12, 5), Asked(7, grpc.StatusCode.UNAVAILABLE))
    assert watching.size == 7


def test_a_cosignature_leaves_once_what_it_signs_is_on_disk(tmp_path: Path) -> None:
    said: list[pb.FromNode] = []
    on_disk: list[bytes] = []
    told = threading.Event()

    def say(message: pb.FromNode) -> None:
        on_disk.append((tmp_path / witness.FOLDER / "checkpoint").read_bytes())
        said.append(message)
        told.set()

    watching = made(tmp_path)
    watching.speak(say)
    look(watching, shown(7, 0))
    look(watching, shown(12, 7, cosign=True))
    assert told.wait(20)
    watching.close()
    (cosignature,) = [message.cosignature for message in said]
    checkpoint = notes.open_checkpoint(on_disk[0], VKEY).checkpoint
    assert checkpoint.size == cosignature.size == 12
    notes.check_cosignature(
        cosignature.line, "basel", ME.public_key().public_bytes_raw(), checkpoint
    )


def test_an_earlier_view_is_not_cosigned(tmp_path: Path) -> None:
    said: list[pb.FromNode] = []
    watching = made(tmp_path)
    watching.speak(said.append)
    look(watching, shown(12, 0))
    assert look(watching, shown(7, 12, cosign=True)) is None
    watching.close()
    assert (said, watching.size) == ([], 12)


def test_a_damaged_checkpoint_is_said_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / witness.FOLDER).mkdir()
    (tmp_path / witness.FOLDER / "checkpoint").write_bytes(b"barn/log\n7\n")
    with pytest.raises(BarnraiseError) as error:
        made(tmp_path)
    assert error.value.code == "D106"


def test_evidence_is_whole_and_keeps_the_node_down_until_it_is_moved_away(tmp_path: Path) -> None:
    watching = made(tmp_path)
    look(watching, shown(12, 0))
    caught = Caught(Misconduct("N310", "two logs"), shown(7, 12), watching.seen)
    told = misconduct.record(tmp_path, caught, VKEY)
    watching.forget()
    assert told.code == "N310"
    folder = tmp_path / misconduct.FOLDER
    names = {"report.json", "seen.checkpoint", "shown.checkpoint", "shown.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert (
        notes.open_checkpoint((folder / "seen.checkpoint").read_bytes(), VKEY).checkpoint.size == 12
    )
    for report in (None, b"{}"):
        if report is not None:
            (folder / "report.json").write_bytes(report)
        with pytest.raises(BarnraiseError) as error:
            misconduct.check(tmp_path)
        assert error.value.code == ("N310" if report is None else "N312")
    folder.rename(tmp_path / "settled")
    misconduct.check(tmp_path)
    assert made(tmp_path).size == 0


def test_what_finds_no_room_is_kept_and_cosigned_once_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a node that is started again would take an older log for the one that it saw."""
    failed = threading.Event()

    def swap(path: Path, data: bytes) -> None:
        if not failed.is_set():
            failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(witness, "swap", swap)
    said: list[pb.FromNode] = []
    one = made(tmp_path)
    one.speak(said.append)
    one.look(shown(5, 0, cosign=True), lambda: None)
    assert failed.wait(20)
    one.close()
    assert made(tmp_path).size == 5
    assert [m.cosignature.size for m in said] == [5]
