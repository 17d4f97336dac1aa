"""A release in a directory, verified: reads what the checks ask for, and asks them in order.

All that is wrong is found, not only the first; a check that stands on another is left out where that one
leaves nothing to stand on. Nothing is written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from barnraise.coordinator.release.bundle import MAX_SMALL, Bundle
from barnraise.coordinator.verify import contents, files, limits, log, policy, told
from barnraise.coordinator.verify.disk import listing
from barnraise.coordinator.verify.findings import Check, Fault
from barnraise.coordinator.verify.log import Entries, Progress
from barnraise.coordinator.verify.policy import Policy
from barnraise.coordinator.verify.seal import check_seal
from barnraise.protocols import release
from barnraise.protocols.agreements import Agreement, AgreementError
from barnraise.protocols.canonical import digest
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.notes import Signed
from barnraise.protocols.release import Manifest, ReleaseError

_PIECE = 1 << 20


@dataclass
class Verified:
    """`checks` in their order; `digest` is the manifest's, `unknowable` is empty where anything is wrong."""

    checks: list[Check] = field(default_factory=list)
    manifest: Manifest | None = None
    digest: str = ""
    entries: int = 0
    root: str = ""
    signatures: int = 0
    cosigned: list[str] = field(default_factory=list)
    unknowable: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[Fault]:
        """All that is wrong, in the order of the checks."""
        return [fault for check in self.checks for fault in check.faults]


def verify(root: Path, trusted: Policy | None = None, progress: Progress | None = None) -> Verified:
    """Verify the release in `root`. Raises V101 where there is none, or where it cannot be read."""
    try:
        if not root.is_dir():
            raise ReleaseError(f"{root} is no directory")
        verification = _Verification(root, trusted, progress or (lambda what, done, total: None))
        return verification.run()
    except (ReleaseError, OSError) as error:
        raise BarnraiseError(
            "V101",
            f"{root} cannot be read as a release",
            str(error),
            next="give the directory of a release, with its manifest.json",
        ) from None


class _Verification:
    """One verification. `_digests` are the SHA-256 (hex) of files that were read whole; in the end, "" of
    those that are too large for what they should be."""

    def __init__(self, root: Path, trusted: Policy | None, progress: Progress) -> None:
        self._bundle, self._trusted, self._progress = Bundle(root), trusted, progress
        self._root = str(root)
        self._found, self._odd = listing(root)
        self._digests: dict[str, str] = {}
        self._done = Verified()

    def run(self) -> Verified:
        manifest = self._manifest()
        if manifest is None:
            return self._done
        self._done.manifest = manifest
        opened, signed = log.open_log(self._read, manifest.log, self._found)
        self._files(manifest, signed)
        self._hash({path: held for path, (held, _) in manifest.files.items()})
        self._add(files.check_digests(self._digests, manifest))
        self._add(opened)
        if signed is None:
            return self._done
        entries = self._entries(manifest, signed)
        members = self._members(entries)
        self._add(policy.check_pins(self._trusted, manifest, members, set(entries.story.signed)))
        demanded = self._trusted.quorum if self._trusted else 0
        witnesses, self._done.cosigned = log.check_witnesses(signed, members, demanded)
        self._add(witnesses)
        self._told(manifest, entries)
        self._seal(manifest)
        if not self._done.faults:
            stated = bool(entries.story.data)
            self._done.unknowable = limits.unknowable(
                manifest.contributions, len(members), stated, self._trusted
            )
        return self._done

    def _add(self, check: Check) -> None:
        self._done.checks.append(check)

    def _read(self, path: str) -> bytes | None:
        """A small file's bytes; None for what is no file of its own, and for what is too large."""
        if self._found.get(path, MAX_SMALL + 1) > MAX_SMALL:
            return None
        with self._open(path) as file:
            return file.read(MAX_SMALL)

    def _open(self, path: str) -> BufferedReader:
        """A file of the listing, which holds no link; nor is one followed that came since."""
        flags = os.O_RDONLY | os.O_NOFOLLOW
        return open(os.open(f"{self._root}/{path}", flags), "rb")  # noqa: PTH123

    # --- files ---------------------------------------------------------------------------------------

    def _manifest(self) -> Manifest | None:
        """Raises `ReleaseError` where there is no manifest at all."""
        check = Check("manifest", "V103")
        self._add(check)
        data = self._bundle.manifest_bytes
        self._done.digest = digest(data)
        try:
            manifest = Manifest.decode(data)
        except ReleaseError as error:
            check.wrong(release.MANIFEST, f"{error}; nothing behind it was checked")
            return None
        mode = manifest.contributions
        check.saw(f"{self._done.digest}: run {manifest.run} of {manifest.federation}, {mode}")
        return manifest

    def _files(self, manifest: Manifest, signed: Signed | None) -> None:
        check = files.check_files(
            self._found, manifest, signed.checkpoint.size if signed is not None else None
        )
        for path, why in self._odd:
            check.wrong(path, why)
        self._add(check)

    def _hash(self, sizes: Mapping[str, int]) -> None:
        """Hash the files that are there, in pieces; one with more bytes than `sizes` has of it is passed
        over, since reading it could take for ever."""
        paths = [
            path
            for path, most in sizes.items()
            if path not in self._digests and self._found.get(path, most + 1) <= most
        ]
        total, done = sum(self._found[path] for path in paths), 0
        for path in paths:
            state = hashlib.sha256()
            with self._open(path) as file:
                while piece := file.read(_PIECE):
                    state.update(piece)
                    done += len(piece)
                    self._progress("hashing", done, total)
            self._digests[path] = state.hexdigest()

    # --- the log -------------------------------------------------------------------------------------

    def _entries(self, manifest: Manifest, signed: Signed) -> Entries:
        found = log.read_entries(
            self._read, signed.checkpoint, manifest.run, self._bundle.log_blob, self._progress
        )
        self._add(found.tiles)
        self._add(found.rules)
        self._add(log.check_blobs(self._found, self._read, found.story.needed))
        done = self._done
        done.entries, done.root = signed.checkpoint.size, signed.checkpoint.root.hex()
        done.signatures = found.held.signatures
        return found

    def _members(self, entries: Entries) -> dict[str, str]:
        """Whose keys bind the release: the members of its agreement, or else those of its run."""
        story = entries.story
        try:
            held = self._bundle.log_blob(story.agreement)
            return dict(Agreement.decode(held).members) if held is not None else story.members
        except AgreementError:
            return story.members

    # --- what the log says of the files --------------------------------------------------------------

    def _told(self, manifest: Manifest, entries: Entries) -> None:
        story, read = entries.story, self._read
        rules = entries.held
        self._add(told.check_published(manifest, self._done.digest, story, rules))
        self._add(told.check_agreement(manifest, story, read))
        self._add(told.check_members(manifest, story, read))
        self._add(told.check_code(manifest, story, read))
        self._add(told.check_model(manifest, story))
        self._add(told.check_metrics(entries.telling, read))
        self._add(contents.check_contributions(manifest, story, self._contribution))
        self._add(told.check_data(manifest, story, read))

    def _contribution(self, digest: str) -> bytes | None:
        return self._read(release.CONTRIBUTIONS + release.blob_path(digest))

    def _seal(self, manifest: Manifest) -> None:
        if manifest.signer:
            others = [path for path in self._found if path != release.SIGNATURE]
            self._hash({path: MAX_SMALL for path in others if path not in manifest.files})
            self._digests = dict.fromkeys(others, "") | self._digests
        self._add(check_seal(manifest, self._read(release.SIGNATURE), self._digests))
