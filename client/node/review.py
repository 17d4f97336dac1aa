"""What an admin looks at before approving: the charter, the members, the code, and what is different.

Pure but for reading the proposals, which were held against their digests. Nothing is imported or run.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from barnraise.client.node import consent
from barnraise.client.node.consent import Proposal
from barnraise.protocols.agreements import Work
from barnraise.protocols.errors import BarnraiseError

READERS = {
    "open": "the release will hold every member's updates, for anyone to read; "
    "updates can leak the data that they were made from",
    "auditors": "the release will hold every member's updates, for the auditors whom the charter names; "
    "updates can leak the data that they were made from",
}
SHOWN = 1 << 20  # bytes of a file beyond which it is named and not shown


@dataclass(frozen=True)
class Review:
    """`before` is the agreement last approved that this one is held against, or "". `changes` maps each
    path to added, changed, removed or same; `diff` is unified, over the charter and the code."""

    proposal: Proposal
    approved: bool
    before: str
    changes: Mapping[str, str]
    notes: tuple[str, ...]
    diff: str = field(repr=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever signs should know of this charter."""
        said = READERS.get(Work.of(self.proposal.text).release.contributions or "")
        return (said,) if said else ()

    def as_dict(self) -> dict[str, Any]:
        one = self.proposal
        sizes = {path: (held, size) for path, held, size in one.files}
        return {
            "ok": True,
            "agreement": one.digest,
            "name": one.name,
            "adopted": one.adopted,
            "federation": one.agreement.federation,
            "approved": self.approved,
            "app": one.agreement.app,
            "charter": one.agreement.charter,
            "charter_text": one.text,
            "members": dict(one.agreement.members),
            "quorum": one.agreement.quorum,
            "code": str(one.code),
            "files": [
                {
                    "path": path,
                    "change": change,
                    "digest": sizes.get(path, ("", 0))[0],
                    "bytes": sizes.get(path, ("", 0))[1],
                }
                for path, change in self.changes.items()
            ],
            "before": self.before,
            "differs": list(self.notes),
            "warnings": list(self.warnings),
            "diff": self.diff,
        }


def review(home: Path, proposal: Proposal) -> Review:
    """Hold a proposal against what was approved before it, if anything was and is still here."""
    approved = consent.consents(home)
    before = _before(home, proposal, approved)
    old = {path: held for path, held, _ in before.files} if before else {}
    new = {path: held for path, held, _ in proposal.files}
    changes = {path: _change(path, old, new) for path in sorted(old | new)}
    diff = _diff(before, proposal, [p for p, c in changes.items() if before and c != "same"])
    notes = _notes(before, proposal) if before else ()
    return Review(
        proposal,
        proposal.digest in approved,
        before.digest if before else "",
        changes,
        notes,
        diff,
    )


def _before(
    home: Path, proposal: Proposal, approved: Mapping[str, consent.Consent]
) -> Proposal | None:
    """The newest other approved one: of the same name, if there is one."""
    found = []
    for one in approved.values():
        if one.agreement == proposal.digest:
            continue
        try:
            held = Proposal.read(consent.folder_of(home, one.agreement))
        except BarnraiseError:
            continue
        found.append((held.name == proposal.name, one.at, held))
    return max(found, key=lambda f: f[:2])[2] if found else None


def _change(path: str, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    if path not in old:
        return "added"
    if path not in new:
        return "removed"
    return "same" if old[path] == new[path] else "changed"


def _notes(before: Proposal, proposal: Proposal) -> tuple[str, ...]:
    """What of the agreement itself differs, a sentence each."""
    old, new, said = before.agreement, proposal.agreement, []
    for name in sorted(old.members.keys() | new.members.keys()):
        if name not in old.members:
            said.append(f"{name} has become a member")
        elif name not in new.members:
            said.append(f"{name} is no member any more")
        elif old.members[name] != new.members[name]:
            said.append(f"{name} has another key")
    if old.quorum != new.quorum:
        said.append(f"{new.quorum} members must sign; it was {old.quorum}")
    return tuple(said)


def _diff(before: Proposal | None, proposal: Proposal, paths: list[str]) -> str:
    if before is None:
        return ""
    texts = [_unified("charter.toml", before.folder, proposal.folder)]
    texts += [_unified(path, before.code, proposal.code) for path in paths]
    return "".join(texts)


def _unified(path: str, old: Path, new: Path) -> str:
    sides = [_lines(old / path), _lines(new / path)]
    if any(side is None for side in sides):
        return f"{path}: not text, or larger than {SHOWN} bytes\n"
    lines = difflib.unified_diff(sides[0] or [], sides[1] or [], f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _lines(path: Path) -> list[str] | None:
    """None for what is no text. A file that is not there has no lines."""
    if not path.is_file():
        return []
    if path.stat().st_size > SHOWN:
        return None
    try:
        return path.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError:
        return None
