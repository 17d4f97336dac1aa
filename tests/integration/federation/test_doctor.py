"""The doctor tells a closed port from a wrong authority from an expired certificate, and the rest."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from floor_kit import PEM, House

from barnraise.client import enrol
from barnraise.client.keys import Membership
from barnraise.client.node import consent
from barnraise.coordinator.authority import Authority
from barnraise.coordinator.enrolment import serve_enrolment
from barnraise.doctor import federation, machine, network, node
from barnraise.doctor.check import Check
from barnraise.protocols.errors import CODES

DAY = 86400.0


@pytest.fixture
def home(house: House, tmp_path: Path) -> Path:
    """A node that has joined, its coordinator serving both ports."""
    said = house.description
    server, _ = serve_enrolment(house.authority, said.listens(said.enrolment), said.hosts)
    house.stack.callback(lambda: server.stop(0).wait())
    until = time.time() + 60
    invite = house.authority.invitation("cyd", until, said.session, said.enrolment)
    enrol.join(tmp_path / "node", invite)
    house.operator.confirm("cyd")
    return tmp_path / "node"


def codes(checks: list[Check]) -> list[str]:
    assert all(check.code in CODES and check.fix for check in checks if not check.ok)
    return [check.code for check in checks if check.code]


def moved(home: Path, session: str) -> None:
    known = Membership.read(home)
    assert known is not None
    known.at(session, known.enrolment).write(home)


def test_a_node_that_is_well_is_told_so(home: Path) -> None:
    found = node.checks(home)
    assert codes(found) == []
    names = [check.name for check in found]
    assert {"certificate", "sessions: TLS", "enrolment: TCP", "admission", "clock"} <= set(names)
    assert codes(machine.checks(home)) in ([], ["H107"])


def test_a_policy_that_cannot_be_read_or_names_data_that_are_not_there(home: Path) -> None:
    (home / "policy.toml").write_text("foo =")
    assert codes(node.checks(home)) == ["P101"]
    (home / "policy.toml").write_text('[data]\ndirectories = ["/nowhere/at/all"]\n')
    assert codes(node.checks(home)) == ["D201"]
    (home / "policy.toml").write_text(f'[data]\ndirectories = ["{home}"]\n')
    assert codes(node.checks(home)) == []


def test_a_closed_port_is_no_wrong_authority_and_no_expired_certificate(home: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        moved(home, f"127.0.0.1:{closed.getsockname()[1]}")
        assert codes(node.checks(home)) == ["H102"]


def test_a_name_that_nobody_has(home: Path) -> None:
    moved(home, "coordinator.invalid:8440")
    assert codes(node.checks(home)) == ["H101"]


def test_another_authoritys_coordinator(home: Path, tmp_path: Path) -> None:
    other = Authority.open(tmp_path / "other", "neighbours")
    (home / "ca.crt").write_bytes(other.certificate.public_bytes(PEM))
    other.close()
    assert codes(node.checks(home)) == ["H103", "H103"]


def test_a_coordinator_whose_certificate_has_ended(tmp_path: Path) -> None:
    past = Authority.open(tmp_path / "past", "neighbours", lambda: time.time() - 3700 * DAY)
    server, port = serve_enrolment(past, "127.0.0.1:0")
    try:
        roots = tmp_path / "past" / "ca.crt"
        assert codes(network.port("enrolment", f"127.0.0.1:{port}", roots)) == ["H104"]
    finally:
        server.stop(0).wait()
        past.close()


def test_a_node_whose_own_certificate_has_ended(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days, said in ((8.0, "it has ended"), (6.5, "valid for 0.5 days"), (-2.0, "not valid yet")):
        later = SimpleNamespace(time=lambda days=days: time.time() + days * DAY)
        monkeypatch.setattr(node, "time", later)
        (wrong,) = [check for check in node.checks(home) if check.code == "H105"]
        assert said in wrong.saw


@contextmanager
def answering(said: bytes) -> Iterator[str]:
    """The address of something that speaks no TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                connection.sendall(said)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def test_what_speaks_no_tls(home: Path) -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert codes(network.port("sessions", address, home / "ca.crt")) == ["H110"]


def test_a_member_that_is_revoked(house: House, home: Path) -> None:
    house.operator.revoke("cyd")
    assert codes(node.checks(home)) == ["H111"]


def test_approved_code_that_was_changed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agreement = "sha256:" + 64 * "a"
    monkeypatch.setattr(consent, "consents", lambda _: {agreement: None})
    assert codes(node.checks(home)) == []
    folder = consent.folder_of(home, agreement)
    folder.mkdir(parents=True)
    (folder / "agreement.json").write_text("{}")
    assert codes(node.checks(home)) == ["H109"]


def test_clocks_that_are_apart(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "time", SimpleNamespace(time=lambda: time.time() + 300))
    assert codes(node.checks(home)) == ["H106"]


def test_a_directory_that_has_not_joined_or_is_damaged(home: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir(mode=0o700)
    assert codes(node.checks(tmp_path / "new")) == ["H113"]
    (home / "identity.key").write_bytes(b"nonsense")
    assert codes(node.checks(home)) == ["H108"]
    home.chmod(0o755)
    assert "H108" in codes(machine.checks(home))


def test_the_operators_side(house: House) -> None:
    """Nobody listens at the socket here, so it is not being served."""
    assert codes(federation.checks(house.root)) == ["H111"]
    (house.root / "federation" / "ca.key").unlink()
    assert codes(federation.checks(house.root)) == ["H111"]
    (house.root / "federation" / "log.key").unlink()
    assert codes(federation.checks(house.root)) == ["H108"]
