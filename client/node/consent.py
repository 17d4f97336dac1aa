"""What the coordinator asks this site to agree to, and what the site's admin approved.

    N/proposals/<agreement>/   agreement.json  charter.toml  proposal.json  app/…   read, never run
    N/approved/<agreement>.json    the admin's approval, with the statement that the identity key signed
    N/approved/<run>.run           a run that was approved by itself, where the policy wants that
    N/paused.json                  since when, and why, somebody paused the site

Whatever is here is held against its digest before anything is made of it. Commands and the daemon both
use these files; each is written in one rename. Imports nothing of an app, and opens no connection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barnraise.client.keys import Membership, NodeKeys, not_enrolled
from barnraise.client.node.approval import Approval
from barnraise.protocols import files, statements
from barnraise.protocols.agreements import Agreement, AgreementError, Work
from barnraise.protocols.apps import app_digest, code_kept
from barnraise.protocols.canonical import digest, is_digest
from barnraise.protocols.errors import BarnraiseError

PROPOSALS, APPROVED, PAUSED = "proposals", "approved", "paused.json"
APP, CHARTER_TEXT = "app", "charter.toml"
_RUN = re.compile(r"[0-9a-z][0-9a-z-]{0,62}")


@dataclass(frozen=True)
class Proposal:
    """What was asked for, whole and held against its digests; `files` is (path, digest, size)."""

    folder: Path
    agreement: Agreement
    name: str
    adopted: str
    files: tuple[tuple[str, str, int], ...]

    @property
    def digest(self) -> str:
        return self.agreement.digest

    @property
    def code(self) -> Path:
        return self.folder / APP

    @property
    def text(self) -> str:
        return (self.folder / CHARTER_TEXT).read_text(encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Proposal:
        """P103 for what is not what `material` fetched, whatever happened to it since."""
        try:
            agreement = Agreement.decode((folder / "agreement.json").read_bytes())
            said = json.loads((folder / "proposal.json").read_bytes())
            listed = tuple((str(p), str(d), int(s)) for p, d, s in said["files"])
            found = cls(folder, agreement, str(said["name"]), str(said["adopted"]), listed)
            found._check()
            return found
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BarnraiseError(
                "P103",
                f"what lies in {folder} is not what was proposed",
                str(error),
                "nothing of it was run",
                next="remove the directory: a node that is running fetches it again",
            ) from None

    def _check(self) -> None:
        if self.digest != _digest_of(self.folder):
            raise ValueError(f"its agreement is {self.digest}")
        if (found := digest((self.folder / CHARTER_TEXT).read_bytes())) != self.agreement.charter:
            raise ValueError(f"its charter is {found}\nagreed is {self.agreement.charter}")
        if (found := app_digest(code_kept(self.code))) != self.agreement.app:
            raise ValueError(f"its code is {found}\nagreed is {self.agreement.app}")


@dataclass(frozen=True)
class Consent:
    """An approval: of which agreement, when (seconds since 1970), and the statement that says so."""

    agreement: str
    at: float
    statement: Mapping[str, Any]


def folder_of(home: Path, agreement: str) -> Path:
    return home / PROPOSALS / agreement.removeprefix("sha256:")


def _digest_of(folder: Path) -> str:
    return f"sha256:{folder.name}"


def proposals(home: Path) -> list[Proposal]:
    """Everything that was fetched and is whole, oldest first; what is damaged is left out."""
    found = []
    for folder in _folders(home):
        try:
            found.append(Proposal.read(folder))
        except BarnraiseError:
            continue
    return sorted(found, key=lambda one: (one.adopted, one.digest))


def _folders(home: Path) -> list[Path]:
    root = home / PROPOSALS
    return [p for p in root.iterdir() if is_digest(_digest_of(p))] if root.is_dir() else []


def named(home: Path, name: str) -> Proposal:
    """The proposal that a person names: by its agreement's digest or its beginning, by its app's or its
    charter's, or by its name. Raises P102, P103."""
    wanted = name.removeprefix("sha256:")
    folders = {p.name: p for p in _folders(home)}
    begins = [p for hex_, p in folders.items() if len(wanted) >= 4 and hex_.startswith(wanted)]
    if len(begins) == 1:
        return Proposal.read(begins[0])
    held = proposals(home)
    found = [p for p in held if name in (p.name, p.agreement.app, p.agreement.charter)]
    if not found:
        raise _unknown(home, name, held)
    return found[-1]


def _unknown(home: Path, name: str, held: Sequence[Proposal]) -> BarnraiseError:
    lines = [f"{p.name}: {p.digest}" for p in held]
    return BarnraiseError(
        "P102",
        f"nothing that this site was asked to approve is called {name!r}"
        if name
        else "this site was asked to approve nothing",
        "\n".join(lines) or "nothing has been proposed, or the site's node has not run since",
        next="barnraise node status" if lines else "barnraise node up",
    )


