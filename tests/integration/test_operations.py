"""`docs/operations.md`, as it stands: watched, copied in a run, restored, moved, rolled back."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from walkthrough_kit import Deed, Typed, Walk, matches, steps

from barnraise.coordinator.log import Log

ROOT = Path(__file__).parents[2]
MEMBERS = ("basel", "bern")
CHARTER = """
name = "neighbours"
[task]
name = "causal-lm"
context = 16
width = 16
layers = 1
heads = 2
[training]
steps = 1
batch = 4
[rounds]
count = 1
"""


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Walk]:
    monkeypatch.setenv("COLUMNS", "200")
    walk = Walk(tmp_path, MEMBERS)
    walk.known |= {port: str(free_port()) for port in ("9464", "9465")}
    try:
        yield walk
    finally:
        walk.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def types(walk: Walk, who: str, line: str, *printed: str) -> None:
    walk.type(Typed(who, f"barnraise {line}", printed))


def founded(walk: Walk) -> None:
    """A federation of two that attend and have signed, served by nobody at the end."""
    types(walk, "operator", "found neighbours --host coordinator.example.org", "…")
    (walk.home("operator") / "neighbours" / "charter.toml").write_text(CHARTER)
    types(walk, "operator", "serve neighbours &", "neighbours is served at …")
    for name in MEMBERS:
        types(walk, "operator", f"invite {name} --dir neighbours > {name}.invite")
        types(walk, name, f"join {name}.invite --dir node &", "…", "waiting for the operator …")
        digits = walk.known[f"FINGERPRINT OF {name}"]
        types(
            walk, "operator",
            f'members confirm {name} --fingerprint "{digits}" --dir neighbours',
            f"{name} is a member",
        )  # fmt: skip
        node = walk.home(name) / "node"
        walk.until((node / "policy.toml").exists, "the node's directory")
        data = walk.home(name) / "data"
        data.mkdir()
        for path in (ROOT / "coordinator").glob("[a-d]*.py"):
            shutil.copy(path, data)
        (node / "policy.toml").write_text(f'[data]\ndirectories = ["{data}"]\n')
        types(walk, name, "node up node &")
    types(walk, "operator", "run open --dir neighbours", "error[F110] …", "…")
    for name in MEMBERS:
        types(walk, name, "node review --dir node", "…")
        types(walk, name, "node approve AGREEMENT --dir node", "…")
    ended(walk, "operator serve", signal.SIGTERM)
    ended(walk, "basel node", signal.SIGTERM)


def ended(walk: Walk, key: str, number: int) -> None:
    walk.running[key].process.send_signal(number)
    walk.ended(key)


def entries(root: Path) -> int:
    log = Log(root / "journal.db")
    try:
        return log.size()
    finally:
        log.close()


def do(walk: Walk, words: tuple[str, ...]) -> None:
    operator = walk.home("operator")
    match words:
        case ("healthz", port, *why):
            healthz(walk, int(walk.known[port]), " ".join(why))
        case ("waits",):
            types(walk, "bern", "node pause --why away --dir node", "…")
            types(walk, "operator", "run open --wait --dir neighbours", "…")
            walk.until(lambda: "bern" in why_it_waits(walk), "a wait for bern alone")
        case ("dies",):
            assert entries(operator / "copy-1") == entries(operator / "neighbours")
            ended(walk, "operator serve", signal.SIGKILL)
        case ("goes", "on"):
            types(walk, "bern", "node resume --dir node", "…")
        case ("stop",):
            ended(walk, "operator serve", signal.SIGTERM)
        case ("readdress", name):
            path = operator / name / "federation.toml"
            held = path.read_text()
            for key in ("session", "enrolment"):
                (port,) = [
                    x.split(":")[1].split('"')[0] for x in held.splitlines() if f"{key} =" in x
                ]
                held = held.replace(f":{port}", f":{free_port()}")
            path.write_text(held)
        case ("rollback",):
            types(walk, "operator", "backup older --dir copy-1", "…")
        case ("old", "copy"):
            older(walk)
        case _:
            raise AssertionError(words)


def healthz(walk: Walk, port: int, why: str) -> None:
    def answer() -> dict[str, object]:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/healthz")
        return json.loads(connection.getresponse().read())  # type: ignore[no-any-return]

    walk.until(lambda: matches([why], [str(answer()["why"])]), "health")
    walk.until(lambda: "2 of 2" in str(answer()["why"]), "all members")


def why_it_waits(walk: Walk) -> str:
    code, out, _ = walk.once("operator", "barnraise run why --dir neighbours --json")
    why = str(json.loads(out).get("why", "")) if code == 0 else ""
    return why if "basel" not in why and "batch" in why else ""


def older(walk: Walk) -> None:
    """An old copy is served at the address of now: nodes stop, and go on once their admins accept it."""
    operator = walk.home("operator")
    ended(walk, "operator serve", signal.SIGTERM)
    shutil.copy(operator / "elsewhere" / "federation.toml", operator / "older" / "federation.toml")
    seen = [
        int((walk.home(name) / "node" / "witness" / "checkpoint").read_text().splitlines()[1])
        for name in MEMBERS
    ]
    assert min(seen) > entries(operator / "older")
    types(walk, "operator", "serve older &", "neighbours is served at …")
    types(walk, "operator", "run open --wait --dir older", "…")
    for name in MEMBERS:
        code, said = walk.ended(f"{name} node")
        assert code == 1 and "N311" in said, said
        for folder in ("evidence", "witness"):
            (walk.home(name) / "node" / folder).rename(walk.home(name) / folder)
        types(walk, name, "node up node &")
    types(walk, "operator", "run watch --dir older", "…", "…  finished  sha256:…")
    types(walk, "operator", "log check older", "…")


@pytest.mark.slow
def test_the_page_is_true(walk: Walk) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    founded(walk)
    for step in steps(page):
        if isinstance(step, Deed):
            do(walk, step.words)
        else:
            assert isinstance(step, Typed)
            walk.type(step)
