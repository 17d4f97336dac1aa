"""Replies on their way in, without a wire; what members are doing; and how the store adopts a file."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from engine_kit import Bench, good, member
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.coordinator import rounds
from barnraise.coordinator.blobs import RunBlobs
from barnraise.coordinator.desk import Part
from barnraise.coordinator.incoming import SMALL, Arrival, Offer
from barnraise.coordinator.presence import ABSENT, AT_ONCE, DETAIL_EVERY, Presence, percent
from barnraise.coordinator.refusals import Refused
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.canonical import digest


def parts_of(*datas: bytes) -> tuple[Part, ...]:
    return tuple(Part(digest(data), len(data)) for data in datas)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_sequence_of_cuts_ends_in_the_bytes_that_were_offered(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("incoming") / "ada"
    contents = data.draw(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4))
    contents = list(dict.fromkeys(contents))
    parts = parts_of(*contents)
    of = {digest(c): c for c in contents}
    for most in [*data.draw(st.lists(st.integers(0, 6), max_size=4)), 1000]:
        arrival = Arrival(folder, parts, durable=False)
        lying = sum(f.stat().st_size for f in folder.iterdir())
        assert arrival.done == lying
        for _ in range(most):
            if arrival.complete:
                break
            (name, at), *_ = arrival.wanted()
            size = data.draw(st.integers(1, 25)) if most < 1000 else 25
            arrival.piece(name, at, of[name][at : at + size])
        arrival.close()
    assert arrival.complete and arrival.done == arrival.total == sum(map(len, contents))
    assert {d: p.read_bytes() for d, p in arrival.files.items()} == of


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=1, max_size=30),
    st.integers(0, 40),
    st.binary(max_size=40),
    st.sampled_from(["right", "other"]),
)
def test_no_piece_makes_a_file_longer_than_its_part(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, at: int, piece: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("incoming") / "ada"
    (part,) = parts_of(whole)
    arrival = Arrival(folder, (part,), durable=False)
    try:
        arrival.piece(part.digest if name == "right" else digest(b"other"), at, piece)
        assert name == "right" and at == 0
        assert len(piece) < len(whole) or piece == whole  # a wrong start shows at its end
    except Refused as refused:
        assert refused.code in ("N207", "N208")
        right = name == "right" and at == 0 and 1 <= len(piece) <= len(whole)
        assert (refused.code == "N208") == (right and len(piece) == len(whole))
    finally:
        arrival.close()
    assert all(f.stat().st_size <= part.size for f in folder.iterdir())


@pytest.mark.parametrize(("size", "kept"), [(1, True), (SMALL, True), (SMALL + 1, False)])
def test_a_small_envelope_is_no_file_and_comes_again_after_a_cut(
    tmp_path: Path, size: int, kept: bool
) -> None:
    folder, envelope, blob = tmp_path / "ada", bytes(size), b"a blob"
    parts = parts_of(envelope, blob)
    for came in (1, 2):
        arrival = Arrival(folder, parts, parts[0].digest)
        wanted = [name for name, _ in arrival.wanted()]
        assert wanted == [p.digest for p in parts if kept or came == 1 or p is not parts[0]]
        if parts[0].digest in wanted:
            arrival.piece(parts[0].digest, 0, envelope)
        if came == 2:
            arrival.piece(parts[1].digest, 0, blob)
        arrival.close()
    assert arrival.complete and arrival.done == arrival.total
    assert arrival.envelope == (envelope if kept else None)
    assert {d: p.read_bytes() for d, p in arrival.files.items()} == {
        digest(data): data for data in ([blob] if kept else [envelope, blob])
    }
    assert len(list(folder.iterdir())) == len(arrival.files)


@pytest.mark.parametrize(
    ("envelope", "brought", "wanted"),
    [
        (b"envelope", b"envelope", False),
        (b"envelope", b"envelop!", True),
        (b"envelope", b"envelope and more", True),
        (b"envelope", b"", True),
        (bytes(SMALL), bytes(SMALL), False),
        (bytes(SMALL + 1), bytes(SMALL + 1), True),
    ],
    ids=["it", "another", "longer", "none", "the largest", "too large"],
)
def test_an_envelope_that_an_offer_brings_is_not_wanted_if_it_is_it(
    tmp_path: Path, envelope: bytes, brought: bytes, wanted: bool
) -> None:
    parts = parts_of(envelope, b"blob")
    arrival = Arrival(tmp_path / "ada", parts, parts[0].digest, brought)
    assert arrival.wanted() == [(p.digest, 0) for p in parts if wanted or p is not parts[0]]
    assert arrival.done == (0 if wanted else len(envelope))
    if not wanted:
        assert arrival.envelope == envelope


def test_a_reply_of_a_brought_envelope_alone_is_complete(tmp_path: Path) -> None:
    parts = parts_of(b"envelope")
    arrival = Arrival(tmp_path / "ada", parts, parts[0].digest, b"envelope")
    assert arrival.complete and not arrival.wanted() and arrival.envelope == b"envelope"


def test_a_wrong_envelope_in_memory_is_refused(tmp_path: Path) -> None:
    parts = parts_of(b"envelope", b"blob")
    arrival = Arrival(tmp_path / "ada", parts, parts[0].digest)
    with pytest.raises(Refused) as refused:
        arrival.piece(parts[0].digest, 0, b"envelop!")
    assert refused.value.code == "N208" and not arrival.complete


def test_a_claimed_size_is_recorded_above_the_cap_and_never_without_bound() -> None:
    offer = Offer("o", "c", None, (Part("c", 1 << 63), Part("d", 1 << 63)))
    assert offer.claimed(100) == 1 << 36
    assert offer.claimed(1 << 50) == (1 << 50) + 1
    assert Offer("o", "c", None, (Part("c", 500),)).claimed(100) == 500


def test_an_offer_keeps_no_envelope_that_is_not_small() -> None:
    envelope = bytes(SMALL + 1)
    for brought, kept in ((envelope, b""), (envelope[1:], envelope[1:])):
        part = pb.Part(digest=digest(envelope), size=len(envelope))
        said = pb.Offer(order="o", content=part.digest, parts=[part], envelope=brought)
        assert Offer.of(said).envelope == kept


DEEP = b'{"signatures":[{"sig":"","keyid":' + b"[" * 900 + b"]" * 900 + b"}]}"


@pytest.mark.parametrize(
    "statement", [b"\xff", b"1", b'"text"', b"[" * 100_000, b"{" * 60_000, DEEP]
)
def test_what_is_no_statement_is_none(statement: bytes) -> None:
    said = pb.Offer(order="o", content=digest(b"c"), statement=statement)
    said.parts.add(digest=digest(b"c"), size=1)
    assert Offer.of(said).statement is None


# --- presence -------------------------------------------------------------------------------------------


def test_a_new_state_is_told_at_once_and_details_now_and_then() -> None:
    clock, rung = [0.0], [0]

    def ring() -> None:
        rung[0] += 1

    seen = Presence(["ada", "bob"], lambda: clock[0], ring)
    assert [(m.member, m.state) for m in seen.due()] == [("ada", ABSENT), ("bob", ABSENT)]
    assert seen.due() == [] and seen.next_due() is None
    clock[0] = 5.0
    seen.state("ada", "training")
    assert rung == [1]
    assert [(m.state, m.detail, m.since) for m in seen.due()] == [("training", "", 5.0)]
    for step in range(1, 50):
        seen.progress("ada", "training step", step, 200)
    assert seen.due() == []
    assert seen.next_due() == pytest.approx(5.0 + DETAIL_EVERY)
    clock[0] = 5.0 + DETAIL_EVERY
    assert [(m.detail, m.since) for m in seen.due()] == [("step 49/200", 5.0)]
    seen.detail("ada", "delivering", "40 %")
    assert seen.next_due() is None
    seen.state("ada", "training")
    seen.state("ada", "idle")
    assert [(m.state, m.detail) for m in seen.due()] == [("idle", "")]


def test_a_member_that_is_something_else_all_the_time_floods_nobodys_log() -> None:
    clock, rung = [0.0], [0]

    def ring() -> None:
        rung[0] += 1

    seen = Presence(["ada", "bob"], lambda: clock[0], ring)
    told = []
    for step in range(1000):
        clock[0] += 0.01
        seen.state("ada", f"state {step}")
        told += [m.state for m in seen.due() if m.member == "ada"]
    assert len(told) < AT_ONCE + 2 * 10 / DETAIL_EVERY and rung[0] < 100
    assert told[:3] == ["state 0", "state 1", "state 2"]
    clock[0] += DETAIL_EVERY
    assert [m.state for m in seen.due()] in ([], ["state 999"])
    clock[0] += AT_ONCE * DETAIL_EVERY
    seen.state("ada", "idle")
    assert [m.state for m in seen.due()] == ["idle"]


def test_a_percentage_is_of_something_and_at_most_a_hundred() -> None:
    assert [percent(0, 10), percent(4, 10), percent(10, 10), percent(11, 10), percent(1, 0)] == [
        "0 %", "40 %", "100 %", "100 %", "0 %"
    ]  # fmt: skip


# --- what the store and the journal do for a fleet -----------------------------------------------------


@pytest.mark.parametrize("store", [BlobStore, RunBlobs])
def test_an_adopted_file_is_a_blob_once_synced(tmp_path: Path, store: type[BlobStore]) -> None:
    blobs = store(tmp_path / "blobs")
    name = digest(b"some bytes")
    for round_ in range(3):
        file = tmp_path / "incoming"
        file.write_bytes(b"some bytes")
        blobs.adopt(file, name)
        assert not file.exists() and blobs.read(name) == b"some bytes"
        assert blobs.kept(name).exists() == (round_ > 0)
        blobs.adopt(file, name)
        blobs.sync()
    assert blobs.kept(name).read_bytes() == b"some bytes"
    assert hashlib.sha256(blobs.kept(name).read_bytes()).hexdigest() == name[7:]
    blobs.close()


def test_what_was_adopted_and_not_synced_is_gone_after_a_crash(tmp_path: Path) -> None:
    blobs, name = BlobStore(tmp_path / "blobs"), digest(b"x")
    (tmp_path / "incoming").write_bytes(b"x")
    blobs.adopt(tmp_path / "incoming", name)
    assert not BlobStore(tmp_path / "blobs").has(name)


def test_a_verdict_is_found_from_another_thread_once_it_is_durable(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run")
    bench.will_answer()
    list(bench.grid.send_and_receive(bench.ask()))
    order, found = bench.order("ada"), []

    def look() -> None:
        found.append(bench.log.verdict_of(order.id, "ada"))
        found.append(bench.log.verdict_of(order.id, "bob"))
        found.append(bench.log.verdict_of("sha256:" + "0" * 64, "ada"))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [next(r for r in bench.fleet.receipts if r.order == order.id), None, None]
    bench.journal._db.execute("BEGIN IMMEDIATE")
    bench.journal._db.execute("UPDATE entries SET key='elsewhere' WHERE key=?", (order.id,))
    assert bench.log.verdict_of(order.id, "ada") == found[0]
    bench.journal._db.execute("ROLLBACK")


# --- the grid's part -------------------------------------------------------------------------------------


def test_a_closed_batch_withdraws_what_was_not_answered_also_after_a_restart(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "run", policy=rounds.Policy(deadline=10.0))
    bench.will_answer("ada")
    list(bench.grid.send_and_receive(bench.ask()))
    silent = {bench.order(name).id: name for name in ("bob", "cyd")}
    assert bench.fleet.withdrawn[-1] == silent
    bench.reopen()
    list(bench.grid.send_and_receive(bench.ask()))
    bench.will_answer()
    list(bench.grid.send_and_receive(bench.ask(value=2.0)))
    assert bench.fleet.withdrawn[0] == silent


def test_a_member_off_the_roster_is_not_waited_for(tmp_path: Path) -> None:
    """No deadline and no timeout: the batch closes once all who are still admitted have answered."""
    bench = Bench(tmp_path / "run")
    bench.will_answer("ada", "cyd")

    def revoked() -> list[object]:
        bench.fleet.names.remove("bob")
        return []

    bench.fleet.script.append(revoked)  # type: ignore[arg-type]
    replies = list(bench.grid.send_and_receive(bench.ask()))
    assert {m.metadata.src_node_id for m in replies} == {
        member("ada").node_id,
        member("cyd").node_id,
    }
    (closed,) = bench.bodies("batch.closed")
    assert (closed["reason"], closed["absent"]) == ("all still admitted answered", ["bob"])
    late = bench.delivery("bob", good())
    bench.will_deliver(lambda: late)
    list(bench.grid.pull_messages([]))
    assert bench.types()[-1] == "reply.late"
