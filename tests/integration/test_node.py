"""A real node process against a scripted coordinator: an order's whole way, and what cuts it short."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from node_kit import (
    FEDERATION,
    IDENTITY,
    MEMBER,
    RUN,
    Coordinator,
    Delivered,
    Site,
    ended,
    node_site,
    wait_until,
)

from barnraise.protocols import flower, statements
from barnraise.protocols.content import Failure, Values

LARGE = 3 << 18  # float32s: three pieces of 1 MiB


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator()
    made.serve()
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path: Path, coordinator: Coordinator) -> Iterator[Site]:
    with node_site(tmp_path, coordinator) as made:
        yield made


def metrics(reply: Delivered) -> dict[str, object]:
    (record,) = [r for name, r in reply.envelope.records if name == "metrics"]
    assert isinstance(record, Values)
    return dict(record.items)


def test_an_order_is_trained_signed_delivered_and_kept_until_its_receipt(
    site: Site, coordinator: Coordinator
) -> None:
    process = site.start()
    first = coordinator.order(1.0)
    reply = coordinator.delivered(first)
    public = IDENTITY.public_key().public_bytes_raw()
    said = statements.verify(public, MEMBER, "reply", reply.statement)
    expected = statements.reply_payload(FEDERATION, RUN, first, reply.content, statements.NO_POLICY)
    assert said == expected
    assert metrics(reply) == {"num-examples": 3, "count": 0, "moved": 0}
    assert set(site.kept()["replies"]) == {first}
    coordinator.receipt(first)
    wait_until(lambda: not site.kept()["replies"])
    second = coordinator.order(2.0)
    assert metrics(coordinator.delivered(second)) == {"num-examples": 3, "count": 1, "moved": 10}
    assert site.trained() == [first, second]
    assert {"idle", "training"} <= set(coordinator.states())
    assert ended(process) == 0


def test_nothing_but_the_logs_receipt_makes_a_node_forget(
    site: Site, coordinator: Coordinator
) -> None:
    site.start()
    order = coordinator.order()
    coordinator.delivered(order)
    coordinator.receipt(order, key=Ed25519PrivateKey.generate())
    coordinator.receipt(order, name=f"{FEDERATION}/logs")
    coordinator.push_receipt(b"no receipt")
    wait_until(lambda: site.log.count("N305") == 3)
    assert set(site.kept()["replies"]) == {order}
    coordinator.receipt(order)
    wait_until(lambda: not site.kept()["replies"])


def test_the_same_order_again_brings_the_same_bytes_and_trains_nothing(
    site: Site, coordinator: Coordinator
) -> None:
    site.start()
    order = coordinator.order()
    first = coordinator.delivered(order)
    coordinator.push(coordinator.open[order])
    assert coordinator.delivered(order, times=2).all == first.all
    coordinator.receipt(order)
    wait_until(lambda: not site.kept()["replies"])
    receipted = coordinator.sent[order]
    coordinator.push(receipted)
    coordinator.state("refusing: order")
    assert site.trained() == [order]
    assert "N304" in site.log


def test_a_cut_fetch_goes_on_where_it_was(site: Site, coordinator: Coordinator) -> None:
    coordinator.cut_fetch = 1 << 20
    site.start()
    order = coordinator.order(size=LARGE)
    coordinator.delivered(order)
    (blob,) = {digest for digest, offset in coordinator.fetches if offset}
    offsets = [offset for digest, offset in coordinator.fetches if digest == blob]
    assert offsets == [0, 1 << 20]
    assert site.trained() == [order]


def test_a_session_cut_while_it_trains_costs_no_training(
    site: Site, coordinator: Coordinator, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    site.approve(f"while not os.path.exists({str(gate)!r}):\n    time.sleep(0.01)")
    site.start()
    order = coordinator.order()
    coordinator.state("training")
    coordinator.cut_session()
    coordinator.attended(2)
    gate.touch()
    coordinator.delivered(order)
    assert site.trained() == [order]


def test_a_cut_delivery_goes_on_where_it_was(site: Site, coordinator: Coordinator) -> None:
    coordinator.cut_delivery = 2 << 20
    site.start()
    order = coordinator.order(size=LARGE)
    reply = coordinator.delivered(order)
    first, second = dict(coordinator.wants[:2]), dict(coordinator.wants[2:])
    assert set(first.values()) == {0}
    assert max(second.values()) >= 1 << 20
    assert len(reply.parts) == 2
    assert site.trained() == [order]


def test_a_coordinator_that_comes_later_and_goes_and_comes_again(
    site: Site, coordinator: Coordinator
) -> None:
    coordinator.stop()
    process = site.start()
    wait_until(lambda: (site.home / "logs" / "node.log").exists() and "not connected" in site.log)
    coordinator.serve()
    order = coordinator.order()
    first = coordinator.delivered(order)
    coordinator.stop()
    coordinator.serve()
    assert coordinator.delivered(order, times=2).all == first.all
    assert site.trained() == [order]
    assert ended(process) == 0


def test_an_order_of_another_run_is_refused(site: Site, coordinator: Coordinator) -> None:
    site.start()
    coordinator.order(run="another")
    coordinator.state("refusing: order")
    own = coordinator.order()
    coordinator.delivered(own)
    assert site.trained() == [own]
    assert "N304" in site.log


@pytest.mark.parametrize(
    "other",
    [{"run": "another"}, {"federation": "another"}, {"run_id": "1"}, {"member": "zurich"}],
    ids=lambda other: next(iter(other)),
)
def test_a_coordinator_of_something_else_is_refused(
    site: Site, coordinator: Coordinator, other: dict[str, str]
) -> None:
    coordinator.welcome = other
    site.start()
    coordinator.order()
    coordinator.state("refusing: the coordinator runs")
    assert site.trained() == []
    assert not coordinator.fetches


def test_a_clock_ten_minutes_off_is_a_warning_and_no_more(
    site: Site, coordinator: Coordinator
) -> None:
    coordinator.ahead = 600.0
    site.start()
    coordinator.delivered(coordinator.order())
    assert "WARNING the coordinator's clock and this one are 600 s apart" in site.log


def test_a_reply_that_can_never_be_taken_becomes_an_error(
    site: Site, coordinator: Coordinator
) -> None:
    coordinator.refuse = (grpc.StatusCode.INVALID_ARGUMENT, "N205: a malformed offer")
    site.start()
    order = coordinator.order()
    failure = coordinator.delivered(order).envelope.failure
    assert failure == Failure(flower.RAISED, "its reply cannot be delivered: N205")
    assert site.trained() == [order]
    assert "N307" in site.log


def test_a_reply_whose_file_is_damaged_becomes_an_error(
    site: Site, coordinator: Coordinator
) -> None:
    process = site.start()
    order = coordinator.order()
    assert coordinator.delivered(order).envelope.failure is None
    assert ended(process) == 0
    (blob,) = (site.home / "spool" / "blobs").iterdir()
    blob.unlink()
    coordinator.half.clear()
    coordinator.deliveries.clear()
    site.start()
    failure = coordinator.delivered(order).envelope.failure
    assert failure == Failure(flower.RAISED, "its reply cannot be delivered: its file is damaged")
    assert site.trained() == [order]


@pytest.mark.parametrize(("why", "code"), [("displaced", 0), ("finished", 0), ("revoked", 1)])
def test_a_dismissed_node_ends(site: Site, coordinator: Coordinator, why: str, code: int) -> None:
    process = site.start()
    coordinator.attended()
    coordinator.dismiss(why)
    assert process.wait(60) == code
    assert ("error[N105]" in site.log) == (why == "revoked")


def test_what_a_handler_raises_stays_in_the_sites_log(site: Site, coordinator: Coordinator) -> None:
    site.approve('raise ValueError("the patient is " + "Ada")')
    site.start()
    order = coordinator.order()
    reply = coordinator.delivered(order)
    failure = reply.envelope.failure
    assert failure is not None
    assert failure.code == flower.RAISED
    assert failure.reason.startswith("ValueError at client.py:")
    everything = b"".join(reply.parts.values()) + base64.b64decode(reply.statement["payload"])
    assert b"Ada" not in everything
    assert "Ada" not in site.log
    wait_until(lambda: "ValueError: the patient is Ada" in site.worker_log)


def test_an_app_that_cannot_be_imported_is_answered_with_its_code(
    site: Site, coordinator: Coordinator
) -> None:
    site.approve()
    client = site.home.parent / "app" / "tiny" / "client.py"
    client.write_text("import nothing_of_that_name\n")
    site.approve_again()
    site.start()
    failure = coordinator.delivered(coordinator.order()).envelope.failure
    assert failure == Failure(flower.RAISED, "A103 at client.py:1")
    assert "nothing_of_that_name" in site.worker_log
