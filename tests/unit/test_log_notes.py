"""Notes, checkpoints, cosignatures and tlog-proofs: the published note, and one spelling of everything."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.protocols import merkle, notes
from barnraise.protocols.merkle import ProofError
from barnraise.protocols.notes import Checkpoint, NoteError
from barnraise.protocols.tlog_proof import MAX_PROOF, TlogProof

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors/ledger.json").read_text())
NOTE, LOG, WITNESS = VECTORS["note"].encode(), VECTORS["log_vkey"], VECTORS["witness_vkey"]
LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
OPENED = notes.open_checkpoint(NOTE, LOG)
CHECKPOINT = OPENED.checkpoint


def other_spelling(text: str) -> str:
    """Base64 of the same bytes, its unused bits set."""
    body = text.rstrip("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + text[len(body) :]


# --- the published note ------------------------------------------------------------------------------


def test_the_published_note_opens() -> None:
    assert CHECKPOINT.size == 8
    assert CHECKPOINT.root.hex() == VECTORS["roots_hex"]["8"]
    name, key = notes.parse_cosigner_key(WITNESS)
    assert notes.check_cosignature(OPENED.lines[0], name, key, CHECKPOINT) == 1_700_000_000


def test_the_same_keys_write_the_published_note() -> None:
    note = notes.sign_checkpoint(LOG_KEY, CHECKPOINT)
    line = notes.cosign(WITNESS_KEY, "witness.example/w1", CHECKPOINT, 1_700_000_000)
    assert notes.with_lines(note, [line]) == NOTE


def test_the_published_verifier_keys() -> None:
    log, witness = (k.public_key().public_bytes_raw() for k in (LOG_KEY, WITNESS_KEY))
    assert notes.verifier_key("fed.example/run1", log) == LOG
    assert notes.cosigner_key("witness.example/w1", witness) == WITNESS
    with pytest.raises(ValueError, match="not an Ed25519 verifier key"):
        notes.parse_verifier_key(WITNESS)
    with pytest.raises(ValueError, match="not an Ed25519 verifier key"):
        notes.parse_cosigner_key(LOG)


# --- strictness ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_is_what_its_text_says(size: int, root: bytes) -> None:
    checkpoint = Checkpoint("fed/log", size, root)
    assert Checkpoint.parse(checkpoint.text()) == checkpoint


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"fed/log\n08\n{ROOT}\n", "leading zeros"),
        (f"fed/log\n+8\n{ROOT}\n", "decimal"),
        (f"fed/log\n8 \n{ROOT}\n", "decimal"),
        (f"fed/log\n\n{ROOT}\n", "decimal"),
        (f"fed/log\n٣\n{ROOT}\n", "decimal"),
        (f"fed/log\n9223372036854775808\n{ROOT}\n", "too large"),
        (f"fed/log\n8\n{ROOT}", "three lines"),
        (f"fed/log\n8\n{ROOT}\nmore\n", "three lines"),
        (f"fed/log\n8\n{ROOT}\n\n", "three lines"),
        (f"\n8\n{ROOT}\n", "origin"),
        (f"fed log\n8\n{ROOT}\n", "origin"),
        (f"fed/log\n8\n{ROOT[:-4]}\n", "32 bytes"),
        (f"fed/log\n8\n{other_spelling(ROOT)}\n", "another spelling"),
        (f"fed/log\n8\n{ROOT[:-1]}\n", "base64"),
        ("fed/log\n8\n?\n", "not base64"),
    ],
)
def test_a_checkpoint_has_one_spelling(text: str, reason: str) -> None:
    with pytest.raises(NoteError, match=reason):
        Checkpoint.parse(text)


def test_any_bit_of_a_signed_note_matters() -> None:
    """Each bit of text and signatures: the note is refused, or the cosignature that it hurt is."""
    name, key = notes.parse_cosigner_key(WITNESS)
    for at in range(len(NOTE)):
        for bit in (0, 4):
            bad = bytearray(NOTE)
            bad[at] ^= 1 << bit
            with pytest.raises(NoteError):
                signed = notes.open_checkpoint(bytes(bad), LOG)
                notes.check_cosignature(signed.lines[0], name, key, signed.checkpoint)


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        (NOTE + b"\n", "signature lines|dash"),
        (NOTE + b"x", "signature lines"),
        (NOTE[:-1], "signature lines"),
        (NOTE + NOTE.splitlines(keepends=True)[-1], "line twice"),
        (NOTE.replace(b"\n\n", b"\n"), "blank line"),
        (NOTE.replace(b"fed.example", b"fed\x07example", 1), "control characters"),
        (NOTE.replace("—".encode(), b"-", 1), "signature line"),
        (NOTE.replace(b"8\n", b"8\r\n", 1), "control characters"),
        (b"\xff" + NOTE, "UTF-8"),
        (NOTE + "— x AAAA\n".encode(), "without a signature"),
        (NOTE + b"a" * notes.MAX_NOTE, "limit"),
        (b"", "not a note"),
    ],
)
def test_a_note_has_one_form(note: bytes, reason: str) -> None:
    with pytest.raises(NoteError, match=reason):
        notes.open_checkpoint(note, LOG)


def test_a_note_is_signed_by_its_log() -> None:
    other = Ed25519PrivateKey.generate()
    public = other.public_key().public_bytes_raw()
    with pytest.raises(NoteError, match="not signed by the log"):
        notes.open_checkpoint(NOTE, notes.verifier_key("fed.example/run1", public))
    elsewhere = Checkpoint("other/log", 8, CHECKPOINT.root)
    signed = notes.sign_checkpoint(LOG_KEY, elsewhere)
    with pytest.raises(NoteError, match="not signed by the log"):
        notes.open_checkpoint(signed, LOG)
    text = elsewhere.text()
    mine = NOTE.decode().split("\n\n")[1].splitlines()[0].split(" ")
    data = base64.b64decode(mine[2])[:4] + LOG_KEY.sign(text.encode())
    posing = f"{text}\n— {mine[1]} {base64.b64encode(data).decode()}\n".encode()
    with pytest.raises(NoteError, match=r"of other/log, not of fed\.example/run1"):
        notes.open_checkpoint(posing, LOG)


def test_a_cosignature_is_of_one_checkpoint_by_one_cosigner() -> None:
    public = WITNESS_KEY.public_key().public_bytes_raw()
    line = notes.cosign(WITNESS_KEY, "basel", CHECKPOINT, 7)
    assert notes.line_name(line) == "basel"
    assert notes.check_cosignature(line, "basel", public, CHECKPOINT) == 7
    other = Checkpoint(CHECKPOINT.origin, 9, CHECKPOINT.root)
    with pytest.raises(NoteError, match="another checkpoint"):
        notes.check_cosignature(line, "basel", public, other)
    with pytest.raises(NoteError, match="not a cosignature by cusco"):
        notes.check_cosignature(line, "cusco", public, CHECKPOINT)
    log = LOG_KEY.public_key().public_bytes_raw()
    with pytest.raises(NoteError, match="not a cosignature by basel"):
        notes.check_cosignature(line, "basel", log, CHECKPOINT)
    head, name, data = line.split(" ")
    short = base64.b64encode(base64.b64decode(data)[:-1]).decode()
    with pytest.raises(NoteError, match="malformed"):
        notes.check_cosignature(f"{head} {name} {short}", "basel", public, CHECKPOINT)


def test_no_line_is_added_twice() -> None:
    note = notes.sign_checkpoint(LOG_KEY, CHECKPOINT)
    line = notes.cosign(WITNESS_KEY, "basel", CHECKPOINT, 7)
    with pytest.raises(NoteError, match="twice"):
        notes.with_lines(note, [line, line])
    with pytest.raises(NoteError, match="signature line"):
        notes.with_lines(note, ["basel was here"])


# --- tlog-proof ---------------------------------------------------------------------------------------

LEAVES = [bytes.fromhex(x) for x in VECTORS["leaves_hex"]]


def proof_of(index: int, extra: bytes | None = None) -> TlogProof:
    frontier, nodes = merkle.Frontier(), {}
    for leaf in LEAVES:
        nodes |= {(level, i): h for level, i, h in frontier.append(merkle.leaf_hash(leaf))}
    path = merkle.inclusion_path(lambda level, i: nodes[level, i], index, 8)
    return TlogProof(index, tuple(path), NOTE, extra)


@pytest.mark.parametrize("index", range(8))
def test_a_proof_is_read_back_and_checks(index: int) -> None:
    proof = proof_of(index)
    assert TlogProof.decode(proof.encode()) == proof
    assert proof.check(LEAVES[index], LOG) == CHECKPOINT
    with pytest.raises(ProofError, match="another root"):
        proof.check(b"another entry", LOG)


def test_a_proof_is_spelled_as_c2sp_has_it() -> None:
    lines = proof_of(5, b"extra data").encode().decode().split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra ZXh0cmEgZGF0YQ==", "index 5"]
    assert [len(base64.b64decode(x)) for x in lines[3:6]] == [32, 32, 32]
    assert lines[6] == ""
    assert "\n".join(lines[7:]).encode() == NOTE
    assert TlogProof.decode(proof_of(5, b"extra data").encode()).extra == b"extra data"


def test_any_bit_of_a_proof_matters() -> None:
    name, key = notes.parse_cosigner_key(WITNESS)
    data = proof_of(5).encode()
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 1 << at % 8
        with pytest.raises((ProofError, NoteError)):
            proof = TlogProof.decode(bytes(bad))
            checkpoint = proof.check(LEAVES[5], LOG)
            line = notes.open_checkpoint(proof.note, LOG).lines[0]
            notes.check_cosignature(line, name, key, checkpoint)


PLAIN = proof_of(5).encode()
HASH = PLAIN.split(b"\n")[2].decode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PLAIN.replace(b"index 5", b"index 05"), "another spelling"),
        (PLAIN.replace(b"index 5", b"index +5"), "another spelling"),
        (PLAIN.replace(b"index 5", b"index 5 "), "another spelling"),
        (PLAIN.replace(b"index 5", b"index -5"), "path|another root|spelling|no leaf"),
        (PLAIN.replace(b"index 5", b"index"), "malformed"),
        (PLAIN.replace(b"index 5", b"index " + b"9" * 40), "malformed"),
        (PLAIN.replace(b"index 5\n", b"extra ?\nindex 5\n"), "malformed"),
        (PLAIN.replace(b"index 5\n", b"extra QR==\nindex 5\n"), "another spelling"),
        (PLAIN.replace(HASH.encode(), other_spelling(HASH).encode()), "another spelling"),
        (PLAIN.replace(HASH.encode(), b"AAAA"), "malformed"),
        (PLAIN.replace(b"@v1", b"@v2"), "does not begin"),
        (PLAIN.replace(b"index", b"indeX"), "malformed"),
        (b"c2sp.org/tlog-proof@v1\n\n", "malformed"),
        (PLAIN.replace(b"\n\n", b"\n", 1), "malformed|another spelling"),
        (b"\xff" + PLAIN, "ASCII"),
        (PLAIN + b"a" * MAX_PROOF, "limit"),
        (b"", "does not begin"),
    ],
)
def test_a_proof_has_one_spelling(data: bytes, reason: str) -> None:
    with pytest.raises((ProofError, NoteError), match=reason):
        TlogProof.decode(data).check(LEAVES[5], LOG)
