"""A worker that is several processes: the launcher is started, and what its first process says is passed on.

The launcher closes what it does not know, the daemon's socket too; so the first process connects to a
socket in the scratch directory instead. Bytes pass both ways as they are.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

SOCKET = "first.sock"
PATIENCE = 120.0  # seconds in which the first process must have connected
_PIECE = 1 << 16
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def run(
    own: socket.socket,
    launcher: Sequence[str],
    scratch: Path,
    hindered: Mapping[str, str],
    *,
    alone: bool,
) -> int:
    """Until the daemon or the launcher ends; the launcher's exit status.

    `alone`: all processes are on this machine, and find each other by its loopback.
    """
    os.chdir(scratch)
    Path(SOCKET).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(SOCKET)
        listening.listen(1)
        listening.settimeout(1.0)
        command = [*_found(launcher), *_PROGRAM, SOCKET, json.dumps(dict(hindered))]
        process = subprocess.Popen(command, env=os.environ | (_LOOPBACK if alone else {}))
        first = _accepted(listening, process)
    if first is None:
        process.kill()
        return process.wait() or 1
    for source, sink in ((own, first), (first, own)):
        threading.Thread(target=_copy, args=(source, sink), daemon=True).start()
    return process.wait()


def _found(launcher: Sequence[str]) -> list[str]:
    """The launcher beside this Python, or else wherever PATH finds it; `torchrun` is torch's own module."""
    if launcher[0] == "torchrun":
        return [sys.executable, "-P", "-m", "torch.distributed.run", *launcher[1:]]
    beside = str(Path(sys.executable).parent)
    path = f"{beside}:{os.environ.get('PATH', os.defpath)}"
    return [shutil.which(launcher[0], path=path) or launcher[0], *launcher[1:]]


_PROGRAM = ("-m", "barnraise.client.node.rank")


def _accepted(listening: socket.socket, process: subprocess.Popen[bytes]) -> socket.socket | None:
    """The first process's connection; None if the launcher ends before, or takes too long."""
    for _ in range(int(PATIENCE)):
        try:
            return listening.accept()[0]
        except TimeoutError:
            if process.poll() is not None:
                return None
    return None


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Bytes from one to the other, and then its end."""
    try:
        while data := source.recv(_PIECE):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
