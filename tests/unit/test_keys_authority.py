"""The authority without a wire: founding, invites, decisions, revocation, and what is on disk."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.coordinator.authority import Authority
from barnraise.coordinator.registry import Invited, Record, Registry, judge
from barnraise.protocols import notes, pki
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member
from barnraise.protocols.invite import Invite

NOW = 1_790_000_000.0


class Clock:
    """The authority's clock, which tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    """A member's keys, and what it sends."""

    name: str
    identity: Ed25519PrivateKey
    tls_key: pki.TlsKey

    @property
    def public_key(self) -> bytes:
        return self.identity.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        return pki.fingerprint(self.public_key)

    def enrol(self, authority: Authority, token: str) -> bytes:
        csr = pki.make_csr(self.tls_key, self.name)
        signature = pki.sign_csr(self.identity, "enrol", csr)
        return authority.enrol(token, self.name, self.public_key, csr, signature)

    def renew(self, authority: Authority) -> bytes:
        csr = pki.make_csr(self.tls_key, self.name)
        return authority.renew(self.name, csr, pki.sign_csr(self.identity, "renew", csr))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.open(tmp_path / "authority", "neighbours", clock)


@pytest.fixture
def basel() -> Site:
    return site("basel")


def site(name: str) -> Site:
    return Site(name, Ed25519PrivateKey.generate(), pki.new_tls_key())


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(BarnraiseError) as error:
        act()
    return error.value.code


# --- founding ---------------------------------------------------------------------------------


def test_opened_again_it_is_the_same_authority(tmp_path: Path, authority: Authority) -> None:
    again = Authority.open(tmp_path / "authority", "neighbours")
    assert again.certificate == authority.certificate
    assert again.vkey == authority.vkey
    assert again.federation == "neighbours"
    assert notes.parse_verifier_key(again.vkey) == (
        "neighbours/log",
        again.log_key.public_key().public_bytes_raw(),
    )


@pytest.mark.parametrize("made", [1, 2, 3])
def test_a_founding_that_was_killed_goes_on_with_the_keys_it_made(
    tmp_path: Path, authority: Authority, made: int
) -> None:
    directory = tmp_path / "authority"
    authority.close()
    steps = ["log.key", "ca.key", "members.db", "ca.crt"]
    for name in steps[made:]:
        (directory / name).unlink()
    kept = {name: (directory / name).read_bytes() for name in steps[: min(made, 2)]}
    again = Authority.open(directory, "neighbours")
    assert again.vkey == authority.vkey
    assert {name: (directory / name).read_bytes() for name in kept} == kept
    same_key = again.certificate.public_key() == authority.certificate.public_key()
    assert same_key == (made > 1)


def test_all_files_are_for_their_owner_alone(tmp_path: Path, authority: Authority) -> None:
    authority.server_credentials(["127.0.0.1"], require_client=True)
    authority.invite("basel", NOW + 1)
    directory = tmp_path / "authority"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in directory.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    made = {"ca.key", "ca.crt", "log.key", "server.key", "server.crt", "members.db"}
    assert made <= set(modes)


def test_the_token_is_not_on_disk(tmp_path: Path, authority: Authority, basel: Site) -> None:
    token = authority.invite("basel", NOW + 1)
    basel.enrol(authority, token)
    authority.close()
    written = b"".join(p.read_bytes() for p in (tmp_path / "authority").iterdir())
    assert token.encode() not in written
    assert len(token) * 6 >= 128


def test_another_federations_directory_is_refused(tmp_path: Path, authority: Authority) -> None:
    assert code_of(lambda: Authority.open(tmp_path / "authority", "others")) == "D101"


@pytest.mark.parametrize("name", ["", "Neighbours", "a/b", "a+b", "x" * 64, "-a"])
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, authority: Authority, name: str) -> None:
    assert code_of(lambda: Authority.open(tmp_path / "other", name)) == "N117"
    assert code_of(lambda: authority.invite(name, NOW + 1)) == "N117"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["ca.key", "log.key", "members.db"])
def test_a_founded_federation_never_makes_a_lost_file_anew(
    tmp_path: Path, authority: Authority, name: str
) -> None:
    authority.close()
    (tmp_path / "authority" / name).unlink()
    assert code_of(lambda: Authority.open(tmp_path / "authority", "neighbours")) == "D106"
    assert not (tmp_path / "authority" / name).exists()


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "log.key", "server.key", "server.crt"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_file_is_said_to_be(
    tmp_path: Path, authority: Authority, basel: Site, name: str, content: bytes
) -> None:
    authority.server_credentials(["127.0.0.1"], require_client=False)
    token = authority.invite("basel", NOW + 1)
    authority.close()
    (tmp_path / "authority" / name).write_bytes(content)

    def use() -> None:
        again = Authority.open(tmp_path / "authority", "neighbours", lambda: NOW)
        assert again.vkey
        again.server_credentials(["127.0.0.1"], require_client=False)
        again.server_credentials(["barn.example.org"], require_client=False)
        basel.enrol(again, token)

    assert code_of(use) == "D106"
    assert (tmp_path / "authority" / name).read_bytes() == content


def test_another_authoritys_key_is_not_used(
    tmp_path: Path, authority: Authority, basel: Site
) -> None:
    token = authority.invite("basel", NOW + 1)
    Authority.open(tmp_path / "other", "neighbours")
    (tmp_path / "other" / "ca.key").rename(tmp_path / "authority" / "ca.key")
    assert code_of(lambda: basel.enrol(authority, token)) == "D106"


def test_who_only_asks_for_peers_and_has_its_certificate_never_reads_the_issuing_key(
    tmp_path: Path, authority: Authority, basel: Site
) -> None:
    basel.enrol(authority, authority.invite("basel", NOW + 1))
    authority.server_credentials(["127.0.0.1"], require_client=True)
    (tmp_path / "authority" / "ca.key").write_bytes(b"unreadable")
    other = Authority.open(tmp_path / "authority", "neighbours", lambda: NOW)
    assert other.member(basel.fingerprint) == Member("basel", basel.public_key)
    assert other.server_credentials(["127.0.0.1"], require_client=True)
    assert other.vkey == authority.vkey


def server_hosts(tmp_path: Path) -> set[str]:
    pem = (tmp_path / "authority" / "server.crt").read_bytes()
    return pki.hosts_of(x509.load_pem_x509_certificate(pem))


def test_the_server_certificate_is_kept_and_grows(
    tmp_path: Path, authority: Authority, clock: Clock
) -> None:
    path = tmp_path / "authority" / "server.crt"
    authority.server_credentials(["127.0.0.1", "barn.example.org"], require_client=False)
    first = path.read_bytes()
    authority.server_credentials(["127.0.0.1"], require_client=True)
    assert path.read_bytes() == first
    authority.server_credentials(["::1"], require_client=False)
    assert server_hosts(tmp_path) == {"127.0.0.1", "barn.example.org", "::1"}
    second = path.read_bytes()
    clock.now += 7 * pki.YEAR
    authority.server_credentials(["::1"], require_client=False)
    assert path.read_bytes() != second
    assert server_hosts(tmp_path) == {"127.0.0.1", "barn.example.org", "::1"}


# --- admission --------------------------------------------------------------------------------


def test_an_invitation_carries_all_that_a_node_needs(authority: Authority, basel: Site) -> None:
    invite = authority.invitation("basel", NOW + 1, "127.0.0.1:1", "127.0.0.1:2")
    assert Invite.parse(str(invite)) == invite
    assert invite.authority == authority.certificate_der
    assert invite.log_key == authority.vkey
    assert pki.Peer.of(basel.enrol(authority, invite.token)).member == "basel"


def test_enrolled_a_member_is_known_by_its_fingerprint(authority: Authority, basel: Site) -> None:
    assert authority.member(basel.fingerprint) is None
    basel.enrol(authority, authority.invite("basel", NOW + 1))
    assert authority.member(basel.fingerprint) == Member("basel", basel.public_key)
    assert authority.members() == [Member("basel", basel.public_key)]
    assert authority.member("0" * 64) is None
    assert authority.member("'; DROP TABLE members; --") is None


def test_the_same_keys_again_get_the_same_answer(
    tmp_path: Path, authority: Authority, basel: Site, clock: Clock
) -> None:
    token = authority.invite("basel", NOW + 60)
    first = basel.enrol(authority, token)
    clock.now += 3600  # the invite's time is over, but it has done its work
    assert basel.enrol(authority, token) == first
    again = Authority.open(tmp_path / "authority", "neighbours", clock)
    assert basel.enrol(again, token) == first
    clock.now += pki.WEEK
    later = basel.enrol(again, token)
    assert later != first
    assert pki.validity(x509.load_der_x509_certificate(later))[0] == clock.now - 3600


def test_the_same_identity_with_another_tls_key_gets_a_certificate_for_that(
    authority: Authority, basel: Site
) -> None:
    token = authority.invite("basel", NOW + 60)
    basel.enrol(authority, token)
    basel.tls_key = pki.new_tls_key()
    certificate = x509.load_der_x509_certificate(basel.enrol(authority, token))
    assert certificate.public_key() == basel.tls_key.public_key()


def test_a_used_token_is_refused_to_other_keys(authority: Authority, basel: Site) -> None:
    token = authority.invite("basel", NOW + 60)
    basel.enrol(authority, token)
    thief = site("basel")
    assert code_of(lambda: thief.enrol(authority, token)) == "N104"
    assert authority.member(thief.fingerprint) is None


def test_a_token_is_for_one_name(authority: Authority) -> None:
    token = authority.invite("basel", NOW + 60)
    assert code_of(lambda: site("bern").enrol(authority, token)) == "N102"


def test_an_unknown_token_is_refused(authority: Authority, basel: Site) -> None:
    authority.invite("basel", NOW + 60)
    for token in ("", "A" * 32, "x" * 5000, "\ud800"):
        assert code_of(lambda token=token: basel.enrol(authority, token)) == "N102"  # type: ignore[misc]


def test_an_expired_token_is_refused_from_that_second_on(
    authority: Authority, basel: Site, clock: Clock
) -> None:
    token = authority.invite("basel", NOW + 60)
    clock.now = NOW + 60
    assert code_of(lambda: basel.enrol(authority, token)) == "N103"
    clock.now = NOW + 59.9
    assert basel.enrol(authority, token)


def test_a_newer_invite_replaces_one_that_nobody_used(authority: Authority, basel: Site) -> None:
    lost = authority.invite("basel", NOW + 60)
    newer = authority.invite("basel", NOW + 60)
    assert code_of(lambda: basel.enrol(authority, lost)) == "N102"
    assert basel.enrol(authority, newer)


def test_two_processes_that_use_one_invite_admit_one(tmp_path: Path) -> None:
    registries = [Registry(tmp_path / "members.db") for _ in range(4)]
    barrier = threading.Barrier(len(registries))

    def enrol(at: int, turn: int) -> str | None:
        barrier.wait(30)
        return registries[at].enrol(f"token {turn}", f"site-{turn}", bytes([at, turn] * 16), NOW)

    with ThreadPoolExecutor(len(registries)) as pool:
        for turn in range(10):
            registries[0].invite(f"site-{turn}", f"token {turn}", NOW + 1)
            ends = list(pool.map(enrol, range(len(registries)), [turn] * len(registries)))
            assert sorted(map(str, ends)) == ["N104", "N104", "N104", "None"]


def test_a_taken_name_is_refused_to_other_keys_even_with_an_invite(
    authority: Authority, basel: Site
) -> None:
    basel.enrol(authority, authority.invite("basel", NOW + 60))
    fresh = authority.invite("basel", NOW + 60)
    assert code_of(lambda: site("basel").enrol(authority, fresh)) == "N108"
    assert basel.enrol(authority, fresh)


def test_the_same_keys_under_another_name_are_refused(authority: Authority, basel: Site) -> None:
    basel.enrol(authority, authority.invite("basel", NOW + 60))
    basel.name = "bern"
    assert code_of(lambda: basel.enrol(authority, authority.invite("bern", NOW + 60))) == "N108"


def test_a_request_signed_by_another_key_is_refused_and_uses_nothing_up(
    authority: Authority, basel: Site
) -> None:
    token = authority.invite("basel", NOW + 60)
    csr = pki.make_csr(basel.tls_key, "basel")
    for key, purpose in ((Ed25519PrivateKey.generate(), "enrol"), (basel.identity, "renew")):
        signature = pki.sign_csr(key, purpose, csr)
        args = (token, "basel", basel.public_key, csr, signature)
        assert code_of(lambda args=args: authority.enrol(*args)) == "N106"  # type: ignore[misc]
    assert basel.enrol(authority, token)


@pytest.mark.parametrize("csr", [b"", b"nonsense", pki.make_csr(pki.new_tls_key(), "bern")])
def test_a_malformed_request_is_refused_and_uses_nothing_up(
    authority: Authority, basel: Site, csr: bytes
) -> None:
    token = authority.invite("basel", NOW + 60)
    signature = pki.sign_csr(basel.identity, "enrol", csr)
    args = (token, "basel", basel.public_key, csr, signature)
    assert code_of(lambda: authority.enrol(*args)) == "N107"
    assert basel.enrol(authority, token)


# --- renewal and revocation -------------------------------------------------------------------


def test_a_certificate_is_renewed_also_after_its_end(
    authority: Authority, basel: Site, clock: Clock
) -> None:
    basel.enrol(authority, authority.invite("basel", NOW + 60))
    clock.now += 100 * pki.WEEK
    renewed = x509.load_der_x509_certificate(basel.renew(authority))
    assert pki.validity(renewed) == (clock.now - 3600, clock.now + pki.WEEK)


def test_nobody_but_the_member_renews(authority: Authority, basel: Site) -> None:
    basel.enrol(authority, authority.invite("basel", NOW + 60))
    assert code_of(lambda: site("basel").renew(authority)) == "N106"
    assert code_of(lambda: site("bern").renew(authority)) == "N109"


def test_a_revoked_member_is_unknown_at_once_and_for_ever(
    tmp_path: Path, authority: Authority, basel: Site
) -> None:
    token = authority.invite("basel", NOW + 60)
    basel.enrol(authority, token)
    elsewhere = Authority.open(tmp_path / "authority", "neighbours", lambda: NOW)
    elsewhere.revoke("basel")
    assert authority.member(basel.fingerprint) is None
    assert authority.members() == []
    assert code_of(lambda: basel.renew(authority)) == "N105"
    assert code_of(lambda: basel.enrol(authority, token)) == "N105"
    fresh = authority.invite("basel", NOW + 60)
    assert code_of(lambda: basel.enrol(authority, fresh)) == "N105"


def test_a_revoked_name_may_come_back_with_new_keys(authority: Authority, basel: Site) -> None:
    basel.enrol(authority, authority.invite("basel", NOW + 60))
    authority.revoke("basel")
    new = site("basel")
    new.enrol(authority, authority.invite("basel", NOW + 60))
    assert authority.members() == [Member("basel", new.public_key)]
    assert authority.member(basel.fingerprint) is None
    assert code_of(lambda: basel.renew(authority)) == "N106"
    assert new.renew(authority)
    authority.revoke("basel")
    assert authority.members() == []


def test_revoking_voids_an_open_invite_and_may_be_repeated(
    authority: Authority, basel: Site
) -> None:
    basel.enrol(authority, authority.invite("basel", NOW + 60))
    fresh = authority.invite("basel", NOW + 60)
    authority.revoke("basel")
    authority.revoke("basel")
    assert code_of(lambda: site("basel").enrol(authority, fresh)) == "N102"
    assert code_of(lambda: authority.revoke("bern")) == "N109"


# --- the decision -----------------------------------------------------------------------------

KEYS = ["a" * 64, "b" * 64, "c" * 64]
INVITED = st.none() | st.builds(
    Invited, st.sampled_from(["basel", "bern"]), st.just(10.0), st.none() | st.sampled_from(KEYS)
)
RECORDS = st.none() | st.builds(
    Record, st.sampled_from(["basel", "bern"]), st.just(b""), st.none(), st.booleans()
)


@settings(deadline=None, max_examples=400)
@given(INVITED, RECORDS, st.none() | st.sampled_from(KEYS), st.sampled_from([9.0, 10.0]))
def test_whoever_is_admitted_has_an_invite_of_that_name_and_takes_nobodys_place(
    invited: Invited | None, holder: Record | None, named: str | None, now: float
) -> None:
    if judge("basel", KEYS[0], invited, holder, named, now) is None:
        assert invited is not None and invited.member == "basel"
        assert invited.used_by == KEYS[0] or (invited.used_by is None and now < invited.expires)
        assert named in (None, KEYS[0])
        assert holder is None or (holder.name == "basel" and not holder.revoked)
