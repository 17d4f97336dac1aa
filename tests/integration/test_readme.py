"""The README is true: its commands run and its code works. What it shows of the demo: test_demo.py."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = [(lang, text) for lang, text in re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)]


def block(lang: str, part: str) -> str:
    """The one block of this language that holds `part`."""
    (found,) = [text for name, text in BLOCKS if name == lang and part in text]
    return found


def run(line: str, where: Path) -> subprocess.CompletedProcess[str]:
    words = line.split()
    assert words[0] == "barnraise"
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)


def test_the_first_screen_shows_the_two_commands() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in README
        assert f"\n{target}: " in makefile


def test_commands_on_an_app_run(tmp_path: Path) -> None:
    app = ROOT / "benchmarks" / "apps" / "flower_round"
    shutil.copytree(
        app, tmp_path / "path" / "to" / "app", ignore=shutil.ignore_patterns("__pycache__")
    )
    lines = block("", "sim replay run1").splitlines()
    for line in lines:
        done = run(line.replace("rounds=5", "rounds=2"), tmp_path)
        assert done.returncode == 0, done.stderr
    assert len(lines) == 2


def test_members_run_as_nodes_of_their_own(tmp_path: Path) -> None:
    app = ROOT / "benchmarks" / "apps" / "flower_round"
    copy = tmp_path / "path" / "to" / "app"
    shutil.copytree(app, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for line in block("", "sim status run3").splitlines():
        done = run(line, tmp_path)
        assert done.returncode == 0, done.stderr
    assert "site-02" in done.stderr
    assert (tmp_path / "run3" / "nodes" / "site-00" / "logs" / "worker.log").exists()


def test_the_charter_and_the_task_of_ones_own_run(tmp_path: Path) -> None:
    (tmp_path / "halves.py").write_text(block("python", "class Halves"))
    charter = block("toml", "[task]").replace('"causal-lm"', '"halves:Halves"').replace("40", "4")
    (tmp_path / "charter.toml").write_text(charter)
    for member in ("basel", "geneva"):
        (tmp_path / "texts" / member).mkdir(parents=True)
        (tmp_path / "texts" / member / "numbers.txt").write_text(" ".join(map(str, range(-20, 20))))
    done = run(block("", "--data texts").strip(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "round 10/10 · basel geneva" in done.stderr


def test_the_charter_runs_as_it_stands(tmp_path: Path) -> None:
    charter = (
        block("toml", "[task]")
        .replace("steps = 40", "steps = 1")
        .replace("count = 10", "count = 1")
    )
    (tmp_path / "charter.toml").write_text(charter)
    for member in ("basel", "geneva"):
        (tmp_path / "texts" / member).mkdir(parents=True)
        for i in range(20):
            (tmp_path / "texts" / member / f"{i}.txt").write_text(f"{member} says {i}. " * 20)
    done = run(block("", "--data texts").strip(), tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_task_of_ones_own_is_under_40_lines() -> None:
    assert len(block("python", "class Halves").splitlines()) < 40


def test_the_test_in_15_lines_passes(tmp_path: Path) -> None:
    text = block("python", "from barnraise.testing import Federation")
    assert len(text.splitlines()) <= 15
    (tmp_path / "test_mine.py").write_text(text)
    shutil.copy(ROOT / "tests" / "unit" / "apps.py", tmp_path / "apps.py")
    (tmp_path / "myapp.py").write_text(
        "import apps\nclient_app, server_app = apps.client_app(), apps.server_app()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_links_lead_to_files() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
