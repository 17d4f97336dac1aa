"""`docs/log.md`: its commands run, and its few lines of Python check a proof without anything of ours."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from barnraise.protocols.tlog_proof import TlogProof

AppMaker = Callable[..., Path]
Command = Callable[..., Any]

PAGE = (Path(__file__).parents[2] / "docs" / "log.md").read_text()


def test_every_command_of_the_page_runs(
    barnraise: Command, make_app: AppMaker, tmp_path: Path
) -> None:
    done = barnraise("sim", "run", make_app(), "--sites", "3", "--dir", "d")
    assert done.code == 0, done.err
    first = barnraise("log", "show", "d").out.splitlines()[0]
    key = first.split()[-1]
    commands = re.findall(r"^\$ (barnraise .*)$", PAGE, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        words = shlex.split(command.replace("$KEY", key))
        ran = barnraise(*words[1:])
        assert ran.code == 0, (command, ran.err)
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "check.py").write_text(script)
    arguments = ["check.py", "entry.tlog-proof", "entry.tlog-proof.entry", key]
    proof = tmp_path / "entry.tlog-proof"
    bare = proof.read_bytes()
    with_extra = replace(TlogProof.decode(bare), extra=b"{}").encode()
    assert with_extra != bare
    proof.write_bytes(with_extra)  # as a member's receipts have it
    for good in (True, False):
        checked = subprocess.run(
            [sys.executable, "-I", *arguments], cwd=tmp_path, capture_output=True, check=False
        )
        assert (checked.returncode == 0) == good, checked.stderr
        (tmp_path / "entry.tlog-proof.entry").write_bytes(b"{}")
