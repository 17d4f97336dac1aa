"""What a node does once it has caught its coordinator: the proof goes to disk, and the node stays down.

    NODE_DIR/evidence/report.json        code, what, whose log, when
                      seen.checkpoint    the signed note that this node had seen; absent if none
                      shown.checkpoint   the signed note that it was shown
                      shown.json         the message as it came, proofs and entry included

The folder is there whole or not at all. While it lies there the node does not start.
"""

from __future__ import annotations

import base64
import json
import shutil
import time
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from barnraise.client.node.link import Cut, Link
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.witness import Caught, Witness
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import files
from barnraise.protocols.errors import CODES, BarnraiseError
from barnraise.protocols.witnessing import UNPROVED

FOLDER = "evidence"
OBJECTION = 2.0  # seconds in which the coordinator's operator may hear of misconduct


def record(home: Path, caught: Caught, log_key: str) -> BarnraiseError:
    """Put the proof on disk, durable on return; what the operator of the site is told."""
    folder, new = home / FOLDER, home / f".{FOLDER}.new"
    with files.disk_errors(home):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        for name, data in _files(caught, log_key).items():
            files.replace(new / name, data)
        if not folder.exists():
            new.rename(folder)
        files.fsync(home)
    return _told(folder, caught.misconduct.code, caught.misconduct.what, "nothing more was sent")


def caught_by(
    home: Path, caught: Caught, witness: Witness, link: Link, mail: Mailbox
) -> BarnraiseError:
    """Proof to disk, and a word to the operator of the federation; what then ends the node."""
    told = record(home, caught, witness.log_key)
    witness.forget()
    why = caught.misconduct
    deadline = time.monotonic() + OBJECTION
    if link.say(pb.FromNode(objection=pb.Objection(code=why.code, text=why.what))):
        while (left := deadline - time.monotonic()) > 0:
            if isinstance(mail.take(left), Cut):
                break
    return told


def check(home: Path) -> None:
    """Raise what the evidence says, if any lies here."""
    folder = home / FOLDER
    if not folder.exists():
        return
    try:
        report = json.loads((folder / "report.json").read_bytes())
        code, what = str(report["code"]), str(report["what"])
    except (OSError, ValueError, KeyError, TypeError):
        code, what = UNPROVED, "the report in it cannot be read"
    raise _told(folder, code if code in CODES else UNPROVED, what, "the node was not started")


def _told(folder: Path, code: str, what: str, changed: str) -> BarnraiseError:
    return BarnraiseError(
        code,
        f"this node has caught its coordinator: {what}",
        f"the signed checkpoints and the proof lie in {folder}",
        changed,
        f"show {folder} to the other members; once it is settled, move it away and start the node again",
    )


def _files(caught: Caught, log_key: str) -> dict[str, bytes]:
    message = MessageToDict(caught.message, preserving_proto_field_name=True)
    report = {
        "code": caught.misconduct.code,
        "what": caught.misconduct.what,
        "log": log_key,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "asked": [base64.b64encode(value).decode() for value in caught.asked],
    }
    found = {
        "report.json": json.dumps(report, indent=1).encode(),
        "shown.json": json.dumps(message, indent=1).encode(),
        "shown.checkpoint": _checkpoint_of(caught.message),
    }
    if caught.seen is not None:
        found["seen.checkpoint"] = caught.seen.note
    return found


def _checkpoint_of(message: pb.ToNode) -> bytes:
    said = getattr(message, message.WhichOneof("said") or "evidence")
    evidence: pb.Evidence = said if isinstance(said, pb.Evidence) else said.evidence
    return evidence.checkpoint
