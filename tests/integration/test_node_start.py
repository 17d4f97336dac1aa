"""How a node starts, and what keeps it from starting; enrolment is the real one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_kit import FEDERATION, MEMBER, RUN, Coordinator, Site, ended, node_site, wait_until

from barnraise.client.enrol import expires, join
from barnraise.client.keys import Membership
from barnraise.coordinator.authority import Authority
from barnraise.coordinator.enrolment import serve_enrolment
from barnraise.protocols.apps import app_digest, code_files


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    made = Coordinator()
    made.serve()
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path: Path, coordinator: Coordinator) -> Iterator[Site]:
    with node_site(tmp_path, coordinator) as made:
        yield made


def refused(site: Site) -> str:
    """What a node that does not start says, and that it has connected to nothing."""
    process = site.start()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert not site.coordinator.sessions
    return said.decode()


def test_a_second_node_in_the_same_directory_is_refused(
    site: Site, coordinator: Coordinator
) -> None:
    first = site.start()
    coordinator.attended()
    second = site.start()
    _, said = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "error[N301]" in said.decode()
    coordinator.delivered(coordinator.order())
    assert ended(first) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"app": "nothing"}, "app is no digest"),
        ({"run_id": "7"}, "run_id is not a positive integer"),
        ({"memory": -1}, "memory is not a positive integer"),
        ({"node_config": {"a": [1]}}, "node_config is not an object"),
        ({"policy": "none"}, "exactly the fields"),
        ({"federation": "another"}, "the node is in 'barn'"),
    ],
)
def test_an_approval_that_cannot_be_used(site: Site, change: dict[str, object], says: str) -> None:
    path = site.home / "approved.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    said = refused(site)
    assert "error[N302]" in said
    assert says in said


def test_a_node_without_an_approval_or_a_directory(site: Site, tmp_path: Path) -> None:
    (site.home / "approved.json").unlink()
    (site.home / "federation.json").unlink()
    assert "error[N116]" in refused(site)
    site.home = tmp_path / "nowhere"
    assert "is no node's directory" in refused(site)


def test_code_that_was_not_approved_is_not_run(site: Site) -> None:
    client = site.home.parent / "app" / "tiny" / "client.py"
    client.write_text(client.read_text() + "\n# changed\n")
    said = refused(site)
    assert "error[N303]" in said
    assert app_digest(code_files(site.home.parent / "app")) in said
    assert not (site.home / "logs" / "worker.log").exists()


def test_a_node_that_was_never_invited(site: Site) -> None:
    (site.home / "federation.json").unlink()
    assert "error[N116]" in refused(site)


def test_a_spool_that_is_damaged(site: Site) -> None:
    (site.home / "spool").mkdir()
    (site.home / "spool" / "current.json").write_text('{"run": ')
    assert "error[D106]" in refused(site)


def test_a_node_joins_with_its_invite_when_the_coordinator_is_there(
    tmp_path: Path, coordinator: Coordinator
) -> None:
    """The invite names a port at which nobody answers yet."""
    authority = Authority.open(tmp_path / "federation", FEDERATION)
    server, port = serve_enrolment(authority, "127.0.0.1:0")
    server.stop(None).wait()
    invite = authority.invitation(
        MEMBER, time.time() + 3600, f"127.0.0.1:{coordinator.port}", f"127.0.0.1:{port}"
    )
    home = tmp_path / "node"
    home.mkdir()
    (home / "invite.txt").write_text(str(invite))
    site = Site(home, coordinator, tmp_path / "notes")
    try:
        site.approve()
        process = site.start()
        wait_until(lambda: (home / "logs/node.log").exists() and "waiting for" in site.log)
        server, _ = serve_enrolment(authority, f"127.0.0.1:{port}")
        wait_until(lambda: Membership.read(home) is not None)
        wait_until(lambda: f"node of run {RUN} starts" in site.log)
        server.stop(None).wait()
        assert ended(process) == 0
    finally:
        site.end()
        authority.close()


def test_a_node_that_waits_for_its_coordinator_can_be_ended(
    tmp_path: Path, coordinator: Coordinator
) -> None:
    authority = Authority.open(tmp_path / "federation", FEDERATION)
    invite = authority.invitation(MEMBER, time.time() + 3600, "127.0.0.1:1", "127.0.0.1:1")
    authority.close()
    home = tmp_path / "node"
    home.mkdir()
    (home / "invite.txt").write_text(str(invite))
    site = Site(home, coordinator, tmp_path / "notes")
    try:
        site.approve()
        process = site.start()
        wait_until(lambda: (home / "logs/node.log").exists() and "waiting for" in site.log)
        assert ended(process) == 0
    finally:
        site.end()


def test_a_certificate_whose_life_is_mostly_over_is_renewed(
    tmp_path: Path, coordinator: Coordinator
) -> None:
    """Six days of seven have passed since it was issued."""
    place = tmp_path / "federation"
    earlier = Authority.open(place, FEDERATION, clock=lambda: time.time() - 6 * 86400)
    server, port = serve_enrolment(earlier, "127.0.0.1:0")
    at = f"127.0.0.1:{port}"
    invite = earlier.invitation(MEMBER, time.time(), f"127.0.0.1:{coordinator.port}", at)
    site = Site(tmp_path / "node", coordinator, tmp_path / "notes")
    join(site.home, invite)
    old = expires(site.home)
    server.stop(None).wait()
    earlier.close()
    authority = Authority.open(place, FEDERATION)
    server, _ = serve_enrolment(authority, at)
    try:
        site.approve()
        process = site.start()
        wait_until(lambda: expires(site.home) > old)
        wait_until(lambda: "the certificate was renewed" in site.log)
        assert ended(process) == 0
    finally:
        site.end()
        server.stop(None).wait()
        authority.close()


@pytest.mark.parametrize("name", ["tls.crt", "ca.crt"])
def test_a_certificate_that_is_none_ends_the_start_at_once(site: Site, name: str) -> None:
    (site.home / name).write_text("-----BEGIN CERTIFICATE-----\nnothing\n")
    said = refused(site)
    assert "error[N115]" in said and name in said
