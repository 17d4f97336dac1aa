"""A release's log: its checkpoint, its tiles, its rules, its witnesses. Files come through `read`, as bytes.

open_log           the checkpoint that the log's key signed, and the lines beside its signature
read_entries       every entry, through tree and rules, and what they tell of the run
check_witnesses    each other line is a member's cosignature, and a quorum of them is there
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from barnraise.coordinator.verify.findings import Check, Read
from barnraise.coordinator.verify.signatures import Signatures
from barnraise.coordinator.verify.story import Story
from barnraise.coordinator.verify.tree import Regrown
from barnraise.protocols import merkle, notes, release, tiles
from barnraise.protocols.canonical import digest
from barnraise.protocols.log_rules import Rules
from barnraise.protocols.notes import Checkpoint, NoteError, Signed
from barnraise.protocols.telling import Telling
from barnraise.protocols.witnessing import quorum

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
_BUNDLES = f"{release.LOG}tile/entries/"
MOST = 50  # entries against which something is told


def open_log(read: Read, key: str, found: Mapping[str, int]) -> tuple[Check, Signed | None]:
    """The signed checkpoint, if it is one by the log with this verifier key, and the release has tiles for
    as many entries as it claims. `found` maps paths to bytes."""
    check = Check("checkpoint", "V107")
    note = read(release.CHECKPOINT)
    try:
        if note is None:
            raise NoteError("not there, or too large to be read")
        signed = notes.open_checkpoint(note, key)
    except (NoteError, ValueError) as error:
        check.wrong(release.CHECKPOINT, str(error))
        return check, None
    held = signed.checkpoint
    bundles = sum(path.startswith(_BUNDLES) for path in found)
    if held.size > bundles * tiles.WIDTH:
        why = f"it is of {held.size} entries, of which {bundles} tiles cannot hold more than"
        check.wrong(release.CHECKPOINT, f"{why} {bundles * tiles.WIDTH}")
        return check, None
    check.saw(
        f"{held.size} entries of {held.origin}, root {held.root.hex()}, signed by the log's key"
    )
    return check, signed


@dataclass
class Entries:
    """What reading the entries gave. `telling` is None where the run cannot be told."""

    tiles: Check
    rules: Check
    held: Rules
    story: Story
    telling: Telling | None


def read_entries(
    read: Read,
    checkpoint: Checkpoint,
    run: str,
    blob: Callable[[str], bytes | None],
    progress: Progress,
) -> Entries:
    """Read every entry once. The tree that they give is held against all tiles of hashes and the root."""
    signatures = Signatures()
    rules = Rules(blob, signatures.check)
    found = Entries(Check("tiles", "V108"), Check("rules", "V109"), rules, Story(run), Telling(run))
    tree = Regrown()
    for data in _entries(read, checkpoint.size, found.tiles):
        signatures.index = tree.size
        _see(found, tree.size, data)
        for tile, hashes in tree.append(merkle.leaf_hash(data)):
            _compare(found.tiles, read, tile.path, hashes)
        if tree.size % 1000 == 0:
            progress("entries", tree.size, checkpoint.size)
    for tile, hashes in tree.rest():
        _compare(found.tiles, read, tile.path, hashes)
    signatures.finish()
    for index, why in sorted(signatures.faults)[:MOST]:
        found.rules.wrong(f"entry {index}", why)
    if tree.root() != checkpoint.root:
        found.tiles.wrong(release.LOG, f"its entries give the root {tree.root().hex()}")
    found.tiles.saw(f"{tree.size} entries give every tile and the checkpoint's root")
    found.rules.saw(
        f"{tree.size} entries are canonical, known and in sequence; "
        f"{rules.signatures} statements are signed by enrolled keys and bound"
    )
    return found


def _entries(read: Read, size: int, check: Check) -> Iterator[bytes]:
    """The entries up to the first tile that is none."""
    for bundle in tiles.bundles_of(size):
        path = f"{release.LOG}{bundle.path}"
        data = read(path)
        try:
            if data is None:
                raise tiles.TileError("it is not there")
            yield from tiles.unpack_entries(data, bundle.width)
        except tiles.TileError as error:
            check.wrong(path, f"{error}; nothing behind it was checked")
            return


def _see(found: Entries, index: int, data: bytes) -> None:
    faults = found.held.see(index, data)
    if len(found.rules.faults) < MOST:
        for why in faults:
            found.rules.wrong(f"entry {index}", why)
    if faults or (entry := found.held.entry) is None:
        return
    found.story.see(entry, found.held.body)
    try:
        if found.telling is not None:
            found.telling.see(entry)
    except (KeyError, TypeError, ValueError, AttributeError):
        found.telling = None


def _compare(check: Check, read: Read, path: str, hashes: bytes) -> None:
    path = f"{release.LOG}{path}"
    if read(path) != hashes:
        check.wrong(path, "it is not the tile that the entries give")


def check_blobs(found: Mapping[str, int], read: Read, needed: set[str]) -> Check:
    """log/blobs holds exactly what entries cannot be read without. `found` maps paths to bytes."""
    check = Check("log's blobs", "V110")
    wanted = {release.LOG_BLOBS + release.blob_path(name): name for name in needed}
    held = {path for path in found if path.startswith(release.LOG_BLOBS)}
    for path, name in sorted(wanted.items()):
        if path not in held:
            check.wrong(path, "an entry names it, and it is not there")
        elif (data := read(path)) is None or digest(data) != name:
            check.wrong(path, "its bytes have another digest")
    for path in sorted(held - wanted.keys()):
        check.wrong(path, "no entry needs it")
    check.saw(f"{len(wanted)} agreements, charters and large bodies that entries name are there")
    return check


def check_witnesses(
    signed: Signed, members: Mapping[str, str], demanded: int = 0
) -> tuple[Check, list[str]]:
    """Each line besides the log's is a cosignature by one of the members (name → key in hex), no member
    has two, and a quorum of them is there; `demanded` may ask for more. Also who cosigned."""
    check, names = Check("witnesses", "V111"), list[str]()
    for line in signed.lines:
        name = notes.line_name(line)
        if name not in members:
            check.wrong(release.CHECKPOINT, f"a signature line by {name}, who is no member")
            continue
        try:
            key = bytes.fromhex(members[name])
            notes.check_cosignature(line, name, key, signed.checkpoint)
            if name in names:
                raise NoteError(f"{name} has cosigned it twice")
            names.append(name)
        except (NoteError, ValueError) as error:
            check.wrong(release.CHECKPOINT, str(error))
    needed = max(demanded, quorum(len(members)) if members else 1)
    if len(names) < needed:
        who = ", ".join(sorted(names)) or "nobody"
        check.wrong(
            release.CHECKPOINT, f"no quorum: cosigned by {who}; {needed} of {len(members)} must"
        )
    check.saw(f"cosigned by {', '.join(sorted(names))}; {needed} of {len(members)} must")
    if len(members) < 4:
        check.saw(
            f"below 4 members (here {len(members)}) one that colludes with the coordinator defeats this"
        )
    return check, sorted(names)
