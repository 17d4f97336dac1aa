"""What a person sees of a run: rows that align, names instead of numbers, nothing twice."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from barnraise.cli import words
from barnraise.cli.now import Now
from barnraise.cli.rounds import Rounds
from barnraise.coordinator import events

FOUR = ("basel", "geneva", "lausanne", "zurich")


class Clock:
    """A clock that each look moves on by a quarter of a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def shown(
    happened: Iterable[events.Event], *, width: int = 80, terminal: bool = True, seals: bool = False
) -> list[str]:
    """The lines that these events leave on a terminal, or elsewhere."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, no_color=True)
    with Rounds(console, None, seals=seals, clock=Clock()) as rounds:
        for event in happened:
            rounds(event)
    return Text.from_ansi(out.getvalue()).plain.splitlines()


def opened(members: tuple[str, ...] = FOUR, *, resumed: bool = False) -> events.RunOpened:
    return events.RunOpened("0123456789abcdef", "our-app", members, resumed)


def batch(
    number: int,
    members: tuple[str, ...] = FOUR,
    *,
    type: str = "train",
    refused: dict[str, str] | None = None,
    absent: dict[str, str] | None = None,
    void: bool = False,
    replayed: bool = False,
) -> list[events.Event]:
    bad = {**(refused or {}), **(absent or {})}
    accepted = tuple(m for m in members if m not in bad)
    closed = events.BatchClosed(
        number, type, accepted, refused or {}, absent or {}, void, "all", 3_000_000, 0.0, replayed
    )
    return [events.BatchSent(number, type, members, 3_000_000, replayed), closed]


def sealed(number: int, *, replayed: bool = False) -> events.Sealed:
    report = {"round": number, "rounds": 10, "before": {"loss": 2.41}, "after": {"loss": 2.203}}
    return events.Sealed(number, "sha256:00", report, replayed)


def test_a_sealed_round_is_one_row() -> None:
    lines = shown(
        [opened(), *batch(1), *batch(2, type="evaluate"), sealed(3)], seals=True, width=100
    )
    assert lines[0] == "our-app · 4 members: basel geneva lausanne zurich"
    assert lines[2:] == [
        "round  3/10 · basel geneva lausanne zurich · loss 2.410 → 2.203 ·  1.2 s ·  12 MB"
    ]


def test_a_round_fits_in_eighty_columns_with_its_names() -> None:
    [row] = shown([opened(), *batch(1), sealed(10)], seals=True)[2:]
    assert row.split()[:6] == ["round", "10/10", *FOUR]
    assert len(row) <= 80


def test_rows_align_whoever_answered() -> None:
    rounds = [
        [*batch(1), sealed(1)],
        [*batch(2, refused={"geneva": "M106: not finite"}), sealed(2)],
        [*batch(3, absent=dict.fromkeys(FOUR, "silent")), sealed(10)],
    ]
    lines = shown([opened(), *(e for r in rounds for e in r)], seals=True)
    rows = [line for line in lines if line.startswith("round")]
    assert len({row.index("loss") for row in rows}) == 1
    assert "basel        lausanne zurich" in rows[1], "who is missing leaves a gap"


def test_refused_and_absent_members_are_named_with_their_reason() -> None:
    happened = batch(
        1, refused={"geneva": "M106: not finite"}, absent={"basel": "no reply"}, void=True
    )
    for seals in (True, False):
        lines = shown([opened(), *happened, sealed(1)], seals=seals)
        assert "  geneva refused: M106: not finite" in lines
        assert "  basel absent: no reply" in lines
        assert any("void: below quorum, the model stays" in line for line in lines)
        assert sum("geneva refused" in line for line in lines) == 1


def test_a_seal_without_training_is_about_the_initial_model() -> None:
    lines = shown(
        [opened(), *batch(1, type="evaluate"), sealed(0), *batch(2), sealed(1)], seals=True
    )
    assert "the initial model" in lines[2]
    assert lines[2].index("loss") == lines[3].index("loss")


def test_an_app_that_does_not_seal_gets_a_row_per_batch() -> None:
    lines = shown([opened(), *batch(1), *batch(2, type="evaluate"), *batch(3, type="query.name")])
    assert lines[2:] == [
        "batch   1 · train    · 4/4 answered · 0.25 s · 6.0 MB",
        "batch   2 · evaluate · 4/4 answered · 0.25 s · 6.0 MB",
        "batch   3 · query.name · 4/4 answered · 0.25 s · 6.0 MB",
    ]


def test_an_app_that_turns_out_to_seal_gets_no_more_batch_rows() -> None:
    lines = shown([opened(), *batch(1), sealed(1), *batch(2), sealed(2)])
    heads = [line.split()[0] for line in lines[2:]]
    assert heads == ["batch", "round", "round"]


def test_a_round_whose_training_was_replayed_names_who_trained() -> None:
    lines = shown(
        [opened(resumed=True), *batch(1, replayed=True), *batch(2, type="evaluate"), sealed(1)],
        seals=True,
    )
    assert "basel geneva lausanne zurich" in lines[-1] and "initial" not in lines[-1]


@pytest.mark.parametrize("seals", [True, False])
def test_many_members_are_counts(seals: bool) -> None:
    many = tuple(f"site-{i:02}" for i in range(32))
    bad = dict.fromkeys(many[:20], "M106: not finite")
    lines = shown([opened(many), *batch(1, many, refused=bad), sealed(1)], seals=seals)
    assert "32 members: site-00 … site-31" in lines[0]
    assert any("12 of 32 members" in line or "12/32 answered" in line for line in lines)
    assert sum("refused" in line for line in lines) == words.FEW + 1
    assert "  and 12 more refused" in lines
    assert max(map(len, lines)) <= 80


def test_what_is_replayed_is_one_line() -> None:
    past = [e for n in range(1, 51) for e in batch(n, replayed=True)]
    lines = shown([opened(resumed=True), *past, sealed(25, replayed=True), *batch(51)])
    assert lines[1].endswith("continues where it stopped")
    assert (
        lines[2]
        == "replayed 50 batches from the journal, up to the seal of round 25; no member was asked"
    )
    assert len(lines) == 4
    assert (
        shown([opened(), *past])[2] == "replayed 50 batches from the journal; no member was asked"
    )


def test_the_lines_below_say_who_is_where_and_for_whom_it_waits() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    now = Now(console, Clock())
    sent, closed = batch(3)
    for event in (
        opened(),
        sent,
        events.Waiting(
            "batch 3 (train)", ("geneva", "zurich"), 0, 12.0, 60.0, "(deadline) without them"
        ),
        events.Answered(3, "basel", "accepted", "", 10, 0.0),
        events.Progress("geneva", "training step", 31, 200),
        events.MemberState("zurich", "absent", "", 0.0),
    ):
        now.see(event)
    assert now.text() == [
        "train · 1/4 answered · 1.2 s",
        "basel     accepted",
        "geneva    training step 31/200",
        "lausanne  idle",
        "zurich    absent since 0.25 s",
        "batch 3 (train) waits since 13 s for geneva, zurich; closes in 59 s (deadline) without them",
    ]
    names = tuple(f"member-{i}" for i in range(20))
    now.see(events.Waiting("batch 3 (train)", names, 0, 0.0, None, "nothing limits the wait"))
    drawn = now._render().plain.splitlines()
    assert len(drawn) > 3, "what does not fit in a line goes on in the next"
    assert max(map(len, drawn)) <= 78, "an echoed ^C still fits beside it"
    now.see(closed)
    assert now.text() == []


@given(st.integers(0, 10**17))
@settings(deadline=None, max_examples=200)
def test_any_size_fits_six_columns(count: int) -> None:
    assert len(words.size(count)) <= 6


@given(st.floats(0, 3.5e6))
@settings(deadline=None, max_examples=200)
def test_any_duration_fits_six_columns(seconds: float) -> None:
    assert len(words.duration(seconds)) <= 6


def test_numbers_as_people_read_them() -> None:
    assert [words.size(n) for n in (0, 999, 1000, 5_960_000, 12_400_000, 1.5e9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "6.0 MB",
        "12 MB",
        "1.5 GB",
    ]
    assert [words.duration(s) for s in (0.04, 0.999, 12.34, 99.96, 1000, 7200, 4e5)] == [
        "0.04 s",
        "1.0 s",
        "12.3 s",
        "100 s",
        "17 min",
        "2.0 h",
        "111 h",
    ]
    assert words.change({}, {"accuracy": 0.5, "loss": 1.0}) == "loss 1.000"
    assert words.change({"accuracy": 0.25}, {"accuracy": 0.5}) == "accuracy 0.250 → 0.500"
    assert words.change({}, {}) == ""
    assert [words.count(n, "batch") for n in (1, 2)] == ["1 batch", "2 batches"]
