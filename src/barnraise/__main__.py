"""The command `barnraise`: what must happen before anything else is imported.

A ServerApp runs with `PYTHONHASHSEED=0`, which only a new interpreter can have: a verb that runs one
re-executes this process. With `--json`, stdout is kept for the one JSON object, at the level of the
file descriptor, so that nothing an app prints can get into it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn, TextIO

from barnraise import streams

INTERRUPTED, TERMINATED = 130, 128 + signal.SIGTERM
RUNS_AN_APP = frozenset({"sim", "demo", "serve"})


def main() -> NoReturn:
    """Run the command in `sys.argv`, and exit with its code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core writes to stderr by itself
    argv = sys.argv[1:]
    if 1 in streams.fill_closed() and "--json" in argv:
        sys.exit(_told([], "X104", "stdout is closed, and --json writes to it", "open it"))
    if needs_hash_seed(argv, os.environ):
        execute_again()
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, partial(_terminate, terminated))
    streams.unbreakable()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        stdout = _claim_stdout() if "--json" in argv else sys.stdout
        from barnraise.cli.main import run

        code = run(argv, stdout)
    except KeyboardInterrupt:
        code = _told(argv, "X103", "interrupted", "run the same command again")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if terminated and code == INTERRUPTED:
        code = TERMINATED
    streams.end_anyway(code)
    sys.exit(code)


def _terminate(terminated: list[int], number: int, frame: object) -> None:
    """SIGTERM ends the command as Ctrl-C does: nodes are ended, temporary directories removed."""
    terminated.append(number)
    raise KeyboardInterrupt


def needs_hash_seed(argv: Sequence[str], environment: os._Environ[str] | dict[str, str]) -> bool:
    """Whether this command runs a ServerApp, and this interpreter hashes strings at random."""
    verb = next((a for a in argv if not a.startswith("-")), None)
    return verb in RUNS_AN_APP and environment.get("PYTHONHASHSEED") != "0"


def execute_again() -> NoReturn:
    """The same command line in a new interpreter. A Ctrl-C meanwhile waits until that one listens."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, "PYTHONHASHSEED": "0"})


def _claim_stdout() -> TextIO:
    """What was stdout, for us alone; whatever else is written to stdout goes to stderr."""
    sys.stdout.flush()
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return ours


def _told(argv: Sequence[str], code: str, what: str, next: str) -> int:
    from barnraise.cli.report import Report
    from barnraise.protocols.errors import BarnraiseError

    return Report.of(argv, sys.stdout).fail(BarnraiseError(code, what, next=next))


if __name__ == "__main__":
    main()
