"""What a member can show of each reply: that it was taken, or that it was not and why.

    NODE_DIR/receipts/<run, 8>/<batch>-<order, 12>.tlog-proof   `tlog-proof@v1`: a checkpoint that the log
                                                                signed, and the path to it
                              /<batch>-<order, 12>.json         the log's entry, byte for byte: what is
                                                                proved; it carries verdict and reason

Anybody checks the two with the log's verifier key alone (`barnraise log check`). The proof's `extra` holds
the entry once more and the receipt that the log signed, so that one file, synced once, is enough to
make the pair; `mend` does so at the start.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from barnraise.client.node.witness import Proved
from barnraise.protocols import statements
from barnraise.protocols.canonical import canonical
from barnraise.protocols.files import fsync, sync_data
from barnraise.protocols.merkle import ProofError
from barnraise.protocols.tlog_proof import TlogProof

FOLDER = "receipts"


def opened(statement: bytes, log_key: bytes, federation: str) -> dict[str, Any]:
    """The receipt that the federation's log signed. `ValueError` or `RecursionError` for anything else."""
    receipt = statements.verify(log_key, f"{federation}/log", "receipt", json.loads(statement))
    if set(receipt) != {"order", "verdict", "reason", "entry"}:
        raise ValueError("it has other fields than a receipt")
    return receipt


def keep(home: Path, run: str, order: str, receipt: bytes, proved: Proved) -> Path:
    """Write the pair, its proof durable on return; again does no harm. The proof's path."""
    folder = home / FOLDER / run[:8]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = f"{proved.entry.body['batch']:04d}-{order.removeprefix('sha256:')[:12]}"
    extra = canonical({"entry": proved.data.decode(), "receipt": receipt.decode()})
    proof = folder / f"{name}.tlog-proof"
    _write(proof.with_suffix(".json"), proved.data, durable=False)
    _write(proof, replace(proved.proof, extra=extra).encode(), durable=True)
    fsync(folder)
    return proof


def mend(home: Path) -> None:
    """Write the entries again that a crash took, from their proofs. A proof cut short is written again
    with its receipt, for its reply is not forgotten before."""
    for proof in (home / FOLDER).glob("*/*.tlog-proof"):
        entry = proof.with_suffix(".json")
        if not entry.is_file() or not entry.stat().st_size:
            try:
                extra = TlogProof.decode(proof.read_bytes()).extra
                data = json.loads(extra or b"null")["entry"].encode()
            except (ProofError, ValueError, TypeError, KeyError):
                continue
            _write(entry, data, durable=True)


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if durable:
            sync_data(fd)
    finally:
        os.close(fd)
