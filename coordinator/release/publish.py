"""A release is published when the log says so and its witnesses have cosigned that.

    published   `release.published`, then a checkpoint over it with a quorum's cosignatures

Kept under `releases/<run>/`, so that the same release has the same checkpoint again. A simulation's members
cosign here, with keys that follow from its secret; a federation's are asked by whoever serves it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from barnraise.coordinator import directory
from barnraise.coordinator.founding import simulated_log_key
from barnraise.coordinator.ledger import utc
from barnraise.coordinator.local import LocalMember
from barnraise.coordinator.log import Log
from barnraise.coordinator.release.source import Source
from barnraise.coordinator.runlog import RunLog
from barnraise.coordinator.witnesses import cosign_all
from barnraise.protocols import files
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.release import Manifest

PUBLISHED = "published.json"
Publisher = Callable[[Manifest], bytes]
"""Puts the release on record, and returns the cosigned checkpoint over that. Raises G104, F105."""


def body_of(manifest: Manifest) -> dict[str, str]:
    """`release.published`, besides its run."""
    return {
        "manifest": manifest.digest,
        "model": manifest.model,
        "contributions": manifest.contributions,
    }


def published(source: Source, manifest: Manifest, publish: Publisher) -> bytes:
    """The checkpoint of this very release: the kept one, or a new one, which is kept."""
    path = source.kept / PUBLISHED
    if path.is_file():
        held = json.loads(path.read_bytes())
        if held.get("manifest") == manifest.digest:
            return str(held["checkpoint"]).encode()
    note = publish(manifest)
    said = {"manifest": manifest.digest, "checkpoint": note.decode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, json.dumps(said, indent=1).encode())
    return note


def in_simulation(source: Source, opened: Mapping[str, Any]) -> Publisher:
    """Whoever holds a simulation's directory stands for its coordinator and its members."""

    def publish(manifest: Manifest) -> bytes:
        with directory.opened(source.root) as place:
            secret = (place.root / "secret").read_bytes()
            members = [LocalMember.simulated(secret, name, {}) for name, _ in opened["members"]]
            if [[m.member.name, m.member.public_key.hex()] for m in members] != opened["members"]:
                raise files.damaged(
                    f"{place.root / 'secret'} is damaged", "the members' keys do not follow from it"
                )
            log = RunLog(source.run, place.journal, place.blobs, utc)
            if not on_record(log, manifest.digest):
                log.write(("release.published", body_of(manifest)))
            key = simulated_log_key(secret)
            with closing(Log(place.journal.path, key)) as signing:
                cosign_all(signing, members)
                note = signing.witnessed()
        assert note is not None
        return note

    return publish


def on_record(log: RunLog, manifest: str) -> bool:
    """Whether this manifest was published before."""
    return (
        log.last("release.published", where=lambda body: body["manifest"] == manifest) is not None
    )


def unwitnessed(federation: str, size: int, have: list[str], needed: int) -> BarnraiseError:
    return BarnraiseError(
        "G104",
        f"the release of {federation} is not cosigned by a quorum of its members",
        f"{needed} cosignatures are needed over {size} entries; have: {', '.join(have) or 'none'}",
        "release.published is in the log, which nobody can take back; no directory was written",
        "the same command again, when more members' nodes are up: `barnraise members`",
    )
