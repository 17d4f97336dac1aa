"""The operator's verbs on a federation: what each does and answers, whether it is being served or not.

`Floor` is what is going on while it is served: who attends, which run is conducted. A verb that needs it
raises F105 where nobody serves. Answers are JSON; whoever shows them to a person is elsewhere.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509

from barnraise.coordinator import campaigns, proposals
from barnraise.coordinator.campaigns import Run
from barnraise.coordinator.federation import Federation
from barnraise.coordinator.holdings import holdings
from barnraise.coordinator.ledger import LEFT, MEMBER, REVOKED
from barnraise.coordinator.lobby import NEVER, Seen
from barnraise.coordinator.presence import ABSENT
from barnraise.coordinator.proposals import Draft
from barnraise.coordinator.prover import Cosigned
from barnraise.coordinator.registry import Record
from barnraise.coordinator.release import served
from barnraise.protocols import pki
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.invite import spoken

Answer = dict[str, Any]
Sizes = Callable[[Path, str], Mapping[str, int] | None]
"""Bytes of one round for one member, down and up, of a proposal's app and component; None if unknown."""


class Floor(Protocol):
    """What is going on while the federation is served. Any thread may call."""

    def seen(self) -> Mapping[str, Seen]: ...

    def notice(self, what: str) -> None:
        """Tell the members that attend that there is something to ask for."""
        ...

    def cosigned(self, witnesses: Mapping[str, str], patience: float) -> Cosigned:
        """Have the log cosigned by a quorum of these, in so many seconds at most. Raises F111."""
        ...

    def expel(self, name: str, why: str, text: str) -> None:
        """End what this member does now."""
        ...

    def close_batch(self) -> bool:
        """False if no batch is open."""
        ...

    def abort(self) -> None: ...

    def anew(self) -> None:
        """Begin anew, with whatever run is open then."""
        ...

    def wait_signed(self, seconds: float) -> None:
        """Until somebody signs, at most so long."""
        ...

    @property
    def run(self) -> Run | None:
        """The run that is being conducted."""
        ...