# --- approving ----------------------------------------------------------------------------------------


def membership_of(home: Path) -> Membership:
    membership = Membership.read(home)
    if membership is None:
        raise not_enrolled(home)
    return membership


def check_ours(agreement: Agreement, membership: Membership, key: bytes) -> None:
    """`AgreementError` unless the agreement is of this node's federation and log, and has its key."""
    if (agreement.federation, agreement.log) != (membership.federation, membership.log_key):
        raise AgreementError("it is of another federation or log than this node's")
    if agreement.member(membership.member).public_key != key:
        raise AgreementError(f"it has another key for {membership.member} than this node's")


def approve(home: Path, proposal: Proposal, now: float) -> Consent:
    """Sign the agreement with the identity key; from then on its code, and no other, may run here.

    Raises P104 for one that this node cannot sign, D104, D105, N115, N116.
    """
    keys, membership = NodeKeys.open(home), membership_of(home)
    try:
        check_ours(proposal.agreement, membership, keys.public_key)
        Work.of(proposal.text)
    except AgreementError as error:
        raise BarnraiseError(
            "P104",
            f"the agreement {proposal.digest} is none that this site can sign",
            str(error),
            "nothing was signed",
            next="ask the federation's operator",
        ) from None
    payload = proposal.agreement.payload()
    statement = statements.sign(keys.identity, membership.member, "charter", payload)
    document = {"agreement": proposal.digest, "at": now, "statement": statement}
    _write(home, f"{proposal.digest[7:]}.json", document)
    return Consent(proposal.digest, now, statement)


def approve_run(home: Path, run: str, now: float) -> None:
    """Approve a run by itself; P102 for what cannot be a run's name."""
    if _RUN.fullmatch(run) is None:
        raise _unknown(home, run, proposals(home))
    _write(home, f"{run}.run", {"run": run, "at": now})


def _write(home: Path, name: str, document: Mapping[str, Any]) -> None:
    with files.disk_errors(home):
        (home / APPROVED).mkdir(mode=0o700, exist_ok=True)
        files.replace(home / APPROVED / name, json.dumps(document, indent=1).encode())


def consents(home: Path) -> dict[str, Consent]:
    """What was approved, by agreement. A file that is none counts as no approval."""
    found = {}
    for path in sorted((home / APPROVED).glob("*.json")):
        try:
            said = json.loads(path.read_bytes())
            consent = Consent(str(said["agreement"]), float(said["at"]), dict(said["statement"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if path.name == f"{consent.agreement[7:]}.json":
            found[consent.agreement] = consent
    return found


def runs(home: Path) -> frozenset[str]:
    """The runs that were approved by themselves."""
    return frozenset(path.stem for path in (home / APPROVED).glob("*.run"))


def approval_for(
    home: Path, agreement: str, run: str, run_id: int, node_config: Mapping[str, Any]
) -> tuple[Approval, str]:
    """What the daemon may run of this run, which was opened under this agreement, and its charter's digest.

    Raises P105 if the agreement was not approved, P103 if what lies here is not what was.
    """
    consent = consents(home).get(agreement)
    if consent is None:
        raise BarnraiseError(
            "P105",
            f"this site has not approved the agreement {agreement}",
            f"the run {run} was opened under it",
            "nothing was run",
            next=f"barnraise node review {agreement[:19]}",
        )
    proposal = Proposal.read(folder_of(home, agreement))
    membership = membership_of(home)
    try:
        check_ours(proposal.agreement, membership, NodeKeys.open(home).public_key)
        proposal.agreement.check_signature(membership.member, dict(consent.statement))
        work = Work.of(proposal.text)
    except AgreementError as error:
        raise BarnraiseError(
            "P105",
            f"the approval of {agreement} does not hold",
            str(error),
            "nothing was run",
            next=f"barnraise node approve {agreement[:19]}",
        ) from None
    approval = Approval(
        membership.federation,
        run,
        run_id,
        proposal.agreement.app,
        proposal.code,
        work.component,
        dict(node_config),
        dict(work.config),
        members=dict(proposal.agreement.members),
    )
    return approval, proposal.agreement.charter


# --- pausing ------------------------------------------------------------------------------------------


def pause(home: Path, why: str, now: float) -> None:
    with files.disk_errors(home):
        files.replace(home / PAUSED, json.dumps({"since": now, "why": why}).encode())


def resume(home: Path) -> bool:
    """Whether it was paused."""
    with files.disk_errors(home):
        try:
            (home / PAUSED).unlink()
        except FileNotFoundError:
            return False
        files.fsync(home)
        return True


def paused(home: Path) -> str:
    """Why the site is paused; "" if it is not. A file that cannot be read is a pause."""
    try:
        said = json.loads((home / PAUSED).read_bytes())
        why = str(said["why"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        why = f"{PAUSED} cannot be read"
    return f"paused: {why}" if why else "paused"
