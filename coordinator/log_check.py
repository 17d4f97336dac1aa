"""Everything about a federation's log that can be recomputed, recomputed: `barnraise log check`.

    hashes       each entry against its leaf, all of them against the stored tree
    rules        canonical, known, signed, bound, in sequence (`protocols.log_rules`)
    blobs        what entries name and is there still, against its digest
    checkpoint   the newest that was cosigned: the log's signature, its root, the witnesses' quorum

It reads, also while a run goes on, and says what it cannot know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from barnraise.coordinator.log import Log
from barnraise.coordinator.shelf import Shelf
from barnraise.protocols import merkle, notes
from barnraise.protocols.content import ContentError, Envelope
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.log_rules import Rules
from barnraise.protocols.notes import Checkpoint, NoteError
from barnraise.protocols.witnessing import quorum

JOURNAL = "journal.db"
MOST = 100  # problems that are told


@dataclass
class Checked:
    """What was found: `facts` for a person, one line each; `problems`, empty for an honest log."""

    entries: int = 0
    root: str = ""
    signatures: int = 0
    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    witnessed: int = 0
    cosignatures: list[str] = field(default_factory=list)


def check_log(directory: Path) -> Checked:
    """Check the log in `directory`. Raises L101 where there is none, D105 where it cannot be read."""
    found = Checked()
    with closing(Log(directory / JOURNAL)) as log, closing(Shelf(directory / "blobs")) as shelf:
        rules = Rules(shelf.read)
        frontier, named = merkle.Frontier(), dict[str, int]()
        size = log.size()
        try:
            for index, data in log.entries(0, size):
                frontier.append(merkle.leaf_hash(data))
                found.problems += [f"entry {index}: {why}" for why in rules.see(index, data)]
                named |= dict.fromkeys(rules.named, index)
            if frontier.root() != log.root(size):
                found.problems.append("its entries do not give the Merkle root that is stored")
        except BarnraiseError as error:
            found.problems.append(f"{error.evidence}; nothing behind it was checked")
        found.entries, found.signatures = frontier.size, rules.signatures
        found.root = frontier.root().hex()
        found.facts.append(f"{found.entries} entries of {log.origin}, root {found.root}")
        found.facts.append(f"{found.signatures} statements are signed by enrolled keys and bound")
        if rules.unsigned:
            found.facts.append(
                f"{rules.unsigned} replies are unsigned: nothing here shows whose they are"
            )
        _check_blobs(found, shelf, named)
        _check_witnesses(found, log, rules)
    return found


def _check_blobs(found: Checked, shelf: Shelf, named: dict[str, int]) -> None:
    named = named | {blob: i for digest, i in named.items() for blob in _arrays(shelf, digest)}
    states = {digest: shelf.state(digest) for digest in named}
    for digest, state in states.items():
        if state == "damaged":
            found.problems.append(f"entry {named[digest]}: the blob {digest} is damaged")
    whole = sum(state == "whole" for state in states.values())
    gone = sum(state == "gone" for state in states.values())
    found.facts.append(f"{whole} blobs that entries name are there and whole, {gone} are not kept")


def _arrays(shelf: Shelf, digest: str) -> list[str]:
    """The blobs that a content's envelope names; none for what is no envelope."""
    data = shelf.envelope(digest)
    try:
        return list(Envelope.decode(data).blobs()) if data is not None else []
    except ContentError:
        return []


def _check_witnesses(found: Checked, log: Log, rules: Rules) -> None:
    """The newest checkpoint that anybody cosigned, and the newest that a quorum did."""
    members = {name: bytes.fromhex(key) for name, key in rules.witnesses.items()}
    if not members:
        found.facts.append(
            "no witnesses: no run was opened whose members have keys, and nothing agreed on"
        )
        return
    needed = quorum(len(members))
    log.expect(members, needed)
    if (note := log.kept()) is None:
        found.facts.append(
            "no member has cosigned a checkpoint: the coordinator alone vouches for it"
        )
    else:
        newest = _checked_note(found, log, note, rules.log, members)
        note = log.witnessed()
        if note is not None:
            checkpoint, names = _checked_note(found, log, note, rules.log, members)
            found.witnessed, found.cosignatures = checkpoint.size, names
        found.facts += _of_witnesses(found, newest, len(members), needed)
    if len(members) < 4:
        found.facts.append(f"with {len(members)} witnesses one colluder defeats the quorum")


def _of_witnesses(
    found: Checked, newest: tuple[Checkpoint, list[str]], members: int, needed: int
) -> Iterator[str]:
    if found.cosignatures:
        names = ", ".join(found.cosignatures)
        yield f"the first {found.witnessed} entries are witnessed by {names} ({needed} needed)"
    else:
        checkpoint, names = newest[0], ", ".join(newest[1])
        yield (
            f"no quorum: the first {checkpoint.size} entries are cosigned by {names or 'nobody'}; "
            f"{needed} of {members} are needed"
        )


def _checked_note(
    found: Checked, log: Log, note: bytes, vkey: str, members: dict[str, bytes]
) -> tuple[Checkpoint, list[str]]:
    """A kept checkpoint, and whose cosignatures under it hold; what does not is a problem."""
    try:
        signed = notes.open_checkpoint(note, vkey)
    except (NoteError, ValueError) as error:
        found.problems.append(f"the kept checkpoint: {error}")
        return Checkpoint(log.origin, 0, merkle.EMPTY_ROOT), []
    checkpoint, names = signed.checkpoint, []
    if checkpoint.size > found.entries:
        why = f"it is of {checkpoint.size} entries, and the log has {found.entries}: it went back"
        found.problems.append(f"the kept checkpoint: {why}")
    elif log.root(checkpoint.size) != checkpoint.root:
        found.problems.append(f"the kept checkpoint of {checkpoint.size} entries has another root")
    for line in signed.lines:
        name = notes.line_name(line)
        try:
            notes.check_cosignature(line, name, members.get(name, bytes(32)), checkpoint)
            names.append(name)
        except (NoteError, ValueError) as error:
            found.problems.append(f"the kept checkpoint: {error}")
    return checkpoint, sorted(names)


def log_key(directory: Path, vkey: str) -> bytes | None:
    """The log's private key (raw Ed25519), if this directory holds it: a federation's own, or what
    follows from a simulation's secret."""
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from barnraise.protocols.randomness import derive

    public = notes.parse_verifier_key(vkey)[1]
    own, secret = directory / "federation" / "log.key", directory / "secret"
    for path in (own, secret):
        try:
            held = path.read_bytes()
            raw = base64.b64decode(held) if path == own else derive(held, "log")
            key = Ed25519PrivateKey.from_private_bytes(raw)
        except (OSError, ValueError):
            continue
        if key.public_key().public_bytes_raw() == public:
            return raw
    return None