@dataclass(frozen=True)
class Operator:
    """`ask` answers a verb. `floor` is None where nobody serves."""

    federation: Federation
    floor: Floor | None = None
    sizes: Sizes = lambda app, component: None
    wall: Callable[[], float] = time.time

    def ask(self, verb: str, given: Mapping[str, Any]) -> Answer:
        """Raises `BarnraiseError`; X102 for a verb that there is not."""
        verbs: dict[str, Callable[..., Answer]] = {
            "status": self.status,
            "invite": self.invite,
            "members": self.members,
            "members.confirm": self.confirm,
            "members.revoke": self.revoke,
            "run.plan": self.plan,
            "run.open": self.open,
            "run.list": self.list,
            "run.close": self.close,
            "run.abort": self.abort,
            "release.publish": self.publish,
        }
        if verb not in verbs:
            raise BarnraiseError("X102", f"there is no verb {verb!r}", ", ".join(verbs))
        return verbs[verb](**given)

    def _served(self) -> Floor:
        if self.floor is None:
            raise not_served(self.federation.root)
        return self.floor

    # --- members ---------------------------------------------------------------------------------

    def status(self) -> Answer:
        """What is served, and which run is conducted."""
        run = self.floor.run if self.floor is not None else None
        return {
            "federation": self.federation.name,
            "session": self.federation.description.session,
            "enrolment": self.federation.description.enrolment,
            "run": run.name if run is not None else None,
            **self.members(),
        }

    def invite(
        self, member: str, organisation: str, expires: float, confirm: bool = True
    ) -> Answer:
        """A new invite for this name, good for `expires` seconds."""
        until = self.wall() + expires
        said = self.federation.description
        invite = self.federation.authority.invitation(
            member, until, said.session, said.enrolment, organisation, confirm=confirm
        )
        return {"member": member, "invite": str(invite), "expires": until}

    def members(self) -> Answer:
        """Everybody who is, was or may become a member."""
        found = [self._member(record) for record in self.federation.authority.records()]
        known = {one["member"] for one in found if one["status"] in (MEMBER, "unconfirmed")}
        for invited in self.federation.authority.invites():
            if invited.member not in known:
                late = invited.expires <= self.wall()
                found.append({"member": invited.member, "status": "expired" if late else "invited"})
        return {"members": sorted(found, key=lambda one: (one["member"], one["status"]))}

    def _member(self, record: Record) -> Answer:
        known = self.federation.ledger.read().members.get(record.name)
        status = MEMBER if record.confirmed else "unconfirmed"
        if record.revoked:
            same = known is not None and known.key == record.identity_key.hex()
            status = LEFT if same and known is not None and known.status == LEFT else REVOKED
        said: Answer = {
            "member": record.name,
            "organisation": record.organisation,
            "status": status,
            "fingerprint": spoken(record.identity_key, self.federation.authority.vkey),
            "certificate": _ends(record),
        }
        if status == MEMBER and self.floor is not None:
            said |= self._seen(self.floor.seen().get(record.name, NEVER))
        return said

    def _seen(self, seen: Seen) -> Answer:
        seconds = round(max(0.0, self.wall() - seen.since), 1) if seen.since else None
        return {
            "state": seen.state,
            "detail": seen.detail,
            "seconds": seconds,
            "agreements": sorted(seen.agreements),
            "version": seen.version,
            "skew": round(seen.skew, 1),
        }

    def confirm(self, member: str, fingerprint: str | None = None) -> Answer:
        """Admit who enrolled under this name. F116 if `fingerprint` is another. Raises N109."""
        record = self._record(member)
        said = spoken(record.identity_key, self.federation.authority.vkey)
        if fingerprint is not None and "".join(fingerprint.split()) != said.replace(" ", ""):
            raise BarnraiseError(
                "F116",
                f"the fingerprint is not that of the node that enrolled as {member}",
                f"given: {fingerprint}\nhere:  {said}",
                "the node was not admitted",
                f"ask {member} again; if it differs still: barnraise members revoke {member}",
            )
        self.federation.authority.confirm(member)
        self.federation.ledger.enrolled(member, record.identity_key.hex(), record.organisation)
        return {"member": member, "fingerprint": said}

    def _record(self, member: str) -> Record:
        for record in self.federation.authority.records():
            if record.name == member and not record.revoked:
                return record
        raise BarnraiseError(
            "N109",
            f"nobody has enrolled as {member}",
            "an invite that nobody used yet admits nobody",
            next="barnraise members",
        )

    def revoke(self, member: str, reason: str = "revoked") -> Answer:
        """End an admission for ever, at once. Past rounds stay as they are. Raises N109."""
        record = self._record(member)
        held = holdings(self.federation, member)
        self.federation.authority.revoke(record.name)
        self.federation.ledger.revoked(member, reason)
        if self.floor is not None:
            self.floor.expel(member, "revoked", "the federation's operator has revoked this member")
        return {"member": member, "models": held}

    # --- runs ------------------------------------------------------------------------------------

    def plan(self, **given: Any) -> Answer:
        """What `run.open` would do, and who is ready for it; nothing is changed and nobody asked."""
        draft = _draft(**given)
        agreement = draft.agreement(self.federation)
        adopted = self.federation.ledger.read().agreements.get(agreement.digest)
        signed = adopted.signed if adopted is not None else {}
        members = [self._readiness(n, agreement.digest, n in signed) for n in agreement.members]
        return {
            "name": draft.work.name,
            "agreement": agreement.digest,
            "charter": agreement.charter,
            "app": agreement.app,
            "asked": adopted.since if adopted is not None else None,
            "quorum": agreement.quorum,
            "signed": len(signed),
            "members": members,
            "bytes": self._bytes(agreement.digest, draft),
            "open": run.name if (run := campaigns.open_run(self.federation)) is not None else None,
        }

    def _bytes(self, agreement: str, draft: Draft) -> Mapping[str, int] | None:
        folder = proposals.folder_of(self.federation, agreement)
        return self.sizes(folder / "app", draft.text) if (folder / "app").is_dir() else None

    def _readiness(self, name: str, agreement: str, signed: bool) -> Answer:
        seen = self._served().seen().get(name, NEVER)
        state, why = readiness(seen, agreement, signed, self.wall())
        return {"member": name, "readiness": state, "why": why, "signed": signed}

    def open(self, wait: float = 0.0, **given: Any) -> Answer:
        """Open a run under what members agreed on; ask them first if they were not. Raises F110, F111, F114.

        Waits at most `wait` seconds for the next signature that is missing.
        """
        floor, draft = self._served(), _draft(**given)
        if floor.run is not None:
            raise campaigns.run_is_open(floor.run.name)
        before = self.federation.ledger.read().agreements.keys()
        new = draft.agreement(self.federation).digest not in before
        one = proposals.propose(self.federation, draft)
        if new:
            floor.notice("proposals")
        try:
            run = campaigns.create(self.federation, one)
        except BarnraiseError as error:
            if error.code == "F110" and wait > 0:
                floor.wait_signed(min(wait, 30.0))
                run = campaigns.create(self.federation, one)
            else:
                raise
        floor.anew()
        return {"run": run.name, "agreement": one.digest, "directory": str(run.root)}

    def list(self) -> Answer:
        """Every run."""
        return {"runs": list(campaigns.listed(self.federation))}

    def close(self) -> Answer:
        """End the batch that is open now: it closes as it stands. F112 if there is none."""
        floor = self._served()
        if floor.run is None or not floor.close_batch():
            raise BarnraiseError(
                "F112", "no batch is open", "no run waits for a member", next="barnraise run list"
            )
        return {"run": floor.run.name}

    def abort(self, run: str | None = None) -> Answer:
        """End a run without a result: the open one, or one that stopped. Raises F112, F113."""
        current = self.floor.run if self.floor is not None else None
        if self.floor is not None and current and run in (None, current.name, current.run):
            self.floor.abort()
            return {"run": current.name}
        found = campaigns.named(self.federation, run) if run else self._unfinished()
        if campaigns.state_of(self.federation, found) in (campaigns.FINISHED, campaigns.ABORTED):
            raise _none_open(f"{found.name} has ended")
        campaigns.abort(found, campaigns.log_of(self.federation, found))
        return {"run": found.name}

    def publish(
        self, run: str, manifest: str, model: str, contributions: str, patience: float
    ) -> Answer:
        """Put a release on record and have it cosigned; its checkpoint in base64. Raises F111, G104."""
        said = served.Said(run, manifest, model, contributions)
        note = served.publish(self.federation, said, self._served().cosigned, patience)
        return {"checkpoint": base64.b64encode(note).decode()}

    def _unfinished(self) -> Run:
        ended = (campaigns.FINISHED, campaigns.ABORTED)
        for run in campaigns.runs(self.federation):
            if campaigns.state_of(self.federation, run) not in ended:
                return run
        raise _none_open("every run has ended")


