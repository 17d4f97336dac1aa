"""The institution's side: the node's directory, its certificate, both ports, and what its federation says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import grpc

from barnraise.client.channel import open_channel
from barnraise.client.keys import Membership, NodeKeys
from barnraise.client.node.approval import FILE
from barnraise.doctor import network
from barnraise.doctor.check import Check
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import pki
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.federation_pb2_grpc import MembershipStub

APART = 60.0  # seconds between two clocks that are worth a word
SOON = 86400.0  # seconds before a certificate's end in which the daemon should have renewed it


def checks(directory: Path) -> list[Check]:
    """Everything that a node needs, from its own files to its federation's answer."""
    try:
        keys, membership = NodeKeys.open(directory), Membership.read(directory)
    except BarnraiseError as error:
        return [Check("keys", f"{error.what}: {error.evidence}", "H108", error.next)]
    if membership is None:
        fix = "barnraise join INVITE --dir " + str(directory)
        return [Check("membership", f"{directory} is of no federation yet", "H113", fix)]
    roots, pair = directory / "ca.crt", (directory / "tls.crt", directory / "tls.key")
    said = f"{membership.member} in {membership.federation}"
    certificate = _certificate(keys)
    found = [Check("membership", said), certificate]
    found += network.port("enrolment", membership.enrolment, roots)
    session = network.port("sessions", membership.session, roots, pair)
    found += session
    if certificate.ok and all(check.ok for check in session):
        found += _asked(keys, membership)
    return [*found, _approval(directory), _policy(directory)]


def _certificate(keys: NodeKeys) -> Check:
    begin, end = pki.validity(keys.certificate())
    now = time.time()
    if not begin <= now < end:
        fix = "start the node (barnraise node up), which renews it; or set this machine's clock"
        word = "has ended" if now >= end else "is not valid yet, at this machine's clock"
        return Check("certificate", f"it {word}", "H105", fix)
    saw = f"valid for {(end - now) / 86400:.1f} days"
    if end - now < SOON:
        fix = "start the node (barnraise node up), which renews it"
        return Check("certificate", saw, "H105", fix)
    return Check("certificate", saw)


def _asked(keys: NodeKeys, membership: Membership) -> list[Check]:
    """What the federation answers to this member, and how far its clock is off."""
    with open_channel(membership.session, keys.channel_credentials()) as channel:
        call = MembershipStub(channel).Proposals.with_call
        try:
            answer, told = call(pb.ProposalsRequest(), timeout=network.PATIENCE)
        except grpc.RpcError as error:
            saw = f"{error.code().name}: {error.details()}"
            fix = "ask the federation's operator: barnraise members, there"
            return [Check("admission", saw, "H111", fix)]
    found = [Check("admission", f"admitted; {len(answer.proposals)} agreements to see")]
    clock = dict(told.initial_metadata()).get("clock")
    if clock is not None:
        ahead = time.time() - float(clock)
        fix = "set this machine's clock, or tell the operator that theirs is wrong"
        off = abs(ahead) > APART
        saw = f"{ahead:+.0f} s from the coordinator's"
        found.append(Check("clock", saw, "H106", fix) if off else Check("clock", saw))
    return found


def _approval(directory: Path) -> Check:
    """Whether this site approved anything, and whether its copy of the code is still that."""
    from barnraise.client.node.approval import Approval

    path = directory / FILE
    if not path.exists():
        return _consents(directory)
    try:
        Approval.of(json.loads(path.read_bytes())).check_code()
    except (BarnraiseError, ValueError) as error:
        fix = "barnraise node review, and approve the agreement again"
        saw = error.evidence if isinstance(error, BarnraiseError) else str(error)
        return Check("approval", saw.replace("\n", "; "), "H109", fix)
    return Check("approval", "the code at hand is what this site approved")


def _consents(directory: Path) -> Check:
    """The same of what this site approved in its federation."""
    from barnraise.client.node import consent

    approved = consent.consents(directory)
    if not approved:
        return Check("approval", "this site has approved nothing yet")
    for agreement in approved:
        if not consent.folder_of(directory, agreement).exists():
            continue  # a running node fetches it again
        try:
            consent.named(directory, agreement)
        except BarnraiseError as error:
            return Check("approval", f"{error.what}: {agreement}", "H109", error.next)
    return Check("approval", "the code at hand is what this site approved")


def _policy(directory: Path) -> Check:
    """Whether the policy can be read, and whether the data are where it says: the worker reads no others."""
    from barnraise.client.node import policy_file

    fix = "barnraise node policy edit"
    try:
        policy = policy_file.read(directory)
    except BarnraiseError as error:
        return Check("policy", f"{error.what}: {error.evidence}", error.code, fix)
    named = policy.data.directories if policy is not None else ()
    if missing := [one for one in named if not Path(one).is_dir()]:
        return Check("policy", f"there is no data directory {missing[0]}", "D201", fix)
    if not named and _needs_data(directory):
        saw = (
            "[data] directories names none, and what this site was asked to approve trains on them"
        )
        return Check("policy", saw, "D201", fix)
    return Check("policy", f"data: {', '.join(map(str, named)) or 'none named'}")


def _needs_data(directory: Path) -> bool:
    """Whether a charter was proposed that the built-in app trains by: an app of one's own may need none."""
    from barnraise.client.node import consent
    from barnraise.protocols.agreements import Work
    from barnraise.protocols.apps import BUILT_IN

    try:
        held = consent.proposals(directory)
    except BarnraiseError:
        return False  # the approval's check says it
    return any(Work.of(one.text).component == BUILT_IN for one in held)
