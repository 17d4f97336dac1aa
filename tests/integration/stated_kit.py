"""A site that has joined and been asked to agree on a charter, on disk alone: no coordinator, no daemon."""

from __future__ import annotations

import json
from pathlib import Path

from barnraise.client.keys import Membership, NodeKeys
from barnraise.client.node import consent
from barnraise.protocols import notes
from barnraise.protocols.agreements import Agreement
from barnraise.protocols.apps import app_digest
from barnraise.protocols.canonical import digest
from barnraise.protocols.identity import simulated_key

FEDERATION, MEMBER = "neighbours", "basel"
DOCUMENTS = {
    "one.txt": "The patient came on a Monday, and was well when she left again on Thursday.",
    "two.txt": "Another, whose leg was broken when he fell from the ladder in his own garden.",
    "three.txt": "Nobody knows what the third one had, and it was over before we could find out.",
}
CHARTER = """\
name = "neighbours"
licence = "Apache-2.0"
[task]
name = "causal-lm"
context = 8
width = 8
layers = 1
heads = 1
[training]
steps = 1
[rounds]
count = 1
"""


def site_at(home: Path, data: Path) -> None:
    """A node's directory at `home`, and its data at `data`: three documents."""
    keys = NodeKeys.given(home, simulated_key(b"k" * 32, MEMBER), b"s" * 32)
    log = notes.verifier_key(f"{FEDERATION}/log", bytes(32))
    Membership(FEDERATION, MEMBER, "127.0.0.1:1", "127.0.0.1:2", log).write(home)
    for name in ("ca.crt", "tls.crt"):
        (home / name).write_text("of no use: nothing is connected")
    code = {"charter.toml": CHARTER.encode()}
    key = keys.public_key.hex()
    text = digest(CHARTER.encode())
    agreement = Agreement(FEDERATION, log, text, app_digest(code), {MEMBER: key}, 1)
    folder = consent.folder_of(home, agreement.digest)
    (folder / "app").mkdir(parents=True)
    (folder / "agreement.json").write_bytes(agreement.encode())
    (folder / "charter.toml").write_text(CHARTER)
    (folder / "app" / "charter.toml").write_text(CHARTER)
    said = {"name": FEDERATION, "adopted": "2026-03-04T05:06:07Z"}
    listed = [["charter.toml", digest(code["charter.toml"]), len(CHARTER)]]
    (folder / "proposal.json").write_text(json.dumps({**said, "files": listed}))
    data.mkdir()
    for name, words in DOCUMENTS.items():
        (data / name).write_text(words)
