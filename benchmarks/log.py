"""The log at length: appends, opening, checkpoints and inclusion proofs of a journal of many entries.

    python benchmarks/log.py [ENTRIES [ROUNDS]]      (default 200,000 entries, 1,000 rounds)

Prints one JSON object. `append_us` is without the fsync (the journal is a throw-away one) and one entry
at a time; `append_durable_us` is one entry with its fsync. Proofs are checked. `checked` says how long
`barnraise log check` takes over a run of so many rounds with 10 members.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.coordinator.fleet import Delivery
from barnraise.coordinator.founding import Founding
from barnraise.coordinator.journal import Journal
from barnraise.coordinator.local import LocalMember
from barnraise.coordinator.log import Log
from barnraise.coordinator.log_check import check_log
from barnraise.coordinator.runlog import RunLog, verdict_fact
from barnraise.protocols import merkle, notes, statements
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.canonical import digest
from barnraise.protocols.entries import Entry
from barnraise.protocols.identity import order_id, site_names

APP = digest(b"app")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TOGETHER = 1000  # entries in one append while the journal is filled
PROOFS, SINGLE = 500, 2000


def entry(n: int) -> bytes:
    """As long as a verdict with its statement."""
    return Entry("reply.accepted", "2026-01-01T00:00:00Z", {"n": n, "pad": "x" * 900}).encode()


def fill(path: Path, count: int) -> None:
    with_index = Journal(path, durable=False)
    for first in range(0, count, TOGETHER):
        numbers = range(first, min(first + TOGETHER, count))
        with_index.append([entry(n) for n in numbers], [f"order-{n}" for n in numbers])
    with_index.close()


def append(path: Path, first: int, count: int, *, durable: bool) -> float:
    """Median microseconds of one append."""
    journal = Journal(path, durable=durable)
    times = []
    for n in range(first, first + count):
        data = entry(n)
        started = time.perf_counter()
        journal.append([data], [f"order-{n}"])
        times.append(time.perf_counter() - started)
    journal.close()
    return statistics.median(times) * 1e6


def measure(count: int, folder: Path) -> dict[str, Any]:
    """Fill a journal with `count` entries in `folder`, and time what is done with it."""
    path = folder / "journal.db"
    started = time.perf_counter()
    fill(path, count)
    filled = time.perf_counter() - started
    one = append(path, count, SINGLE, durable=False)
    durable = append(path, count + SINGLE, 100, durable=True)
    started = time.perf_counter()
    Journal(path).close()
    opening = time.perf_counter() - started
    return {
        "entries": count + SINGLE + 100,
        "fill_us_each": round(filled / count * 1e6, 1),
        "append_us": round(one, 1),
        "append_durable_us": round(durable, 1),
        "open_ms": round(opening * 1e3, 2),
        **prove(path),
    }


def prove(path: Path) -> dict[str, float]:
    """Medians over random entries, of a log whose pages are as they lie."""
    log, draw = Log(path, KEY, "bench"), random.Random(0)
    size = log.size()
    started = time.perf_counter()
    checkpoint = notes.open_checkpoint(log.checkpoint(), vkey()).checkpoint
    signed = time.perf_counter() - started
    inclusion, consistency = [], []
    for _ in range(PROOFS):
        index, old = draw.randrange(size), draw.randrange(1, size)
        started = time.perf_counter()
        path_ = log.inclusion(index, size)
        inclusion.append(time.perf_counter() - started)
        leaf = merkle.leaf_hash(log.entry(index))
        merkle.check_inclusion(leaf, index, size, path_, checkpoint.root)
        started = time.perf_counter()
        proof = log.consistency(old, size)
        consistency.append(time.perf_counter() - started)
        merkle.check_consistency(old, size, log.root(old), checkpoint.root, proof)
    log.close()
    return {
        "checkpoint_ms": round(signed * 1e3, 2),
        "inclusion_ms": round(statistics.median(inclusion) * 1e3, 3),
        "inclusion_worst_ms": round(max(inclusion) * 1e3, 3),
        "consistency_ms": round(statistics.median(consistency) * 1e3, 3),
    }


# --- a whole log, checked -----------------------------------------------------------------------------


def rounds(folder: Path, count: int, members: int) -> dict[str, Any]:
    """Seconds that `barnraise log check` takes over `count` rounds of `members` signed replies."""
    founding = Founding(
        "bench", b"s", [LocalMember.simulated(b"s", n, {}) for n in site_names(members)], APP, None
    )
    journal = Journal(folder / "journal.db", durable=False)
    log = RunLog(
        "00000000000000aa", journal, BlobStore(folder / "blobs"), lambda: "2026-01-01T00:00:00Z"
    )
    who = [[m.member.name, m.member.public_key.hex()] for m in founding.members]
    body = {"federation": "bench", "app": {"name": "x", "digest": APP}, "members": who}
    log.open(founding.facts(), body)
    for number in range(1, count + 1):
        log.write(*one_round(number, founding.members))
    log.write(("run.closed", {"model": APP, "named": True, "report": {}}))
    journal.close()
    started = time.perf_counter()
    found = check_log(folder)
    assert not found.problems, found.problems[:3]
    return {"rounds": count, "members": members, "check_s": round(time.perf_counter() - started, 2)}


def one_round(number: int, members: Sequence[LocalMember]) -> list[tuple[str, dict[str, Any]]]:
    names = [m.member.name for m in members]
    orders = [{"type": "train", "group": "", "content": APP, "ttl": 9, "members": names}]
    sent = {"batch": number, "kind": "send", "timeout": None, "orders": orders}
    verdicts, accepted = [], {}
    for m in members:
        order = order_id("00000000000000aa", number, m.member.name, "train", "", APP, 0)
        said = statements.reply_payload(
            "bench", "00000000000000aa", order, APP, statements.NO_POLICY
        )
        statement = statements.sign(m.key, m.member.name, "reply", said)
        delivery = Delivery(order, m.member.name, APP, 1, statement, 0.0)
        verdicts.append(verdict_fact(delivery, number, "accepted", "", ""))
        accepted[order] = APP
    closed = {"batch": number, "reason": "all answered", "accepted": accepted}
    seal = {"round": number, "model": APP, "content": APP, "report": {}, "batches": number}
    return [
        ("batch.sent", sent),
        *verdicts,
        ("batch.closed", {**closed, "set_aside": {}, "absent": [], "void": False}),
        ("round.sealed", {**seal, "open": []}),
    ]


def vkey() -> str:
    return notes.verifier_key("bench/log", KEY.public_key().public_bytes_raw())


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with tempfile.TemporaryDirectory(prefix="barnraise-log-") as folder:
        check, many = Path(folder, "check"), Path(folder, "many")
        check.mkdir()
        many.mkdir()
        checked = rounds(check, int(sys.argv[2]) if len(sys.argv) > 2 else 1000, 10)
        print(json.dumps({**measure(count, many), "checked": checked}))


if __name__ == "__main__":
    main()
