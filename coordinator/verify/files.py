"""Which files a release must have, and may. Pure: a listing and a manifest in, faults out.

Nothing may lie in a release that its manifest, its log or its own signature does not bind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from barnraise.coordinator.verify.findings import Check
from barnraise.protocols import release, tiles
from barnraise.protocols.release import Manifest

DOCUMENTS = ("README.md", "report.html", "sbom.spdx.json", "mof.yml", "eu-summary.md")
"""What a release says about itself in prose and for machines; bound, and not held against anything."""
_NAMES = {
    release.MODEL,
    release.CHARTER,
    release.AGREEMENT,
    release.METRICS,
    release.COMPARISON,
    release.VERSIONS,
    *DOCUMENTS,
}
_KNOWN = re.compile(
    r"(signatures|members)/[^/]+\.json"
    r"|code/app/.+|code/processing/[^/]+/.+"
    r"|data/[^/]+\.(croissant|statement)\.json"
    r"|contributions/sha256/[0-9a-f]{2}/[0-9a-f]{62}(\.age)?"
)


def check_files(found: Mapping[str, int], manifest: Manifest, size: int | None) -> Check:
    """`found` maps the path of each file to its bytes; `size` is the log's, None where it is not known."""
    check = Check("files", "V104")
    expected: dict[str, int | None] = {path: held for path, (held, _) in manifest.files.items()}
    expected |= dict.fromkeys(_unbound(manifest))
    if size is not None:
        expected |= dict(log_files(size))
    for path in expected:
        if release.is_covered(path) and path not in _NAMES and not _KNOWN.fullmatch(path):
            check.wrong(path, "the manifest covers it, and the format has no such file")
        if path not in found:
            check.wrong(path, "it is missing")
        elif (held := expected[path]) is not None and found[path] != held:
            check.wrong(path, f"it has {found[path]} bytes, not {held}")
    for path in sorted(found.keys() - expected.keys()):
        in_log = path.startswith(release.LOG)
        if not path.startswith(release.LOG_BLOBS) and not (in_log and size is None):
            bound = "the log's size" if in_log else "the manifest"
            check.wrong(path, f"an unknown file: {bound} does not bind it")
    check.saw(f"{len(found)} files, {sum(found.values())} bytes, none unknown and none missing")
    return check


def _unbound(manifest: Manifest) -> Iterator[str]:
    yield from (release.MANIFEST, release.CHECKPOINT)
    if manifest.signer:
        yield release.SIGNATURE


def log_files(size: int) -> Iterator[tuple[str, int | None]]:
    """The tiles of a log of this size, and their bytes where these follow from it."""
    for tile in tiles.tiles_of(size):
        yield f"{release.LOG}{tile.path}", 32 * tile.width
    for bundle in tiles.bundles_of(size):
        yield f"{release.LOG}{bundle.path}", None


def check_digests(digests: Mapping[str, str], manifest: Manifest) -> Check:
    """`digests` maps the path of each file that was read to its SHA-256 in hex."""
    check = Check("digests", "V105")
    for path, (_, held) in manifest.files.items():
        if path in digests and digests[path] != held:
            check.wrong(path, f"its SHA-256 is {digests[path]}, the manifest says {held}")
    check.saw(f"{len(manifest.files)} files have the SHA-256 that the manifest names")
    return check
