"""The real command when its streams are closed, full or unread, and when an app leaves threads behind."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_kit import COMMAND, SERVER, environment

AppMaker = Callable[..., Path]
Command = Callable[..., Any]


def shell(line: str, cwd: Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash in which `barnraise` is the real command."""
    script = f'set -o pipefail; barnraise() {{ {shlex.quote(str(COMMAND))} "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", script],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        (">&-", 1, "error[X104] stdout is closed"),
        (">/dev/full", 1, "error[X104] the result cannot be written"),
        ("2>/dev/full", 0, ""),
        ("2>&-", 0, ""),
        ("2>&1 >/dev/null | head -c 10", 0, ""),
    ],
)
def test_json_with_streams_that_cannot_be_written(
    make_app: AppMaker, tmp_path: Path, streams: str, code: int, said: str
) -> None:
    make_app()
    ran = shell(f"barnraise sim run tiny --sites 2 --dir d --json {streams}", tmp_path)
    assert ran.returncode == code, ran.stderr
    assert said in ran.stderr and "Traceback" not in ran.stderr
    assert (tmp_path / "d" / "model.safetensors").is_file() == (streams != ">&-")
    if code == 0 and "|" not in streams:
        assert json.loads(ran.stdout)["ok"] is True


@pytest.mark.parametrize("streams", ["2>&1 | head -1", ">/dev/full", ">&-", "2>&-", "2>/dev/full"])
def test_a_run_that_nobody_reads_comes_to_its_end(
    make_app: AppMaker, tmp_path: Path, streams: str
) -> None:
    make_app()
    ran = shell(f"barnraise sim run tiny --sites 2 --dir d {streams}", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert (tmp_path / "d" / "model.safetensors").is_file()


def test_what_cannot_be_said_still_has_its_exit_code(tmp_path: Path) -> None:
    assert shell("barnraise sim run nowhere --sites 2 2>/dev/full", tmp_path).returncode == 1
    assert shell("barnraise sim fly 2>&-", tmp_path).returncode == 2


def test_an_empty_dir_is_no_directory(barnraise: Command, make_app: AppMaker) -> None:
    ran = barnraise("sim", "run", make_app(), "--sites", "2", "--dir", "")
    assert ran.code == 2 and "error[X102] --dir is empty" in ran.err


def threaded(body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"import threading\n{SERVER}{lines}"


def test_a_thread_that_an_app_leaves_does_not_keep_the_command(
    barnraise: Command, make_app: AppMaker
) -> None:
    server = threaded("threading.Thread(target=threading.Event().wait, name='stuck').start()")
    ran = barnraise("sim", "run", make_app(server=server), "--sites", "2", "--json", seconds=40)
    assert ran.code == 0 and ran.object["ok"] is True
    assert "left threads running: stuck; the command ends without them" in ran.err
    ends = threaded("threading.Timer(0.2, print, ['the thread is done']).start()")
    ran = barnraise("sim", "run", make_app("ending", server=ends), "--sites", "2")
    assert "the thread is done" in ran.out and "left threads" not in ran.err


def test_threads_that_call_the_grid_are_told_once(barnraise: Command, make_app: AppMaker) -> None:
    body = """
inside = threading.Event()
class Slow(list):
    def __iter__(self):
        inside.set()
        return super().__iter__()
def ask():
    inside.wait()
    while True:
        list(grid.get_node_ids())
threading.Thread(target=ask, daemon=True).start()
from flwr.app import Message, RecordDict
while True:
    order = [Message(RecordDict({"arrays": model}), n, "train") for n in grid.get_node_ids()]
    list(grid.send_and_receive(Slow(order)))
"""
    ran = barnraise("sim", "run", make_app(server=threaded(body)), "--sites", "2")
    assert ran.code == 1 and "error[A203]" in ran.err and "Traceback" not in ran.err
    assert "nothing of it is kept" in ran.err


def test_a_model_that_is_not_finite_is_said_loudly(barnraise: Command, make_app: AppMaker) -> None:
    server = SERVER.replace(
        "    rule.start(",
        "    class Broken(FedAvg):\n"
        "        def aggregate_train(self, n, replies):\n"
        "            arrays, metrics = super().aggregate_train(n, replies)\n"
        "            arrays['b'] = Array(arrays['b'].numpy() * np.float32('inf'))\n"
        "            return arrays, metrics\n"
        "    rule = Broken(min_train_nodes=1, min_available_nodes=nodes, fraction_evaluate=0.0)\n"
        "    context.run_config['rounds'] = 1\n"
        "    rule.start(",
    )
    ran = barnraise("sim", "run", make_app(server=server), "--sites", "2", "--dir", "d")
    assert ran.code == 0, ran.err
    assert "WARNING: the final model holds NaN or infinity in b" in ran.err
    again = barnraise("sim", "run", "tiny", "--sites", "2", "--dir", "d", "--json")
    assert again.object["fault"] == "the final model holds NaN or infinity in b"
