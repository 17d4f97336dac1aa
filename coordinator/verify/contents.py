"""Whether the contributions are complete, and nothing else. Pure: envelopes come through a callable.

open       every content that the run ordered, accepted and sealed, and every blob that one of them names
auditors   the same contents, encrypted; which blobs they name only who holds a key can read
sealed     none
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from barnraise.coordinator.verify.findings import Check
from barnraise.coordinator.verify.story import Story
from barnraise.protocols import release
from barnraise.protocols.content import ContentError, Envelope
from barnraise.protocols.release import Manifest

Stored = Callable[[str], bytes | None]
"""A contribution's bytes by its digest; None where it is not there."""
MOST = 20  # names of missing or superfluous contents that are told


def check_contributions(manifest: Manifest, story: Story, stored: Stored) -> Check:
    check = Check("contributions", "V117")
    held = {path for path in manifest.files if path.startswith(release.CONTRIBUTIONS)}
    match manifest.contributions:
        case release.SEALED:
            _tell(check, sorted(held), "contributions are sealed, and this is one")
            check.saw("sealed: no member's update is released")
        case release.AUDITORS:
            wanted = {_path(digest) + release.ENCRYPTED for digest in story.contents}
            _check_encrypted(check, held, wanted)
            check.saw(
                f"for auditors: {len(held)} encrypted files, the {len(wanted)} contents among them"
            )
        case _:
            _check_open(check, manifest, story, held, stored)
            check.saw(
                f"open: {len(held)} files, every content of the run and every blob that it names"
            )
    return check


def _check_encrypted(check: Check, held: set[str], wanted: set[str]) -> None:
    _tell(check, sorted(wanted - held), "the run names it, and it is not there")
    odd = sorted(path for path in held if not path.endswith(release.ENCRYPTED))
    _tell(check, odd, "contributions are for auditors, and this is not encrypted")


def _check_open(
    check: Check, manifest: Manifest, story: Story, held: set[str], stored: Stored
) -> None:
    wanted = {_path(digest) for digest in story.contents}
    for digest in story.contents:
        wanted |= {_path(blob) for blob in _blobs(check, digest, stored)}
    _tell(check, sorted(wanted - held), "the run names it, and it is not there")
    _tell(check, sorted(held - wanted), "nothing that the run names is this")
    for path in held & wanted:
        named = release.digest_at(path.removeprefix(release.CONTRIBUTIONS))
        if named != f"sha256:{manifest.files[path][1]}":
            check.wrong(
                path, f"its digest is sha256:{manifest.files[path][1]}, not what its path says"
            )


def _blobs(check: Check, digest: str, stored: Stored) -> Iterator[str]:
    if (data := stored(digest)) is None:
        return
    try:
        yield from Envelope.decode(data).blobs()
    except ContentError as error:
        check.wrong(_path(digest), f"the log names it as a content, and it is {error}")


def _tell(check: Check, paths: list[str], why: str) -> None:
    for path in paths[:MOST]:
        check.wrong(path, why)
    if len(paths) > MOST:
        check.wrong(release.CONTRIBUTIONS, f"{len(paths) - MOST} more: {why}")


def _path(digest: str) -> str:
    return release.CONTRIBUTIONS + release.blob_path(digest)
