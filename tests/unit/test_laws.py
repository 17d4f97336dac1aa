"""The laws (DESIGN §4), one test named after each, as far as one process can show them.

L7 (the site decides) and L9 (one semantics) need the node and the session, L8 (checkable) also the
release; here stands what it says of the log.
What each law means in detail stands in the tests of its parts; here it is held end to end.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apps
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from engine_kit import NAMES, Bench, errors, good, member
from flwr.app import MetricRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.coordinator import events
from barnraise.coordinator.blobs import RunBlobs
from barnraise.coordinator.fleet import Delivery, Receipt
from barnraise.coordinator.intake import Demands, Weight
from barnraise.coordinator.journal import Journal
from barnraise.coordinator.log import Log
from barnraise.coordinator.rounds import Policy
from barnraise.protocols.canonical import digest
from barnraise.protocols.content import Envelope
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.merkle import ProofError
from barnraise.protocols.notes import NoteError, verifier_key
from barnraise.protocols.tlog_proof import TlogProof
from barnraise.strategies import FedAvg
from barnraise.testing import Federation

TMP = pytest.TempPathFactory


def exact(threads: int = 1) -> Any:
    rule = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1, threads=threads)
    return apps.server_app(rule)


@given(st.permutations(range(4)), st.sampled_from([1, 2, 3]))
@settings(deadline=None, max_examples=6)
def test_l1_exact_for_any_order_of_arrival_and_any_number_of_threads(
    order: list[int], threads: int
) -> None:
    config = {"rounds": 2}
    plain = Federation(members=4).run(exact(), apps.client_app(), config)
    shuffled = Federation(members=4)
    for place, seconds in enumerate(order):
        for number in (1, 2):
            shuffled.delay(f"site-0{place}", round=number, seconds=float(seconds))
    assert shuffled.run(exact(threads), apps.client_app(), config).digest == plain.digest


class Killed(BaseException):
    """Stands for SIGKILL."""


@given(st.lists(st.tuples(st.sampled_from(["before", "after"]), st.integers(0, 30)), max_size=3))
@settings(deadline=None, max_examples=6)
def test_l2_unkillable_at_any_entries_any_number_of_times(
    tmp_path_factory: TMP, kills: list[tuple[str, int]]
) -> None:
    federation, calls = Federation(members=2), list[str]()
    plan = federation.plan(apps.everything(), apps.client_app(), {"rounds": 1})
    whole = federation.execute(plan, None).digest
    place = tmp_path_factory.mktemp("l2") / "run"
    plan = federation.plan(apps.everything(), apps.client_app(calls), {"rounds": 1})
    for moment, index in kills:

        def failpoint(now: str, at: int, deadly: tuple[str, int] = (moment, index)) -> None:
            if (now, at) == deadly:
                raise Killed

        try:
            federation.execute(plan, place, failpoint=failpoint)
        except Killed:
            continue
    assert federation.execute(plan, place).digest == whole
    assert max(Counter(calls).values()) <= 1 + len(kills)


def test_l3_a_receipt_means_durable(tmp_path: Path) -> None:
    """At each receipt the verdict and the reply's bytes are on disk, as another process sees them."""
    bench = Bench(tmp_path / "run")
    seen: list[Receipt] = []

    def acknowledge(receipts: Sequence[Receipt]) -> None:
        log = Journal(bench.root / "journal.db", failpoint=lambda moment, index: None)
        stored = {digest(data): Entry.decode(data) for data in log.raw()}
        log.close()
        on_disk = set(RunBlobs(bench.root / "blobs").all())
        for receipt in receipts:
            body = stored[receipt.entry].body
            assert body["order"] == receipt.order
            assert stored[receipt.entry].type == f"reply.{receipt.verdict}"
            envelope = Envelope.decode(bench.blobs.read(body["content"]))
            assert {body["content"], *envelope.blobs()} <= on_disk
        seen.extend(receipts)

    bench.fleet.acknowledge = acknowledge  # type: ignore[method-assign]
    bench.will_answer("bob")
    bench.will_answer("ada", "cyd")
    bench.will_answer("ada")
    list(bench.grid.send_and_receive(bench.ask()))
    assert len(seen) == 3


deliveries = st.lists(
    st.tuples(
        st.sampled_from(["well", "again", "otherwise", "foreign", "unknown", "earlier"]),
        st.sampled_from(NAMES),
    ),
    max_size=12,
)


@given(deliveries, deliveries)
@settings(deadline=None, max_examples=25)
def test_l4_at_most_once_for_any_sequence_of_deliveries(
    tmp_path_factory: TMP, first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("l4") / "run")

    def make(what: str, name: str) -> Delivery:
        nth = 0 if what == "earlier" else -1
        value = 3.0 if what == "otherwise" else 2.0
        made = bench.delivery(name, good(value), order=bench.order(name, nth))
        if what == "foreign":
            other = NAMES[(NAMES.index(name) + 1) % 3]
            return Delivery(made.order, other, made.content, made.size, made.statement, made.at)
        if what == "unknown":
            order = "sha256:" + "0" * 64
            return Delivery(order, name, made.content, made.size, made.statement, made.at)
        return made

    for value, script in ((1.0, first), (2.0, second)):
        bench.fleet.script.clear()
        for what, name in script:
            bench.will_deliver(lambda what=what, name=name: make(what, name))
        list(bench.grid.send_and_receive(bench.ask(value=value), timeout=5.0))
    bench.fleet.script.clear()
    verdicts = [b["order"] for t, b in bench.entries() if t.startswith("reply.")]
    assert len(verdicts) == len(set(verdicts)) <= 6
    late = {b["order"] for b in bench.bodies("reply.late")}
    counted = [order for body in bench.bodies("batch.closed") for order in body["accepted"]]
    assert len(counted) == len(set(counted)) and late.isdisjoint(counted)
    by_order: dict[str, set[Receipt]] = {}
    for receipt in bench.fleet.receipts:
        by_order.setdefault(receipt.order, set()).add(receipt)
    assert by_order.keys() == set(verdicts) and all(len(r) == 1 for r in by_order.values())


