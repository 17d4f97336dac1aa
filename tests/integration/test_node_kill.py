"""SIGKILL of daemon and worker at each point of an order's way (L2): the same bytes, no training lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_kit import Coordinator, Delivered, Site, node_site, wait_until

from barnraise.client.node import failpoints

AFTER_THE_RECEIPT = ("daemon:receipted", "daemon:forgotten")
COMMITTED = ("daemon:committed", "daemon:delivered", *AFTER_THE_RECEIPT)
QUICK = ("daemon:committed", "daemon:forgotten")  # more in tests/faults/test_process_kills.py
Replies = list[tuple[str, dict[str, Any], dict[str, bytes]]]


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


def settled(site: Site, coordinator: Coordinator, order: str) -> Delivered:
    """The order's reply, after the node has forgotten it."""
    reply = coordinator.delivered(order)
    coordinator.receipt(order)
    wait_until(lambda: not site.kept()["replies"])
    return reply


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Replies:
    """Two orders' replies from a node that nobody killed."""
    coordinator = Coordinator()
    coordinator.serve()
    with node_site(tmp_path_factory.mktemp("undisturbed"), coordinator) as site:
        site.start()
        replies = [settled(site, coordinator, coordinator.order(v)).all for v in (1.0, 2.0)]
        assert len(site.trained()) == 2
    coordinator.stop()
    return replies


def killed_at(point: str, site: Site, coordinator: Coordinator, tmp_path: Path) -> Replies:
    """The same two orders' replies, with a kill during the first; trained at most once per commit."""
    kill = f"{point}:{tmp_path / 'killed'}"
    process = site.start(**{failpoints.VARIABLE: kill})
    first = coordinator.order(1.0)
    if point in AFTER_THE_RECEIPT:
        coordinator.delivered(first)
        coordinator.receipt(first)
    if point in failpoints.IN_DAEMON:
        assert process.wait(60) == -signal.SIGKILL
        site.start()
    replies = [coordinator.delivered(first)]
    if point == "daemon:forgotten":
        assert not site.kept()["replies"]
    else:
        settled(site, coordinator, first)
    replies.append(settled(site, coordinator, coordinator.order(2.0)))
    assert (tmp_path / "killed").exists()
    assert site.trained().count(first) <= (1 if point in COMMITTED else 2)
    return [reply.all for reply in replies]


@pytest.mark.parametrize("point", QUICK)
def test_killed_at_this_point_its_replies_are_the_same(
    site: Site, coordinator: Coordinator, tmp_path: Path, undisturbed: Replies, point: str
) -> None:
    assert killed_at(point, site, coordinator, tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("point", [*failpoints.IN_WORKER, *failpoints.IN_DAEMON])
def test_killed_at_any_point_its_replies_are_the_same(
    site: Site, coordinator: Coordinator, tmp_path: Path, undisturbed: Replies, point: str
) -> None:
    assert killed_at(point, site, coordinator, tmp_path) == undisturbed


def test_a_kill_in_the_middle_of_training_costs_no_commit(
    site: Site, coordinator: Coordinator, tmp_path: Path, undisturbed: Replies
) -> None:
    """Killed by hand while its handler waits, and started again."""
    gate = tmp_path / "gate"
    site.approve(f"while not os.path.exists({str(gate)!r}):\n    time.sleep(0.01)")
    process = site.start()
    first = coordinator.order(1.0)
    wait_until(lambda: site.trained() == [first])
    process.kill()
    process.wait()
    gate.touch()
    site.start()
    assert settled(site, coordinator, first).all == undisturbed[0]
    assert site.trained() == [first, first]
