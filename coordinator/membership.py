"""The Membership service: what a member is asked to agree on, its signature, what it states of its data, and
its leaving (DESIGN §7).

Who calls is known from its certificate (`access.caller`); a statement counts for that member alone, and
only if it is signed by the key that the agreement, or the record, has for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from barnraise.coordinator import proposals, refusals, stating
from barnraise.coordinator.access import caller
from barnraise.coordinator.federation import Federation
from barnraise.coordinator.holdings import holdings
from barnraise.coordinator.ledger import MEMBER
from barnraise.coordinator.proposals import Proposal
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import statements
from barnraise.protocols.agreements import AgreementError
from barnraise.protocols.federation_pb2_grpc import MembershipServicer
from barnraise.protocols.identity import Member
from barnraise.protocols.transfers import CHUNK

LONGEST = 1 << 14  # bytes of a statement that is looked at


class Membership(MembershipServicer):
    """May be called from any thread. `signed` is called after a signature is on record; `left` after a
    leaving is, with the member's name; `held` gives the agreement under which a run is open, or ""."""

    def __init__(
        self,
        federation: Federation,
        signed: Callable[[], None],
        left: Callable[[str], None],
        held: str = "",
    ) -> None:
        self._federation, self._signed, self._left, self._held = federation, signed, left, held

    def Proposals(
        self, request: pb.ProposalsRequest, context: grpc.ServicerContext
    ) -> pb.ProposalList:
        """The standing proposals that name the caller as a member; this machine's clock as metadata."""
        context.send_initial_metadata((("clock", str(time.time())),))
        return pb.ProposalList(proposals=[self._said(p) for p in self._mine()])

    def _mine(self) -> list[Proposal]:
        member = caller()
        return [
            one
            for one in proposals.standing(self._federation, self._held)
            if one.agreement.members.get(member.name) == member.public_key.hex()
        ]

    def _said(self, one: Proposal) -> pb.Proposal:
        adopted = self._federation.ledger.read().agreements[one.digest]
        return pb.Proposal(
            agreement=one.agreement.encode(),
            name=one.name,
            adopted=adopted.since,
            signed=caller().name in adopted.signed,
            charter_size=one.text.stat().st_size,
            files=[pb.AppFile(path=p, digest=d, size=s) for p, d, s in one.files],
        )

    def Material(
        self, request: pb.FetchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.Chunk]:
        """A file of a standing proposal. N209 for a digest that none of the caller's names."""
        found = [p for one in self._mine() if (p := one.material().get(request.digest))]
        if not found:
            raise refusals.not_yours()
        size = found[0].stat().st_size
        if request.offset > size:
            raise refusals.beyond_the_end(request.offset, size)
        with found[0].open("rb") as file:
            file.seek(request.offset)
            while data := file.read(CHUNK):
                yield pb.Chunk(data=data)

    def Sign(self, request: pb.Signed, context: grpc.ServicerContext) -> pb.SignReply:
        """Take a signature: verified, on record, counted. F117 for one that is none."""
        statement = _parsed(request.statement)
        ledger, member = self._federation.ledger, caller()
        why = "nothing is asked of this member"
        for one in self._mine():
            try:
                one.agreement.check_signature(member.name, statement)
            except AgreementError as error:
                why = str(error)
                continue
            ledger.signed(one.digest, member.name, statement)
            self._signed()
            count = len(ledger.read().agreements[one.digest].signed)
            return pb.SignReply(signed=count, quorum=one.agreement.quorum)
        raise refusals.no_statement(why)

    def StateData(
        self, request: pb.DataStatement, context: grpc.ServicerContext
    ) -> pb.DataStatementReply:
        """Take a data statement: verified, kept, on record. F117 for one that is none."""
        envelope, code = _parsed(request.statement), [(one.path, one.data) for one in request.code]
        try:
            stating.take(self._federation, caller(), envelope, request.document, code)
        except stating.Unacceptable as error:
            raise refusals.no_statement(str(error)) from None
        return pb.DataStatementReply()

    def Leave(self, request: pb.Signed, context: grpc.ServicerContext) -> pb.LeaveReply:
        """The member leaves: on record, and its keys are never admitted again. F117 if it did not say so."""
        statement, member = _parsed(request.statement), caller()
        federation = self._federation
        try:
            said = statements.verify(member.public_key, member.name, "leave", statement)
        except statements.StatementError as error:
            raise refusals.no_statement(str(error)) from None
        wanted = {"federation": federation.name, "member": member.name, "at": said.get("at")}
        if said != wanted or not isinstance(said["at"], str):
            raise refusals.no_statement("it leaves another federation, or for another member")
        held = holdings(federation, member.name)
        leave(federation, member, statement)
        if not context.add_callback(lambda: self._left(member.name)):  # once the answer is out
            self._left(member.name)
        return pb.LeaveReply(models=held)


def leave(federation: Federation, member: Member, statement: dict[str, Any]) -> None:
    """Put a leaving on record, then end the admission; killed between, the next opening does the rest."""
    known = federation.ledger.read().members.get(member.name)
    if known is not None and known.status == MEMBER:
        federation.ledger.left(member.name, statement)
    federation.authority.revoke(member.name)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data) if len(data) <= LONGEST else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise refusals.no_statement("it is no DSSE envelope")
    return value
