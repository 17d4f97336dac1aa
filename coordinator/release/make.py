"""`barnraise release`: from a run in a directory to a release in another, which anyone can check.

gather, write, publish, then the log's tiles and the signature; the same run gives the same bytes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barnraise.coordinator.beside import written_beside
from barnraise.coordinator.release import auditors, signing
from barnraise.coordinator.release.facts import Facts
from barnraise.coordinator.release.gather import Gathered, facts, gather, needed
from barnraise.coordinator.release.publish import Publisher, published
from barnraise.coordinator.release.source import Source
from barnraise.coordinator.release.stated import statements
from barnraise.coordinator.release.write import (
    Held,
    Told,
    Writer,
    contributions,
    covered,
    manifest,
    nobody,
    put_contributions,
)
from barnraise.protocols import files, notes, release, tiles
from barnraise.protocols.canonical import digest as digest_of
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.release import Manifest


@dataclass(frozen=True)
class Released:
    """What was written. `checkpoint` is the cosigned note."""

    root: Path
    manifest: Manifest
    checkpoint: bytes
    facts: Facts


def make(
    source: Source,
    out: Path,
    publisher: Callable[[Mapping[str, Any]], Publisher],
    *,
    comparison: Mapping[str, Any] | None = None,
    told: Told = nobody,
) -> Released:
    """Write the release of `source` to `out`, which must not be there. `publisher` is given the body of
    `run.opened`.

    Raises D101 where `out` exists, D102 where another command writes it, D104, D106, G102 to G105, L103.
    """
    _check_free(out)
    found = gather(source)
    stated = statements(source, found.stating)
    told_of = facts(source, found, stated.facts, comparison)
    with written_beside(out) as partial:
        made = _written(source, found, told_of, stated.files, partial, told)
        note = published(source, made, publisher(found.telling.opened))
        _put_log(source, note, Writer(partial, 0))
        _sign(source, partial, note)
    return Released(out, made, note, told_of)


def _check_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise BarnraiseError(
            "D101",
            f"{out} is there already",
            "a release is written into a new directory",
            next="give a path where nothing is, or remove what is there",
        )


def _written(
    source: Source,
    found: Gathered,
    told_of: Facts,
    stated: Mapping[str, Held],
    root: Path,
    told: Told,
) -> Manifest:
    held = list(_contributions(source, found, told_of))
    total = sum(_size(data) for _, data in held) + told_of.model_bytes
    writer = Writer(root, total, told)
    for path, one in covered(source, found, told_of, stated):
        writer.put(path, one)
    if told_of.contributions == release.AUDITORS:
        auditors.put(writer, held, told_of.terms.auditors, source.kept)
    else:
        put_contributions(writer, iter(held))
    made = manifest(told_of, writer, signing.signer(source.root))
    (root / release.MANIFEST).write_bytes(made.encode())
    return made


def _contributions(source: Source, found: Gathered, told_of: Facts) -> Iterator[tuple[str, Held]]:
    if told_of.contributions != release.SEALED:
        yield from contributions(source, found)


def _sign(source: Source, root: Path, note: bytes) -> None:
    """A signature is another one each time: what was signed before under this checkpoint is used again."""
    kept = source.kept / f"{digest_of(note)[7:]}.sig"
    if kept.is_file():
        (root / release.SIGNATURE).write_bytes(kept.read_bytes())
    elif (signature := signing.sign(root, source.root)) is not None:
        files.replace(kept, signature)


def _size(held: Held) -> int:
    return len(held) if isinstance(held, bytes) else held.stat().st_size


def _put_log(source: Source, note: bytes, writer: Writer) -> None:
    """The tiles of the checkpoint's size, and the bodies and agreements that its entries need."""
    size = notes.size_in(note)
    log = source.log
    for tile in tiles.tiles_of(size):
        writer.put(f"{release.LOG}{tile.path}", tile.hashes(log.node))
    for bundle in tiles.bundles_of(size):
        entries = (data for _, data in log.entries(bundle.first, bundle.first + bundle.width))
        writer.put(f"{release.LOG}{bundle.path}", tiles.pack_entries(entries))
    for digest in sorted(needed(source, size)):
        held = source.shelf.read(digest)
        assert held is not None
        writer.put(release.LOG_BLOBS + release.blob_path(digest), held)
    writer.put(release.CHECKPOINT, note)