@given(
    st.sampled_from(NAMES),
    st.integers(0, 2),
    st.one_of(st.binary(max_size=40), st.sampled_from(["late name", "weight", "silence"])),
)
@settings(deadline=None, max_examples=25)
def test_l5_one_bad_member_cannot_hurt_a_round(
    tmp_path_factory: TMP, who: str, when: int, what: Any
) -> None:
    bench = Bench(tmp_path_factory.mktemp("l5") / "run", policy=Policy(quorum=2, deadline=9.0))
    bench.grid.demands = Demands(Weight("num-examples", whole=True))
    others = [name for name in NAMES if name != who]

    def bad() -> Sequence[Delivery]:
        records = good(weight=0) if what == "weight" else good()
        if what == "late name":
            records["extra"] = MetricRecord({"a": 1})
        return [bench.delivery(who, what if isinstance(what, bytes) else records)]

    steps = [lambda name=name: [bench.delivery(name)] for name in others]
    if what != "silence":
        steps.insert(when, bad)
    for step in steps:
        bench.will_deliver(step)
    replies = list(bench.grid.send_and_receive(bench.ask()))
    counted = {bench.grid.name_of(m.metadata.src_node_id) for m in replies if m.has_content()}
    assert counted == set(others)
    assert set(errors(replies)) == (set() if what == "silence" else {member(who).node_id})


def test_l6_flat_memory_for_more_members_and_more_rounds() -> None:
    """A model of 4 MB: 24 members more, held at once, would be 96 MB; 6 rounds more, kept, 192 MB."""

    def peak(members: int, rounds: int) -> float:
        probe = Path(__file__).with_name("memory_probe.py")
        command = [sys.executable, str(probe), str(members), str(rounds), "4"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return float(out.split()[-1])

    few = peak(8, 2)
    assert peak(32, 2) < few + 16.0
    assert peak(8, 8) < few + 16.0


KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: TMP) -> Path:
    """The directory of a finished run."""
    place = tmp_path_factory.mktemp("l8") / "run"
    Federation(members=2).run(apps.everything(), apps.client_app(), directory=place)
    return place


def changed(data: bytes, at: float, bit: int) -> bytes:
    """One bit of it is another; `at` says which byte, as a share of its length."""
    position = min(int(at * len(data)), len(data) - 1)
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 7))
@settings(deadline=None, max_examples=40)
def test_l8_checkable_any_changed_bit_of_an_entry_or_of_its_proof_fails(
    finished: Path, tmp_path_factory: TMP, which: float, at: float, bit: int
) -> None:
    with closing(Log(finished / "journal.db", KEY)) as log:
        vkey = verifier_key(log.origin, KEY.public_key().public_bytes_raw())
        size = log.size()
        index = min(int(which * size), size - 1)
        entry, note = log.entry(index), log.checkpoint()
        proof = TlogProof(index, tuple(log.inclusion(index, size)), note).encode()
    assert TlogProof.decode(proof).check(entry, vkey).size == size
    with pytest.raises(ProofError):
        TlogProof.decode(proof).check(changed(entry, at, bit), vkey)
    with pytest.raises((ProofError, NoteError)):
        TlogProof.decode(changed(proof, at, bit)).check(entry, vkey)
    copy = tmp_path_factory.mktemp("copy") / "journal.db"
    shutil.copyfile(finished / "journal.db", copy)
    with closing(sqlite3.connect(copy)) as db, db:
        db.execute("UPDATE entries SET entry=? WHERE idx=?", (changed(entry, at, bit), index))
    with closing(Journal(copy)) as journal, pytest.raises(BarnraiseError, match="damaged"):
        journal.check()


def test_l10_never_silent(tmp_path: Path) -> None:
    """Whatever waits says for whom, since when, and what happens if nothing changes."""
    bench = Bench(tmp_path / "run", policy=Policy(quorum=2, deadline=60.0))
    bench.will_answer("ada", at=4.0)
    waiting: list[tuple[float, str]] = []
    bench.grid._live._watch = lambda event: (  # type: ignore[union-attr,assignment]
        waiting.append((bench.fleet.clock, event.text))
        if isinstance(event, events.Waiting)
        else None
    )
    list(bench.grid.send_and_receive(bench.ask()))
    assert [at for at, _ in waiting] == [0.0, 4.0]
    assert "waits since 4 s for bob, cyd" in waiting[1][1]
    assert "closes in 56 s (deadline), void unless 1 more" in waiting[1][1]
