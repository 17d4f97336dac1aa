"""The zoo: a Flower app that runs any strategy, unmodified, with the same final model however often killed.

Run as a program, this file prints the table of all strategies: the final digest of a first run, of runs
killed at several entries of the journal and resumed, and of a replay with no client.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from barnraise.coordinator import plans, simulate
from barnraise.coordinator.journal import Journal
from barnraise.protocols.identity import site_names

ZOO = Path(__file__).parent / "apps" / "zoo"
SITES = 7  # Bulyan wants 4 f + 3
FLOWERS = (
    "FedAvg",
    "FedAvgM",
    "FedAdam",
    "FedAdagrad",
    "FedYogi",
    "FedMedian",
    "FedTrimmedAvg",
    "Krum",
    "MultiKrum",
    "Bulyan",
    "FedProx",
    "QFedAvg",
    "DifferentialPrivacyServerSideFixedClipping",
    "DifferentialPrivacyServerSideAdaptiveClipping",
    "DifferentialPrivacyClientSideFixedClipping",
    "DifferentialPrivacyClientSideAdaptiveClipping",
)
OURS = ("barnraise-fedavg", "barnraise-diloco")


@pytest.fixture(scope="module", autouse=True)
def a_small_heap() -> Iterator[None]:
    """Flower's strategies collect garbage for every reply; what other tests left need not be searched."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Killed(BaseException):
    """The process is gone. No app and no engine may catch this."""


@dataclass(frozen=True)
class Ended:
    """How a run ended: the model's digest, what the app printed, how long the journal became."""

    digest: str
    printed: str
    entries: int


@dataclass(frozen=True)
class Row:
    """One strategy: `resumed` maps (moment, entry) of each kill to the digest after the resumed run."""

    strategy: str
    first: Ended
    resumed: dict[tuple[str, int], str]
    replayed: Ended
    seconds: float

    @property
    def same(self) -> bool:
        digests = {self.first.digest, self.replayed.digest, *self.resumed.values()}
        return len(digests) == 1

    def __str__(self) -> str:
        shown = [self.first.digest, *sorted(set(self.resumed.values())), self.replayed.digest]
        digests = " | ".join(d.removeprefix("sha256:")[:12] for d in shown)
        mark = "same" if self.same else "DIFFERENT"
        kills = ", ".join(f"{moment} {index}" for moment, index in self.resumed)
        return f"| {self.strategy} | {digests} | {kills} | {self.seconds:.1f} | {mark} |"


def plan_of(strategy: str, rounds: int = 3) -> plans.Plan:
    return plans.app_plan(ZOO, site_names(SITES), {"strategy": strategy, "rounds": rounds}, 0)


def run(strategy: str, directory: Path, kill: tuple[str, int] | None = None) -> Ended:
    """Run the zoo in this process; `Killed` is raised where `kill` says."""

    def failpoint(moment: str, index: int) -> None:
        if (moment, index) == kill:
            raise Killed

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        outcome = simulate.execute(plan_of(strategy), directory, failpoint=failpoint)
    assert outcome.problems == ()
    return Ended(outcome.model, printed.getvalue(), journal_length(directory))


def journal_length(directory: Path) -> int:
    journal = Journal(directory / "journal.db", durable=False)
    try:
        return len(journal)
    finally:
        journal.close()


def replay(directory: Path) -> Ended:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        outcome = simulate.replay(directory)
    return Ended(outcome.model, printed.getvalue(), journal_length(directory))


def measure(strategy: str, where: Path, kills: int) -> Row:
    """Run the strategy once undisturbed, then once for each kill, and replay the first run."""
    started = time.monotonic()
    first = run(strategy, where / "first")
    moments = [
        (("before", "after")[k % 2], 1 + (first.entries - 2) * (k + 1) // (kills + 1))
        for k in range(kills)
    ]
    resumed = {}
    for moment, index in moments:
        directory = where / f"{moment}-{index}"
        with pytest.raises(Killed):
            run(strategy, directory, (moment, index))
        again = run(strategy, directory)
        assert again.entries == first.entries
        resumed[moment, index] = again.digest
    replayed = replay(where / "first")
    return Row(strategy, first, resumed, replayed, time.monotonic() - started)


# --- any strategy, killed and resumed and replayed -----------------------------------------------


@pytest.mark.parametrize("strategy", FLOWERS + OURS)
def test_killed_resumed_and_replayed_it_ends_in_the_same_model(
    strategy: str, tmp_path: Path
) -> None:
    row = measure(strategy, tmp_path, kills=1)
    assert row.same, str(row)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", FLOWERS + OURS)
def test_killed_almost_anywhere_it_ends_in_the_same_model(strategy: str, tmp_path: Path) -> None:
    row = measure(strategy, tmp_path, kills=14)
    assert row.same, str(row)


def test_strategies_end_in_different_models(tmp_path: Path) -> None:
    digests = {run(s, tmp_path / s).digest for s in ("FedAvg", "FedAdam", "Krum", *OURS)}
    assert len(digests) == 5


@pytest.mark.parametrize(("moment", "share"), [("before", 0.35), ("after", 0.7)])
def test_sigkill_and_the_same_command_again(moment: str, share: float, tmp_path: Path) -> None:
    """The real command, killed by the operating system: L2."""
    whole = run("FedYogi", tmp_path / "whole")
    entry = int(whole.entries * share)
    command = [sys.executable, "-m", "barnraise", "sim", "run", str(ZOO), "--json"]
    command += ["--sites", str(SITES), "--dir", str(tmp_path / "killed")]
    command += ["-c", "strategy=FedYogi", "-c", "rounds=3"]
    killed = subprocess.run(
        command,
        env={**os.environ, "BARNRAISE_KILL_AT": f"{moment}:{entry}"},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    assert 0 < journal_length(tmp_path / "killed") < whole.entries
    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert f'"model":"{whole.digest}"' in again.stdout.replace(": ", ":")
    assert journal_length(tmp_path / "killed") == whole.entries


# --- what the app sees ---------------------------------------------------------------------------


def test_queries_state_mods_push_and_pull_say_what_they_should(tmp_path: Path) -> None:
    """Every node told its rows; both messages to it were counted by the mod, in `Context.state`."""
    ended = run("FedAvg", tmp_path)
    first, second = ended.printed.splitlines()
    rows = sum(16 + 5 * number for number in range(SITES))
    assert first == f"{SITES} nodes, {rows} rows, {2 * SITES} messages"
    words = second.split()
    assert words[:2] == ["held-out", "loss"]
    losses = [float(word) for word in words[2:]]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)


def test_a_replay_prints_what_the_run_printed(tmp_path: Path) -> None:
    ran = run("FedMedian", tmp_path)
    again = replay(tmp_path)
    assert all(line in again.printed for line in ran.printed.splitlines())
    assert again.entries == ran.entries


# --- the table -----------------------------------------------------------------------------------


def main(strategies: Sequence[str]) -> None:
    logging.disable(logging.WARNING)
    print("| strategy | first run | killed and resumed | replay | killed at entry | seconds | |")
    print("|---|---|---|---|---|---|---|")
    for strategy in strategies:
        with tempfile.TemporaryDirectory() as where:
            print(measure(strategy, Path(where), kills=4), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or FLOWERS + OURS)
