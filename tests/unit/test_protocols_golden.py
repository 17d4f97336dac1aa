"""Bytes that must not drift: what one version wrote, every later one must write and read.

`BARNRAISE_REGENERATE=1 pytest tests/unit/test_protocols_golden.py` rewrites `golden/` and fails,
saying so. A changed golden file is a changed format: it needs a new version of it, not a new file.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from barnraise.protocols import identity, randomness, records, statements, tensors
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.canonical import canonical, digest
from barnraise.protocols.content import Envelope, Failure
from barnraise.protocols.entries import Entry

GOLDEN = Path(__file__).parent / "golden"
SECRET = randomness.simulation_secret(0)
ORDER = identity.order_id("sim-0", 1, "site-00", "train", "1", digest(b"content"), 0)


def arrays() -> dict[str, Any]:
    """One of each dtype, with names that need no escape, so that safetensors writes the same."""
    made = {f"layer.{d}": np.arange(3).astype(d) for d in tensors.NATIVE}
    return made | {"scalar": np.array(1.5), "empty": np.zeros((0, 2), np.float32)}


def content() -> RecordDict:
    odd = ArrayRecord({"a/ü%": Array("bfloat16", (2,), "torch", b"\x80?\x00@")})
    odd["__metadata__"] = Array(np.array([-0.0, math.inf], np.float32))
    numbers = {"z": 2**53 + 1, "a": -0.0, "nan": math.nan, "list": [1, -(2**70)], "none": []}
    config = {"t": True, "f": 0.1, "s": "ü\n", "y": b"\x00\xff", "ls": ["", "x"], "ly": [b"a"]}
    return RecordDict({"odd": odd, "m": MetricRecord(numbers), "c": ConfigRecord(config)})  # type: ignore[arg-type]


def made_envelope(blobs: BlobStore) -> bytes:
    return records.encode(content(), blobs).encode()


def made_error(blobs: BlobStore) -> bytes:
    return Envelope(failure=Failure(4, "ValueError at client.py:7")).encode()


def made_blob(blobs: BlobStore) -> bytes:
    return b"".join(tensors.encode(arrays()))


def made_odd_blob(blobs: BlobStore) -> bytes:
    (blob,) = records.encode(content(), blobs).blobs()
    return blobs.read(blob)


def made_entry(blobs: BlobStore) -> bytes:
    body = {"run": "sim-0", "batch": 1, "set_aside": {"ü": "why"}, "void": False, "timeout": None}
    return Entry("batch.closed", "2026-03-01T12:00:00Z", body).encode()


def made_statement(blobs: BlobStore) -> bytes:
    payload = statements.reply_payload(
        "sim", "sim-0", ORDER, digest(b"content"), statements.NO_POLICY
    )
    key = identity.simulated_key(SECRET, "site-00")
    return canonical(statements.sign(key, "site-00", "reply", payload))


def made_identities(blobs: BlobStore) -> bytes:
    key = identity.simulated_key(SECRET, "site-00")
    member = identity.Member("site-00", key.public_key().public_bytes_raw())
    lines = {
        "secret of simulation 0": SECRET.hex(),
        "its commitment": randomness.commitment(SECRET),
        "key of site-00": key.private_bytes_raw().hex(),
        "public key of site-00": member.public_key.hex(),
        "node id of site-00": str(member.node_id),
        "order id": ORDER,
        "derived from (member, site-00)": randomness.derive(SECRET, "member", "site-00").hex(),
    }
    return json.dumps(lines, indent=1).encode() + b"\n"


MADE = {
    "envelope.json": made_envelope,
    "error.json": made_error,
    "blob.safetensors": made_blob,
    "odd.safetensors": made_odd_blob,
    "entry.json": made_entry,
    "statement.json": made_statement,
    "identities.json": made_identities,
}


@pytest.mark.parametrize("name", MADE)
def test_these_bytes_do_not_drift(name: str, tmp_path: Path) -> None:
    made = MADE[name](BlobStore(tmp_path, durable=False))
    path = GOLDEN / name
    if os.environ.get("BARNRAISE_REGENERATE") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(made)
        pytest.fail(f"{path.name} was rewritten; read the difference, then run without the switch")
    assert made == path.read_bytes()


def test_every_golden_file_is_held() -> None:
    assert {p.name for p in GOLDEN.iterdir()} == set(MADE)


def test_the_blob_is_the_safetensors_librarys_own() -> None:
    data = (GOLDEN / "blob.safetensors").read_bytes()
    assert data == safetensors.numpy.save(arrays())
    read = safetensors.numpy.load_file(GOLDEN / "blob.safetensors")
    assert set(read) == set(arrays())
    for name, array in arrays().items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()


def test_what_was_written_is_still_read() -> None:
    envelope = Envelope.decode((GOLDEN / "envelope.json").read_bytes())
    assert envelope.blobs() == (digest((GOLDEN / "odd.safetensors").read_bytes()),)
    specs = tensors.open_blob(GOLDEN / "odd.safetensors")
    assert set(specs) == {"a/ü%", "__metadata__"}
    assert Entry.decode((GOLDEN / "entry.json").read_bytes()).type == "batch.closed"
    public = identity.simulated_key(SECRET, "site-00").public_key().public_bytes_raw()
    statement = json.loads((GOLDEN / "statement.json").read_bytes())
    assert statements.verify(public, "site-00", "reply", statement)["order"] == ORDER