def readiness(seen: Seen, agreement: str, signed: bool, now: float) -> tuple[str, str]:
    """Whether a member could work under an agreement now, and why not: ready, unsigned, late, held,
    refusing."""
    if seen.state == ABSENT:
        since = f"absent since {now - seen.since:.0f} s" if seen.since else "never seen"
        return "late", since if signed else f"{since}; has not signed"
    if not signed:
        return "unsigned", "has not signed: its admin runs `barnraise node review`"
    if seen.state == "held":
        return "held", seen.detail
    if agreement not in seen.agreements:
        return "refusing", "its site does not approve this agreement now"
    return "ready", ""


def _draft(
    charter: str | None = None,
    app: str | None = None,
    config: str = "",
    quorum: int | None = None,
    grace: float | None = None,
    deadline: float | None = None,
) -> Draft:
    """What the operator's options describe."""
    if app is not None:
        return Draft.app(Path(app), config, (quorum, grace, deadline))
    assert charter is not None
    return Draft.charter(Path(charter))


def _ends(record: Record) -> float | None:
    """When the member's newest certificate ends, in seconds since 1970."""
    if record.certificate is None:
        return None
    return pki.validity(x509.load_der_x509_certificate(record.certificate))[1]


def not_served(root: Path) -> BarnraiseError:
    return BarnraiseError(
        "F105",
        f"the federation in {root} is not being served",
        "this needs the process that talks to the members",
        next=f"barnraise serve {root}",
    )


def _none_open(why: str) -> BarnraiseError:
    return BarnraiseError("F112", "no run is open", why, next="barnraise run list")
