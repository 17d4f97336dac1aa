"""The demo through the real command: what it shows and leaves behind; interrupted and continued (slow).

It is the real demo but for its charter: fewer steps and less held-out text, so that it takes seconds.
What the README shows of it is held against what it prints.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from barnraise.demo.federation import prepare

README = Path(__file__).parents[2] / "README.md"
ROUNDS = 2
STEPS = 8
SHORTER = {"steps = 40": f"steps = {STEPS}", "held_out = 0.3": "held_out = 0.1"}
MEMBERS = ["basel", "geneva", "lausanne", "zurich"]


def command(home: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "barnraise", "demo", "--dir", str(home), *options]


def lay_out(home: Path) -> None:
    """What the command lays out in an empty directory, shortened."""
    prepare(home, ROUNDS)
    for name in ("charter.toml", "alone.toml"):
        text = (home / name).read_text()
        for long, short in SHORTER.items():
            assert long in text
            text = text.replace(long, short)
        (home / name).write_text(text)


def shape(line: str) -> str:
    """A line with its numbers and alignment taken out."""
    return " ".join(re.sub(r"\d+(\.\d+)?", "#", line).split())


def processes_about(home: Path) -> list[int]:
    """Living processes whose command line names the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(home) in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def finish(home: Path, *options: str) -> str:
    """What the command says, which comes to its end and leaves no process behind."""
    done = subprocess.run(command(home, *options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert processes_about(home) == []
    return done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo's directory, and what the command said."""
    home = tmp_path_factory.mktemp("demo") / "barnraise-demo"
    lay_out(home)
    return home, finish(home, "--rounds", str(ROUNDS))


@pytest.mark.slow
def test_an_interrupted_demo_says_what_is_kept_and_the_same_command_continues(
    tmp_path: Path,
) -> None:
    home = tmp_path / "barnraise-demo"
    lay_out(home)
    first = subprocess.Popen(
        command(home, "--rounds", str(ROUNDS)), stderr=subprocess.PIPE, text=True
    )
    assert first.stderr is not None
    said = ""
    for line in first.stderr:
        said += line
        if line.startswith("round 1/"):
            first.send_signal(signal.SIGINT)
    assert first.wait() == 130, said
    assert processes_about(home) == []
    assert "error[X103] interrupted" in said
    assert "Traceback" not in said
    assert "next: " in said
    assert "round 1/2" in said
    second = finish(home)
    assert "round 1/2" not in second
    assert "round 2/2" in second


def test_each_round_says_who_answered_and_how_the_loss_moved(
    finished: tuple[Path, str],
) -> None:
    row = next(line for line in finished[1].splitlines() if line.startswith("round 2/2"))
    assert " ".join(MEMBERS) in row
    assert re.search(r"loss \d\.\d{3} → \d\.\d{3} · +[\d.]+ s · +[\d.]+ MB", row)


def test_the_metrics_are_those_of_the_journals(finished: tuple[Path, str]) -> None:
    home = finished[0]
    metrics = json.loads((home / "metrics.json").read_text())
    assert [r["round"] for r in metrics["rounds"]] == [0, 1, 2]
    assert all(r["accepted"] == MEMBERS for r in metrics["rounds"][1:])
    assert metrics["rounds"][2]["after"] < metrics["rounds"][0]["after"]
    assert metrics["together"]["loss"] == metrics["rounds"][2]["after"]
    assert metrics["local_steps"] == STEPS * ROUNDS
    assert set(metrics["alone"]) == set(MEMBERS)
    best = min(one["loss"] for one in metrics["alone"].values())
    assert metrics["gain"]["nats_per_byte"] == pytest.approx(best - metrics["together"]["loss"])


def test_members_differ_and_share_no_text(finished: tuple[Path, str]) -> None:
    held = [{p.read_bytes() for p in (finished[0] / "data" / m).rglob("*.py")} for m in MEMBERS]
    assert all(held)
    assert sum(map(len, held)) == len(set().union(*held))


def test_it_leaves_a_model_a_plot_and_a_text(finished: tuple[Path, str]) -> None:
    home = finished[0]
    size = sum(a.size for a in load_file(home / "model.safetensors").values())
    assert 200_000 < size < 1_000_000
    assert (home / "loss.svg").read_text().lstrip().startswith("<?xml")
    assert (home / "sample.txt").read_text().startswith("def ")


def test_a_finished_demo_is_shown_and_not_trained_again(finished: tuple[Path, str]) -> None:
    home = finished[0]
    before = (home / "together" / "journal.db").stat().st_mtime_ns
    words = [sys.executable, "-m", "barnraise", "demo", "--json"]
    shown = subprocess.run(words, cwd=home.parent, capture_output=True, text=True, check=False)
    assert shown.returncode == 0
    assert (
        json.loads(shown.stdout)["digest"]
        == json.loads((home / "metrics.json").read_text())["digest"]
    )
    assert "is finished" in shown.stderr
    assert "round 1/2" in shown.stderr
    assert (home / "together" / "journal.db").stat().st_mtime_ns == before


def test_what_the_readme_shows_is_what_it_prints(finished: tuple[Path, str]) -> None:
    home, text = finished
    shown = re.search(r"<!-- demo -->\n```\n(.*?)```", README.read_text(), re.DOTALL)
    assert shown is not None
    said = text.replace(str(home), home.name)
    printed = {shape(line) for line in said.splitlines()}
    lines = [shape(line) for line in shown.group(1).splitlines()]
    assert len(lines) > 20
    for line in lines:
        if not line.startswith("together is better") and not line.startswith("together did NOT"):
            assert line in printed, line


def test_it_replays_without_clients(finished: tuple[Path, str]) -> None:
    home = finished[0]
    words = [sys.executable, "-m", "barnraise", "sim", "replay", str(home / "together"), "--json"]
    replayed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert replayed.returncode == 0, replayed.stderr
    assert (
        json.loads(replayed.stdout)["model"]
        == json.loads((home / "metrics.json").read_text())["digest"]
    )


def test_another_number_of_rounds_is_another_demo(finished: tuple[Path, str]) -> None:
    refused = subprocess.run(
        command(finished[0], "--rounds", "3"), capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "error[D101]" in refused.stderr


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    refused = subprocess.run(command(tmp_path), capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "error[D101]" in refused.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
