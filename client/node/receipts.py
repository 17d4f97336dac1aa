"""What a member can show of each reply: that it was taken, or that it was not and why.

    NODE_DIR/receipts/<run, 8>/<batch>-<order, 12>.tlog-proof   `tlog-proof@v1`: a checkpoint that the log
                                                                signed, the path to it; `extra`: the receipt
                              /<batch>-<order, 12>.json         the log's entry, byte for byte: what is
                                                                proved; it carries verdict and reason

Anybody checks the two with the log's verifier key alone (`barnraise log check`).
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from barnraise.client.node.witness import Proved
from barnraise.protocols import files, statements

FOLDER = "receipts"


def opened(statement: bytes, log_key: bytes, federation: str) -> dict[str, Any]:
    """The receipt that the federation's log signed. `ValueError` or `RecursionError` for anything else."""
    receipt = statements.verify(log_key, f"{federation}/log", "receipt", json.loads(statement))
    if set(receipt) != {"order", "verdict", "reason", "entry"}:
        raise ValueError("it has other fields than a receipt")
    return receipt


def keep(home: Path, run: str, order: str, statement: bytes, proved: Proved) -> Path:
    """Write the pair, durable on return, and again does no harm; the proof's path. Raises `OSError`."""
    folder = home / FOLDER / run[:8]
    if not folder.is_dir():
        folder.mkdir(parents=True, mode=0o700)
        files.fsync(folder.parent)
        files.fsync(home)
    name = f"{proved.entry.body['batch']:04d}-{order.removeprefix('sha256:')[:12]}"
    proof = folder / f"{name}.tlog-proof"
    _write(folder / f"{name}.json", proved.data)
    _write(proof, replace(proved.proof, extra=statement).encode())
    files.fsync(folder)
    return proof


def _write(path: Path, data: bytes) -> None:
    """A file cut short by a kill is written again, for its reply is not forgotten before."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
