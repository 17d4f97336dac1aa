"""The reference app on Barnraise: the command itself, every member a node of its own over mutual TLS.

What a round took is read from the journal: from one `batch.sent` to the next, all that happened included.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from engines.memory import watched

NODE, WORKER = "barnraise.client.node ", "barnraise.client.node.worker "


def run(
    app: Path, directory: Path, sites: int, config: Mapping[str, Any], *, processes: bool = True
) -> dict[str, Any]:
    """`barnraise sim run` in `directory`; seconds, bytes kept, peak memory in MB of 2^20 bytes."""
    settings = [f"-c{key}={json.dumps(value)}" for key, value in config.items()]
    command = [
        *(sys.executable, "-m", "barnraise", "sim", "run", str(app), "--json"),
        *("--sites", str(sites), "--dir", str(directory), *settings),
        *(["--processes"] if processes else []),
    ]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ), text=True
        ) as process,
        watched(process.pid, _role) as peaks,
    ):
        out, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{said[-3000:]}")
    told = json.loads(out)
    return {
        **seconds_of(directory),
        "bytes kept a round": _kept(directory) // int(config["rounds"]),
        "peak MB": {name: round(peak, 1) for name, peak in sorted(peaks.items())},
        "model": told["model"],
    }


def _role(command: str) -> str | None:
    if WORKER in command:
        return "worker"
    if NODE in command:
        return "node"
    return "coordinator" if "barnraise sim run" in command else None


def seconds_of(directory: Path) -> dict[str, Any]:
    """Seconds of each round but the last: from its batch to the next. And of each batch alone."""
    from barnraise.coordinator.journal import Journal

    sent: list[float] = []
    closed: list[float] = []
    journal = Journal(directory / "journal.db")
    try:
        for _, entry in journal.entries():
            moments = {"batch.sent": sent, "batch.closed": closed}.get(entry.type)
            if moments is not None:
                moments.append(datetime.fromisoformat(entry.time).timestamp())
    finally:
        journal.close()
    batches = [end - start for start, end in zip(sent, closed, strict=True)]
    return {"rounds": differences(sent), "batches": batches}


def differences(moments: Sequence[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(moments)]


def _kept(directory: Path) -> int:
    return sum(f.stat().st_size for f in (directory / "blobs" / "sha256").glob("??/*"))
