"""The real command: what it shows, what it keeps, how it stops and goes on."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

AppMaker = Callable[..., Path]
Command = Callable[..., Any]
BIN = Path(sys.executable).parent


def model_digest(directory: Path) -> str:
    return "sha256:" + hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


# --- help ---------------------------------------------------------------------------------------


def test_help_answers_in_half_a_second_and_imports_nothing_heavy(barnraise: Command) -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        ran = barnraise("--help")
        seconds.append(time.perf_counter() - started)
        assert ran.code == 0
    assert "sim" in ran.out
    assert statistics.median(seconds) < 0.5
    code = (
        "import sys; from barnraise.cli.main import run\n"
        "run(['sim', 'run', '--help'], sys.stdout)\n"
        "print('heavy:', sorted({'flwr', 'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    assert "heavy: []" in barnraise("-c", code, command=[sys.executable]).out


def test_help_has_many_doors(barnraise: Command) -> None:
    shown = barnraise("--help").out
    assert barnraise("-h").out == barnraise().out == shown
    assert (barnraise("--version").out, barnraise().code) == ("barnraise 0.1.0\n", 0)


# --- a run ----------------------------------------------------------------------------------------


def test_a_run_is_shown_kept_and_not_run_twice(
    barnraise: Command, make_app: AppMaker, tmp_path: Path
) -> None:
    command = ("sim", "run", make_app(), "--sites", "3", "--dir", "d", "-c", "rounds=3 rate=0.1")
    first = barnraise(*command)
    assert first.code == 0, first.err
    assert first.out == "the app says hello\n", "stdout is the app's alone"
    lines = first.err.splitlines()
    assert lines[:2] == ["tiny · 3 members: site-00 site-01 site-02", "directory d"]
    rows = [line for line in lines if line.startswith("batch")]
    assert [row[:35] for row in rows[:2]] == [
        "batch   1 · train    · 3/3 answered",
        "batch   2 · evaluate · 3/3 answered",
    ]
    assert len(rows) == 6
    assert len({len(row) for row in rows}) == 1, "rows align"
    digest = model_digest(tmp_path / "d")
    assert f"digest  {digest}" in lines
    assert lines[-1] == "next: barnraise sim replay d"

    again = barnraise(*command)
    assert (again.code, again.out) == (0, "")
    assert "d was finished before" in again.err
    assert f"digest  {digest}" in again.err
    assert "batch   1" not in again.err

    replayed = barnraise(*lines[-1].split()[2:])
    assert replayed.code == 0, replayed.err
    assert replayed.out == "replayed | the app says hello\n"
    assert "replayed 6 batches from the journal" in replayed.err
    assert f"digest  {digest}" in replayed.err


NOISY = """
import ctypes, os, subprocess, sys
from flwr.app import RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    print("python says", os.environ["PYTHONHASHSEED"], hash("a") == hash("a"))
    os.write(1, b"the descriptor says\\n")
    subprocess.run(["echo", "a child says"])
    ctypes.CDLL(None).printf(b"libc says\\n")
    print("started as", sys.orig_argv)
