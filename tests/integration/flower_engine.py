"""Flower's own programs on this machine: a SuperLink, SuperNodes, `flwr run`. Free ports, no TLS."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

APP = Path(__file__).parents[2] / "deploy" / "flower"
PROGRAMS = Path(sys.executable).parent
CONNECTION = """[superlink]
default = "here"

[superlink.here]
address = "{address}"
insecure = true
{options}
"""


class Engine:
    """A SuperLink and what is connected to it, for as long as the context lasts."""

    def __init__(self, place: Path, stack: ExitStack, simulated: int = 0) -> None:
        self.place, self._stack = place, stack
        self.address = f"127.0.0.1:{_port()}"
        self.log = place / "flower.log"
        (place / "flwr").mkdir(parents=True)
        options = f"options.num-supernodes = {simulated}" if simulated else ""
        text = CONNECTION.format(address=self.address, options=options)
        (place / "flwr" / "config.toml").write_text(text)
        host, port = self.address.split(":")
        flags = ["--disable-runtime-dependency-installation"]
        flags += ["--simulation"] if simulated else []
        self.superlink = self.start("flower-superlink", "--host", host, "--port", port, *flags)
        until(lambda: _open(host, int(port)), 60.0, self.said)

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(PROGRAMS / program), "--insecure", *arguments]
        return self._stack.enter_context(_process(command, self._environment(), self.log))

    def node(self, config: str) -> subprocess.Popen[bytes]:
        port = str(_port())
        link = ["--superlink", self.address, "--port", port]
        return self.start("flower-supernode", *link, "--node-config", config)

    def run(self, app: Path, config: Mapping[str, Any]) -> None:
        """`flwr run`: it returns when the run has begun."""
        said = " ".join(f"{k}={v!r}".replace("True", "true") for k, v in config.items())
        command = [str(PROGRAMS / "flwr"), "run", str(app), "here", "-c", said]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "FLWR_HOME": str(self.place / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
        }

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


@contextmanager
def engine(place: Path, simulated: int = 0) -> Iterator[Engine]:
    with ExitStack() as stack:
        yield Engine(place, stack, simulated)


def until(true: Callable[[], bool], seconds: float, said: Callable[[], str] = str) -> None:
    """Look again and again until it is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, said()
        threading.Event().wait(0.1)


@contextmanager
def _process(
    command: list[str], env: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own, so that all that it starts can be ended with it."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, env=dict(env), stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):  # an app that Flower started and did not end
            os.killpg(process.pid, signal.SIGKILL)


def _open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1.0).close()
    except OSError:
        return False
    return True


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])
