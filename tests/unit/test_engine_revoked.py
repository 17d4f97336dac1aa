"""What a member gave to a batch that is still open does not count once it is revoked."""

from __future__ import annotations

from pathlib import Path

from engine_kit import Bench, errors, member

from barnraise.coordinator.rounds import Policy
from barnraise.coordinator.word import Word


def test_what_a_revoked_member_gave_to_an_open_batch_is_left_out_and_stays_so(
    tmp_path: Path,
) -> None:
    word = Word()
    bench = Bench(tmp_path / "run", word=word)
    bench.will_answer("ada", "bob")
    bench.will_deliver(lambda: (word.exclude("bob"), bench.delivery("cyd"))[1])
    replies = list(bench.grid.send_and_receive(bench.ask()))
    (reason,) = errors(replies).values()
    assert list(errors(replies)) == [member("bob").node_id] and reason.startswith("M112: ")
    again = bench.reopen(word=Word())
    assert errors(list(again.grid.send_and_receive(again.ask()))) == errors(replies)


def test_a_batch_that_falls_below_its_quorum_by_a_revocation_is_void(tmp_path: Path) -> None:
    word = Word()
    word.exclude("bob")
    bench = Bench(tmp_path / "run", policy=Policy(quorum=3), word=word)
    bench.will_answer("ada", "bob", "cyd")
    assert list(bench.grid.send_and_receive(bench.ask())) == []
