"""`barnraise audit` as it is typed: on releases, on the run of a coordinator that lies, on an app."""

from __future__ import annotations

import io
import json
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import audit_kit as kit
import pyrage
import pytest

from barnraise.cli import main
from barnraise.coordinator.plans import app_plan
from barnraise.coordinator.simulate import execute

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
AppMaker = Callable[..., Path]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, what it said, and its object where that was asked for."""

    code: int
    said: str
    object: Any


Typed = Callable[..., Ended]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs a command line in this process."""

    def run(*words: str | Path) -> Ended:
        out = io.StringIO()
        code = main.run([str(word) for word in words], out)
        said = capsys.readouterr().err
        return Ended(code, said, json.loads(out.getvalue()) if "--json" in words else None)

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_data(tmp_path_factory.mktemp("data"))


def released(place: Path, data: Path, terms: str, typed: Typed) -> Path:
    run = kit.conducted(place / "run", data, strategy='name = "krum"', more=f"[release]\n{terms}\n")
    done = typed("release", place / "release", "--dir", run)
    assert done.code == 0, done.said
    return place / "release"


# --- the page -------------------------------------------------------------------------------------------


def shown(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of the page, and the lines that it is said to print."""
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for part in block.split("$ ")[1:]:
            command, *lines = part.splitlines()
            yield command, lines


def test_the_page_is_true(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kit.write_data(tmp_path / "data", ["basel", "geneva", "lausanne", "zurich"])
    (charter,) = re.findall(r"```toml charter.toml\n(.*?)```", PAGE, re.DOTALL)
    Path("charter.toml").write_text(charter)
    steps = list(shown(PAGE))
    assert len(steps) == 6
    for command, lines in steps:
        name, *words = shlex.split(command)
        assert name == "barnraise"
        done = typed(*words)
        assert done.code == 0, done.said
        wanted = ".*".join(re.escape(part) for part in "\n".join(lines).split("…"))
        whole = re.compile(wanted, re.DOTALL if lines == ["…"] else 0)
        assert whole.fullmatch(done.said.rstrip("\n")), (command, done.said)


# --- who may recompute ----------------------------------------------------------------------------------


def test_an_open_release_is_recomputed(data: Path, tmp_path: Path, typed: Typed) -> None:
    release = released(tmp_path, data, 'contributions = "open"', typed)
    done = typed("audit", release, "--json")
    assert done.code == 0
    assert done.object["recomputed"] == [0, 1, 2]
    assert done.object["identical"] is True
    assert done.object["contributions"] == 10
    again = typed("audit", release, "--retrain", "bern", "--round", "1", "--data", data)
    assert again.code == 1
    assert "U109" in again.said  # a release names no seed
    contents = sorted((release / "contributions" / "sha256").rglob("*"), key=lambda p: p.name)
    next(path for path in contents if path.is_file()).unlink()
    assert typed("audit", release, "--json").object["error"] == "U103"


def test_auditors_open_what_is_encrypted_to_them_and_nothing_is_left(
    data: Path, tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [pyrage.x25519.Identity.generate() for _ in range(2)]
    terms = f'contributions = "auditors"\nauditors = ["{keys[0].to_public()}"]'
    release = released(tmp_path, data, terms, typed)
    for name, text in [
        ("right", f"# an auditor\n{keys[0]}\n"),
        ("other", str(keys[1])),
        ("none", "no key"),
    ]:
        (tmp_path / name).write_text(text)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    ends = {
        name: typed("audit", release, "--identity", tmp_path / name, "--json")
        for name in ("right", "other", "none")
    }
    assert ends["right"].code == 0, ends["right"].said
    assert ends["right"].object["recomputed"] == [0, 1, 2]
    assert ends["other"].object["error"] == "U106"
    assert ends["none"].object["error"] == "U107"
    assert typed("audit", release, "--json").object["error"] == "U106"
    assert not list((tmp_path / "temporary").iterdir())


def test_sealed_contributions_are_not_recomputable_by_design(
    data: Path, tmp_path: Path, typed: Typed
) -> None:
    release = released(tmp_path, data, 'contributions = "sealed"', typed)
    done = typed("audit", release, "--json")
    assert done.code == 0
    assert done.object["recomputed"] == []
    assert "by design" in done.said
    assert "model.safetensors is that model" in done.said
    model = release / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")
    assert typed("audit", release, "--json").object["error"] == "U102"
    refused = typed("audit", release, "--round", "1", "--without", "bern", "--json")
    assert refused.object["error"] == "U110"


def test_an_apps_own_strategy_is_its_own_code(
    make_app: AppMaker, tmp_path: Path, typed: Typed
) -> None:
    plan = app_plan(make_app("audited"), ["site-0", "site-1"], {}, 0)
    execute(plan, tmp_path / "run")
    done = typed("audit", tmp_path / "run")
    assert done.code == 0
    assert "a Flower app's strategy is its own code" in done.said
    assert "sim replay" in done.said


def test_a_lie_ends_the_command_with_what_follows_before_it(
    data: Path, tmp_path: Path, typed: Typed
) -> None:
    run = kit.conducted(tmp_path / "run", data, campaign=kit.OtherModel, strategy='name = "fedavg"')
    done = typed("audit", run, "--json")
    assert done.code == 1
    assert done.object["error"] == "U102"
    assert "rounds 0 to 1: identical bytes" in done.said
    assert "2.bias: 1 of 3 elements differ, by 0.25 at most" in done.object["evidence"]


@pytest.mark.parametrize(
    "words",
    [
        "--all --round 1",
        "--retrain bern --data d",
        "--retrain bern --round 1",
        "--without bern",
        "--data d",
        "--round 1 --without bern -c f=1",
        "--round 1 --retrain bern --data d --without bern",
    ],
)
def test_options_that_say_nothing_together_are_wrong_usage(words: str, typed: Typed) -> None:
    done = typed("audit", "nowhere", *words.split(), "--json")
    assert done.code == 2
    assert done.object["error"] == "X102"
