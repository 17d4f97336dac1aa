"""How long `barnraise verify` takes over a release of many rounds, without its weights.

    python benchmarks/verify.py [ROUNDS [MEMBERS]]      (default 1,000 rounds, 10 members)

Makes up a federation's directory (each round: one train and one evaluate batch, every reply signed), has it
released by the real writer, with sealed and with open contributions, and verifies both. Prints one JSON
object. `seconds` is of the whole verification in this process, `parts` of its steps.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from barnraise.coordinator.fleet import Delivery
from barnraise.coordinator.founding import Founding, simulated_log_key
from barnraise.coordinator.journal import Journal
from barnraise.coordinator.local import LocalMember
from barnraise.coordinator.log import Log
from barnraise.coordinator.release.make import make
from barnraise.coordinator.release.publish import Publisher, body_of
from barnraise.coordinator.release.source import opened
from barnraise.coordinator.runlog import RunLog, verdict_fact
from barnraise.coordinator.verify.run import verify
from barnraise.coordinator.witnesses import cosign_all
from barnraise.protocols import statements
from barnraise.protocols.apps import app_digest, code_kept
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.canonical import digest
from barnraise.protocols.content import Envelope, Values
from barnraise.protocols.identity import order_id, site_names
from barnraise.protocols.release import Manifest

RUN, TIME, FEDERATION = "00000000000000aa", "2026-01-01T00:00:00Z", "bench"
CHARTER = """name = "bench"
licence = "Apache-2.0"
[task]
name = "classification"
features = 4
classes = 2
[training]
steps = 3
[rounds]
count = {rounds}
[release]
contributions = "{mode}"
"""


@dataclass
class Made:
    """A federation's directory while it is made up."""

    root: Path
    members: Sequence[LocalMember]
    journal: Journal
    blobs: BlobStore

    @property
    def log(self) -> RunLog:
        return RunLog(RUN, self.journal, self.blobs, lambda: TIME)

    def content(self, **values: float) -> str:
        """A reply's or an order's content, kept."""
        record = Values("metrics", tuple(values.items()))
        return self.blobs.put([Envelope((("metrics", record),)).encode()])

    def publisher(self, body: Mapping[str, Any]) -> Publisher:
        def publish(manifest: Manifest) -> bytes:
            self.log.write(("release.published", body_of(manifest)))
            with closing(Log(self.journal.path, simulated_log_key(b"s"))) as log:
                cosign_all(log, self.members, lambda: 0)
                note = log.witnessed()
            assert note is not None
            return note

        return publish


def federation(root: Path, rounds: int, members: int, mode: str) -> Made:
    """A directory with a finished run of so many rounds."""
    (root / "app").mkdir(parents=True)
    charter = CHARTER.format(rounds=rounds, mode=mode)
    (root / "app" / "charter.toml").write_text(charter)
    app = app_digest(code_kept(root / "app"))
    who = [LocalMember.simulated(b"s", name, {}) for name in site_names(members)]
    founding = Founding(FEDERATION, b"s", who, app, charter)
    blobs = BlobStore(root / "blobs", durable=False)
    made = Made(root, who, Journal(root / "journal.db", durable=False), blobs)
    founding.keep(blobs)
    model = blobs.put([save({"w": np.zeros(8, np.float32)})])
    made.log.open(founding.facts(), _opened(founding, app))
    for number in range(1, rounds + 1):
        made.log.write(*_round(made, number, model))
        blobs.sync()
    report = {"metrics": {"loss": 0.5}}
    made.log.write(("run.closed", {"model": model, "named": True, "report": report}))
    return made


def _opened(founding: Founding, app: str) -> dict[str, Any]:
    return {
        "federation": FEDERATION,
        "agreement": founding.agreed,
        "app": {"name": "bench", "digest": app},
        "members": [[m.member.name, m.member.public_key.hex()] for m in founding.members],
        "versions": {"barnraise": "0"},
    }


def _round(made: Made, number: int, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _batch(made, 2 * number - 1, "train")
    yield from _batch(made, 2 * number, "evaluate")
    members = {m.member.name: {"loss": 1 / number, "num-examples": 9} for m in made.members}
    report = {"before": {"loss": 1.0}, "after": {"loss": 1 / number}, "members": members}
    content = made.content(round=float(number))
    seal = {"round": number, "model": model, "content": content, "report": report}
    yield "round.sealed", {**seal, "batches": 2 * number, "open": []}


def _batch(made: Made, number: int, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    order = made.content(order=float(number))
    names = [m.member.name for m in made.members]
    orders = [{"type": kind, "group": "", "content": order, "ttl": 9, "members": names}]
    yield "batch.sent", {"batch": number, "kind": "send", "timeout": None, "orders": orders}
    accepted = {}
    for place, m in enumerate(made.members):
        id_ = order_id(RUN, number, m.member.name, kind, "", order, 0)
        content = made.content(loss=number + place / 100)
        said = statements.reply_payload(FEDERATION, RUN, id_, content, digest(b"{}"))
        statement = statements.sign(m.key, m.member.name, "reply", said)
        delivery = Delivery(id_, m.member.name, content, 1, statement, 0.0)
        yield verdict_fact(delivery, number, "accepted", "", "")
        accepted[id_] = content
    closed = {"batch": number, "reason": "all answered", "accepted": accepted}
    yield "batch.closed", {**closed, "set_aside": {}, "absent": [], "void": False}


def release(made: Made, out: Path) -> None:
    with opened(made.root, None) as source:
        make(source, out, made.publisher)


def measure(folder: Path, rounds: int, members: int, mode: str) -> dict[str, Any]:
    made = federation(folder / mode, rounds, members, mode)
    out = folder / f"{mode}.release"
    started = time.perf_counter()
    release(made, out)
    written = time.perf_counter() - started
    made.journal.close()
    started = time.perf_counter()
    found = verify(out)
    seconds = time.perf_counter() - started
    assert not found.faults, found.faults[:3]
    return {
        "entries": found.entries,
        "signatures": found.signatures,
        "release_s": round(written, 2),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    members = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    with tempfile.TemporaryDirectory(prefix="barnraise-verify-") as folder:
        modes = {mode: measure(Path(folder), rounds, members, mode) for mode in ("sealed", "open")}
    print(json.dumps({"rounds": rounds, "members": members, **modes}))


if __name__ == "__main__":
    main()