"""


@pytest.mark.parametrize("start", ["script", "module"])
def test_json_is_all_there_is_on_stdout_and_the_hash_seed_is_fixed(
    barnraise: Command, make_app: AppMaker, start: str
) -> None:
    app = make_app("noisy", server=NOISY)
    command = [str(BIN / "barnraise")] if start == "script" else [sys.executable, "-m", "barnraise"]
    arguments = ["sim", "run", str(app), "--sites", "2", "--json", "-c", "rounds=7"]
    ran = barnraise(*arguments, command=command)
    assert ran.object["ok"], ran.err
    assert ran.object["members"] == ["site-00", "site-01"]
    assert ran.object["directory"] is None
    for words in ("python says 0", "the descriptor says", "a child says", "libc says"):
        assert words in ran.err
    line = next(line for line in ran.err.splitlines() if line.startswith("started as"))
    assert line.endswith(str(arguments)[1:]), "the arguments are kept exactly"


def test_flowers_own_log_is_shown_only_on_request(barnraise: Command, make_app: AppMaker) -> None:
    server = make_app("s").joinpath("s", "server.py").read_text()
    says = "    from flwr.common.logger import log\n    log(20, 'logged by the app')\n"
    app = make_app("logs", server=server + says)
    plain = barnraise("sim", "run", app, "--sites", "2")
    assert "logged by the app" in plain.err
    assert "Starting FedAvg strategy" not in plain.err
    assert "Starting FedAvg strategy" in barnraise("sim", "run", app, "--sites", "2", "-v").err


def test_many_members_are_counted(barnraise: Command, make_app: AppMaker) -> None:
    ran = barnraise("sim", "run", make_app(), "--sites", "32", "-c", "rounds=1")
    assert "32 members: site-00 … site-31" in ran.err
    assert "32/32 answered" in ran.err
    assert max(map(len, ran.err.splitlines())) <= 80


# --- stopping and going on ------------------------------------------------------------------------


def test_a_killed_run_goes_on_to_the_same_model(
    barnraise: Command, make_app: AppMaker, tmp_path: Path
) -> None:
    app = make_app()
    whole = barnraise("sim", "run", app, "--sites", "3", "--json").object["model"]
    killed = subprocess.run(
        [BIN / "barnraise", "sim", "run", app, "--sites", "3", "--dir", "d"],
        cwd=tmp_path,
        env={**os.environ, "BARNRAISE_KILL_AT": "after:13"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    ran = barnraise("sim", "run", app, "--sites", "3", "--dir", "d", "--json")
    assert ran.code == 0, ran.err
    assert "continues where it stopped" in ran.err
    assert "replayed 1 batch from the journal" in ran.err
    assert (ran.object["model"], ran.object["resumed"]) == (whole, True)


PAUSING = """import os, signal
        if not os.path.exists('go'):
            print('paused', flush=True)
            signal.pause()"""


def start_paused(app: Path, tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    """The command in a session of its own, once a member's handler waits for a signal."""
    process = subprocess.Popen(
        [BIN / "barnraise", "sim", "run", app, "--sites", "3", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = process.stderr if "--json" in options else process.stdout
    assert said is not None
    assert any(line == "paused\n" for line in said)
    return process


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ctrl-C as a terminal sends it: to every process of the session. None is left afterwards."""
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return out, err


def test_ctrl_c_keeps_what_was_acknowledged(
    barnraise: Command, make_odd_app: AppMaker, tmp_path: Path
) -> None:
    app = make_odd_app("pausing", {1: PAUSING})
    process = start_paused(app, tmp_path, "--dir", "d")
    _, err = interrupt(process)
    assert process.returncode == 130
    assert "error[X103] interrupted" in err
    assert "is kept in d" in err
    assert f"next: barnraise sim run {app} --sites 3 --dir d\n" in err
    assert "Traceback" not in err
    (tmp_path / "go").touch()
    ran = barnraise("sim", "run", app, "--sites", "3", "--dir", "d")
    assert ran.code == 0, ran.err
    assert "continues where it stopped" in ran.err


def test_ctrl_c_with_json_is_one_object(make_odd_app: AppMaker, tmp_path: Path) -> None:
    app = make_odd_app("pausing", {1: PAUSING})
    process = start_paused(app, tmp_path, "--json")
    out, err = interrupt(process)
    assert (process.returncode, json.loads(out)["error"]) == (130, "X103")
    assert "nothing of it is kept" in json.loads(out)["changed"]
    assert "Traceback" not in err


# --- at a terminal --------------------------------------------------------------------------------


def at_a_terminal(tmp_path: Path, *arguments: str, **more: str) -> str:
    """What the command writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [BIN / "barnraise", *arguments],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": "80", **more},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        shown += piece
    os.close(ours)
    assert process.wait(timeout=20) == 0
    return shown.decode()


def test_a_terminal_gets_colours_and_live_lines_unless_it_wants_none(
    make_odd_app: AppMaker, tmp_path: Path
) -> None:
    app = make_odd_app("odd", {1: "raise RuntimeError"})
    command = ("sim", "run", str(app), "--sites", "3")
    coloured = at_a_terminal(tmp_path, *command)
    assert "\x1b[33msite-01 refused" in coloured
    assert coloured.count("batch   4") == 1, "a row is written once"
    assert coloured.count("the app says hello") == 1
    plain = at_a_terminal(tmp_path, *command, NO_COLOR="1")
    assert "site-01 refused" in plain
    assert "\x1b[33m" not in plain
