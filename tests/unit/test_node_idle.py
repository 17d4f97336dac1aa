"""A node between two runs is a witness as well: it cosigns what it is asked to, and ends over a false log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.client.node.gate import Gate
from barnraise.client.node.idle import Idle
from barnraise.client.node.link import Heard
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.sent import Sent
from barnraise.client.node.site import Site, Stop
from barnraise.client.node.witness import Witness
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import notes
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.notes import Checkpoint

LOG = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
ME = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
VKEY = notes.verifier_key("barn/log", LOG.public_key().public_bytes_raw())


def shown(root: bytes, size: int = 7, *, cosign: bool = False) -> Heard:
    note = notes.sign_checkpoint(LOG, Checkpoint("barn/log", size, root))
    return Heard(pb.ToNode(evidence=pb.Evidence(checkpoint=note, cosign=cosign)))


def unreachable() -> Any:
    raise OSError("there is no coordinator")


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Idle]:
    log = logging.getLogger("test")
    witness = Witness(tmp_path, "basel", ME, VKEY, log)
    site = Site("basel", 1, b"s" * 32, b"", lambda said: {}, unreachable, witness)
    with closing(Sent(tmp_path / "sent.db")) as sent:
        gate = Gate(tmp_path, sent)
        yield Idle(tmp_path, "barn", site, Mailbox(), log, gate, lambda link: None, {})


def test_two_logs_of_one_size_end_the_node_with_the_proof_on_disk(
    idle: Idle, tmp_path: Path
) -> None:
    idle._look(shown(b"a" * 32))
    idle._look(shown(b"b" * 32))
    with pytest.raises(BarnraiseError) as caught:
        idle.run()
    assert caught.value.code == "N310"
    assert (tmp_path / "evidence" / "report.json").is_file()


def test_an_honest_log_lets_it_wait_until_it_is_told_to_end(idle: Idle, tmp_path: Path) -> None:
    idle._look(shown(b"a" * 32))
    idle._look(shown(b"a" * 32, cosign=True))
    idle._mail.post(Stop())
    assert idle.run() == 0
    assert (tmp_path / "witness" / "checkpoint").is_file()
    assert not (tmp_path / "evidence").exists()
