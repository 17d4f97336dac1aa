"""`node review` for a person, and which proposal or run a person means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from barnraise.cli import site, words

if TYPE_CHECKING:
    from barnraise.client.node.consent import Proposal
    from barnraise.client.node.review import Review

_HELD = re.compile(r"the run ([0-9a-z-]+) waits for this site's approval")


def chosen(home: Path, name: str | None) -> Proposal:
    """The proposal that is named; without a name the newest that is not approved, else the newest.

    Raises P102, P103.
    """
    from barnraise.client.node import consent

    if name is not None:
        return consent.named(home, _agreement_of(home, name) or name)
    held = consent.proposals(home)
    approved = consent.consents(home)
    found = [one for one in held if one.digest not in approved] or held
    if not found:
        return consent.named(home, "")
    return found[-1]


def _agreement_of(home: Path, run: str) -> str | None:
    """The agreement of the run at which the node is, or is refused."""
    told = site.tell(home, "status") or {}
    return str(told["agreement"]) if told.get("run") == run and told.get("agreement") else None


def waiting_run(home: Path, name: str) -> str | None:
    """The run of this name, if the node waits for its approval."""
    told = site.tell(home, "status") or {}
    found = _HELD.search(str(told.get("held", "")))
    return name if found is not None and found[1] == name else None


def lines(one: Review) -> list[str]:
    """Charter, members, files, and what differs."""
    proposal = one.proposal
    agreement = proposal.agreement
    rows = [
        f"{proposal.name} · {agreement.federation} · asked for since {proposal.adopted}",
        f"agreement {proposal.digest}" + (" (approved)" if one.approved else ""),
        f"app       {agreement.app}",
        f"charter   {agreement.charter}",
        f"members   {', '.join(agreement.members)}; {agreement.quorum} must sign",
        "",
        *(f"  {line}" for line in proposal.text.splitlines()),
        "",
        f"code in {proposal.code}",
    ]
    sizes = {path: size for path, _, size in proposal.files}
    for path, change in one.changes.items():
        size = words.size(sizes[path]) if path in sizes else ""
        rows.append(f"  {path} {size}" + (f" ({change})" if one.before else ""))
    if one.before:
        rows += ["", f"differs from {one.before[:19]}…, which was approved:"]
        rows += [f"  {note}" for note in one.notes]
        rows += [f"  {line}" for line in one.diff.splitlines()] or ["  in nothing"]
    rows += [line for warning in one.warnings for line in ("", f"mind: {warning}")]
    if not one.approved:
        rows += ["", f"next: barnraise node approve {proposal.digest[:19]}"]
    return rows
