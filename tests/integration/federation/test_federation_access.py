"""Attacks on a federation that is served: who may ask it anything, and whose word it takes for whose."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from floor_kit import PEM, SOON, House, Member, refusal, status

from barnraise.coordinator import campaigns
from barnraise.coordinator.authority import Authority
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.errors import BarnraiseError

RPCS = [
    (service, method.name)
    for service in ("Membership", "Session", "Transparency")
    for method in pb.DESCRIPTOR.services_by_name[service].methods
]
NOTHING = "sha256:" + "0" * 64


def outcome(channel: grpc.Channel, rpc: tuple[str, str]) -> tuple[str, str]:
    """How a call ends that says nothing, whatever the method."""
    call = channel.stream_stream("/barnraise.v1." + "/".join(rpc))
    try:
        list(call(iter([b""]), timeout=SOON))
    except grpc.RpcError as error:
        return status(error)
    return ("OK", "")


def test_no_rpc_is_answered_without_this_federations_certificate(
    house: House, tmp_path: Path
) -> None:
    """Plaintext, no certificate, and that of another federation for the same name."""
    address = house.description.session
    roots = house.authority.certificate.public_bytes(PEM)
    other = Authority.open(tmp_path / "other", "neighbours")
    stranger = Member("ada")
    stranger.enrol(other, other.invite("ada", time.time() + 60))
    other.close()
    for channel in (
        grpc.insecure_channel(address),
        grpc.secure_channel(address, grpc.ssl_channel_credentials(roots)),
        house.channel(stranger),
    ):
        with channel:
            assert {outcome(channel, rpc)[0] for rpc in RPCS} == {"UNAVAILABLE"}


def test_every_rpc_refuses_a_member_from_the_moment_in_which_it_is_revoked(house: House) -> None:
    channel = house.channel("ada")
    assert outcome(channel, ("Membership", "Proposals"))[0] == "OK"
    house.operator.revoke("ada", "its disk was stolen")
    assert {outcome(channel, rpc) for rpc in RPCS} == {("PERMISSION_DENIED", "N201")}
    assert house.types()[-1] == "member.revoked"


def test_who_was_not_confirmed_has_no_certificate_and_nothing_to_ask(house: House) -> None:
    cyd = Member("cyd")
    token = house.authority.invite("cyd", time.time() + 60, confirm=True)
    with pytest.raises(BarnraiseError) as waits:
        cyd.enrol(house.authority, token)
    assert waits.value.code == "N120" and cyd.certificate == b""
    assert "cyd" not in house.federation.ledger.read().members
    thief = Member("cyd")
    with pytest.raises(BarnraiseError) as stolen:
        thief.enrol(house.authority, token)
    assert stolen.value.code == "N104"
    with pytest.raises(BarnraiseError) as differs:
        house.operator.confirm("cyd", "12345 12345 12345 12345")
    assert differs.value.code == "F116"
    house.operator.confirm("cyd", house.operator.members()["members"][-1]["fingerprint"])
    cyd.enrol(house.authority, token)
    assert refusal(house.membership(cyd).Material, pb.FetchRequest(digest=NOTHING))[1] == "N209"
    assert house.types()[-1] == "member.enrolled"


def test_a_session_is_cut_by_a_revocation_and_nobody_elses(house: House) -> None:
    ada, bob = house.attend("ada"), house.attend("bob")
    assert ada.next().welcome.run == bob.next().welcome.run == ""
    house.operator.revoke("ada")
    assert ada.next().dismissal.why == "revoked"
    assert status(ada.next()) == ("PERMISSION_DENIED", "N201")
    house.floor.notice("proposals")
    assert bob.next().notice.what == "proposals"


def test_a_newer_session_displaces_the_one_before(house: House) -> None:
    first = house.attend("ada")
    first.next()
    second = house.attend("ada")
    assert second.next().welcome.member == "ada"
    assert status(first.next()) == ("ABORTED", "N210")


def test_a_site_that_holds_back_is_seen_with_its_reason(house: House) -> None:
    one = house.propose()
    ada = house.attend("ada", agreements=[one.digest])
    ada.next()
    house.membership("ada").Sign(house.members["ada"].says("charter", one.agreement.payload()))
    ada.say("idle", "paused: the ward\nneeds it")
    given = {"charter": str(house.root / "charter.toml")}
    wait_until(lambda: readiness(house, given)["ada"] == "held")
    found = {m["member"]: m for m in house.operator.plan(**given)["members"]}
    assert found["ada"]["why"].startswith("paused: the ward") and "\n" not in found["ada"]["why"]
    assert found["bob"]["readiness"] == "late"
    ada.say("idle")
    wait_until(lambda: readiness(house, given)["ada"] == "ready")


def readiness(house: House, given: dict[str, Any]) -> dict[str, str]:
    return {m["member"]: m["readiness"] for m in house.operator.plan(**given)["members"]}


def wait_until(ready: Any) -> None:
    end = time.monotonic() + SOON
    while not ready():
        assert time.monotonic() < end
        threading.Event().wait(0.02)


# --- signatures ------------------------------------------------------------------------------------


def test_a_member_signs_for_itself_alone_and_only_what_is_asked(house: House) -> None:
    """Another's name, another's key, another agreement, another kind, no statement: nothing on record."""
    one = house.propose()
    ada, bob, payload = house.members["ada"], house.members["bob"], one.agreement.payload()
    sign = house.membership("ada").Sign
    wrong = [
        bob.says("charter", payload),
        bob.says("charter", payload, "ada"),
        ada.says("charter", payload, "bob"),
        ada.says("charter", {**payload, "agreement": NOTHING}),
        ada.says("charter", {**payload, "federation": "others"}),
        ada.says("charter", {**payload, "more": "1"}),
        ada.says("reply", payload),
        pb.Signed(statement=b"{"),
        pb.Signed(statement=b"[" * 5000),
        pb.Signed(statement=b" " * (1 << 15)),
    ]
    for said in wrong:
        assert refusal(sign, said) == ("INVALID_ARGUMENT", "F117"), said
    assert "charter.signed" not in house.types()
    for _ in range(2):
        answer = sign(ada.says("charter", payload), timeout=SOON)
        assert (answer.signed, answer.quorum) == (1, 2)
    assert house.types().count("charter.signed") == 1
    with pytest.raises(BarnraiseError) as few:
        campaigns.check_signed(house.federation, one)
    assert few.value.code == "F110" and "not yet: bob" in few.value.evidence


def test_a_changed_charter_is_another_agreement_and_is_asked_again(house: House) -> None:
    one = house.propose()
    for name, member in house.members.items():
        house.membership(name).Sign(member.says("charter", one.agreement.payload()))
    campaigns.check_signed(house.federation, one)
    charter = house.root / "charter.toml"
    charter.write_text(charter.read_text().replace("lr = 0.003", "lr = 0.004"))
    other = house.propose()
    assert other.digest != one.digest
    with pytest.raises(BarnraiseError) as asked:
        campaigns.create(house.federation, other)
    assert asked.value.code == "F110"
    asks = house.membership("ada").Proposals(pb.ProposalsRequest()).proposals
    assert [p.agreement for p in asks] == [other.agreement.encode()] and not asks[0].signed


def test_a_signature_of_who_is_revoked_counts_no_more(house: House) -> None:
    one = house.propose()
    for name, member in house.members.items():
        house.membership(name).Sign(member.says("charter", one.agreement.payload()))
    house.operator.revoke("bob")
    assert [m.name for m in campaigns.admitted(house.federation, one)] == ["ada"]


def test_only_what_a_proposal_names_can_be_fetched_from_any_offset(house: House) -> None:
    one = house.propose()
    stub = house.membership("ada")
    (asked,) = stub.Proposals(pb.ProposalsRequest()).proposals
    named = [
        (one.agreement.charter, asked.charter_size),
        *((f.digest, f.size) for f in asked.files),
    ]
    for digest, size in named:
        whole = b"".join(c.data for c in stub.Material(pb.FetchRequest(digest=digest)))
        rest = b"".join(c.data for c in stub.Material(pb.FetchRequest(digest=digest, offset=10)))
        assert len(whole) == size and rest == whole[10:]
    blob = house.federation.keep_blob(b"what is nobody's business")
    for digest in (NOTHING, blob, one.digest, "../secret", ""):
        assert refusal(stub.Material, pb.FetchRequest(digest=digest))[1] == "N209"
    beyond = pb.FetchRequest(digest=named[0][0], offset=1 << 40)
    assert refusal(stub.Material, beyond) == ("OUT_OF_RANGE", "N209")


# --- leaving ---------------------------------------------------------------------------------------


def test_nobody_can_have_another_leave(house: House) -> None:
    ada, bob = house.members["ada"], house.members["bob"]
    said = {"federation": "neighbours", "member": "bob", "at": "2026-01-01T00:00:00Z"}
    stub = house.membership("ada")
    for wrong in (
        bob.says("leave", said),
        ada.says("leave", said),
        ada.says("leave", {**said, "member": "ada", "federation": "others"}),
        ada.says("charter", {**said, "member": "ada"}),
    ):
        assert refusal(stub.Leave, wrong) == ("INVALID_ARGUMENT", "F117")
    assert "member.left" not in house.types()


def test_who_leaves_is_on_record_and_does_not_come_back_with_the_same_keys(house: House) -> None:
    ada = house.members["ada"]
    session = house.attend("ada")
    session.next()
    said = {"federation": "neighbours", "member": "ada", "at": "2026-01-01T00:00:00Z"}
    assert list(house.membership("ada").Leave(ada.says("leave", said), timeout=SOON).models) == []
    assert session.next().dismissal.why == "left"
    assert refusal(house.membership("ada").Proposals, pb.ProposalsRequest())[1] == "N201"
    entry = list(house.federation.journal.entries())[-1][1]
    assert entry.type == "member.left"
    assert json.loads(ada.says("leave", said).statement) == entry.body["statement"]
    with pytest.raises(BarnraiseError) as again:
        house.admit(ada)
    assert again.value.code == "N105"


# --- the authority's key, elsewhere ----------------------------------------------------------------


def test_without_the_authoritys_key_all_works_but_joining_and_renewing(house: House) -> None:
    (house.root / "federation" / "ca.key").rename(house.root / "away")
    house.authority.__dict__.pop("_issuing_key", None)
    assert house.attend("ada").next().welcome.member == "ada"
    with pytest.raises(BarnraiseError) as cannot:
        house.admit(Member("cyd"))
    assert cannot.value.code == "F102"
