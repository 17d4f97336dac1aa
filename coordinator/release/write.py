"""All files of a release but those of its log and its signature, and the manifest that binds them.

Files are written beside the place where the release will be, and hashed while they are; nothing is there
under the release's own name before it is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from barnraise.coordinator.release.documents import DOCUMENTS
from barnraise.coordinator.release.facts import Facts
from barnraise.coordinator.release.gather import Gathered
from barnraise.coordinator.release.source import Source
from barnraise.protocols import files, notes, release, telling
from barnraise.protocols.apps import code_kept
from barnraise.protocols.canonical import canonical
from barnraise.protocols.content import Envelope
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.release import Manifest

Told = Callable[[int, int], None]
"""Bytes written, of how many."""
Held = bytes | Path
_CHUNK = 1 << 20


def nobody(done: int, total: int) -> None:
    """Tells nobody."""


@dataclass
class Writer:
    """Writes files below `root`; `files` is what the manifest says of them."""

    root: Path
    total: int
    told: Told = nobody
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    done: int = 0

    def put(self, path: str, held: Held) -> str:
        """Write one file; returns its SHA-256 in hex."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        sha, size = hashlib.sha256(), 0
        with target.open("xb") as file:
            for piece in _pieces(held):
                sha.update(piece)
                file.write(piece)
                size += len(piece)
                self.done += len(piece)
                self.told(self.done, max(self.total, self.done))
        if release.is_covered(path):
            self.files[path] = (size, sha.hexdigest())
        return sha.hexdigest()


def _pieces(held: Held) -> Iterator[bytes]:
    if isinstance(held, bytes):
        yield held
        return
    with held.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


def covered(
    source: Source, found: Gathered, facts: Facts, data: Mapping[str, Held]
) -> Iterator[tuple[str, Held]]:
    """Every file that the manifest binds, but for contributions: (path, bytes or where they lie).

    `data` are the files of the members' data statements, by path.
    """
    yield release.MODEL, source.shelf.path(facts.model)
    if found.agreement is not None:
        yield release.AGREEMENT, found.agreement.encode()
        yield release.CHARTER, found.charter_text.encode()
    for name, statement in sorted(found.signed.items()):
        yield f"{release.SIGNATURES}{name}.json", canonical(statement)
    for member in facts.members:
        yield f"{release.MEMBERS}{member.name}.json", canonical(_member(member.name, facts))
    for path, held in sorted(code_kept(source.app).items()):
        yield f"{release.CODE}{path}", held
    yield release.VERSIONS, canonical(dict(facts.versions))
    yield release.METRICS, canonical(telling.metrics(found.telling))
    if facts.comparison is not None:
        yield release.COMPARISON, canonical(facts.comparison)
    yield from sorted(data.items())
    for document in DOCUMENTS:
        yield from document(facts).items()


def _member(name: str, facts: Facts) -> dict[str, Any]:
    member = next(one for one in facts.members if one.name == name)
    witness = notes.cosigner_key(name, bytes.fromhex(member.key))
    return {
        "member": name,
        "key": member.key,
        "organisation": member.organisation,
        "node_id": member.node_id,
        "witness": witness,
    }


def contributions(source: Source, found: Gathered) -> Iterator[tuple[str, Held]]:
    """(digest, bytes or file) of every content that the run's entries name, and of its blobs.

    Raises G103 for one that is not kept any more.
    """
    seen: set[str] = set()
    for content in found.contents:
        envelope = source.shelf.envelope(content)
        if envelope is None:
            raise _gone(source, content)
        yield content, envelope
        for blob in Envelope.decode(envelope).blobs():
            if blob in seen:
                continue
            seen.add(blob)
            if not (path := source.shelf.path(blob)).is_file():
                raise _gone(source, blob)
            yield blob, path


def _gone(source: Source, digest: str) -> BarnraiseError:
    return BarnraiseError(
        "G103",
        "the run's contributions are not all here, and its charter wants them released",
        f"{digest} is not in the store of {source.root}",
        "nothing was released",
        "restore the directory from a backup, or agree on contributions that stay sealed",
    )


def put_contributions(writer: Writer, held: Iterator[tuple[str, Held]]) -> None:
    """Write each under its digest. Raises D106 for one that is damaged."""
    for digest, data in held:
        written = writer.put(release.CONTRIBUTIONS + release.blob_path(digest), data)
        if f"sha256:{written}" != digest:
            raise files.damaged("the store is damaged", f"{digest} holds other bytes")


def manifest(facts: Facts, writer: Writer, signer: str) -> Manifest:
    agreement = facts.agreement.digest if facts.agreement is not None else ""
    return Manifest(
        facts.federation,
        facts.log,
        facts.run,
        agreement,
        facts.model,
        facts.contributions,
        signer,
        dict(sorted(writer.files.items())),
    )
