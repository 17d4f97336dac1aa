"""The same app on Flower's own SuperLink and SuperNodes, as processes of this machine, without TLS.

TLS between them would need a certificate for each; without it Flower is at its fastest. The seconds are
those that the app itself prints: the mean over its rounds.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from engines.memory import watched

SECONDS = re.compile(r"seconds a round: ([0-9.]+)")
CONFIG = """[superlink]
default = "bench"

[superlink.bench]
address = "{address}"
insecure = true
"""


class Missing(Exception):
    """Flower's programs are not there, or do not work here."""


def run(app: Path, place: Path, sites: int, config: Mapping[str, Any], limit: float) -> Any:
    """Seconds a round and peak memory in MB of 2^20 bytes. Raises `Missing`."""
    programs = Path(sys.executable).parent
    if not (programs / "flower-superlink").is_file():
        raise Missing("flower-superlink is not installed beside this Python")
    home = place / "flwr"
    home.mkdir()
    address = f"127.0.0.1:{_port()}"
    (home / "config.toml").write_text(CONFIG.format(address=address))
    copy = shutil.copytree(app, place / "app", ignore=shutil.ignore_patterns("__pycache__"))
    env = {
        **os.environ,
        "FLWR_HOME": str(home),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    with ExitStack() as stack:
        log = stack.enter_context((place / "flower.log").open("wb"))
        flat = ["--insecure", "--disable-runtime-dependency-installation"]
        host, port = address.split(":")
        link = [str(programs / "flower-superlink"), *flat, "--host", host, "--port", port]
        server = stack.enter_context(_process(link, env, log))
        peaks = stack.enter_context(watched(server.pid, _role))
        _until_open(address, server, limit)
        for number in range(sites):
            stack.enter_context(_process(_node(programs, address, number, sites), env, log))
        settings = " ".join(f"{k}={_toml(v)}" for k, v in config.items())
        asked = [str(programs / "flwr"), "run", str(copy), "bench", "--stream", "-c", settings]
        seconds = _asked(asked, env, place / "flower.log", limit)
    return {
        "seconds a round": seconds,
        "peak MB": {name: round(peak, 1) for name, peak in sorted(peaks.items())},
    }


def _node(programs: Path, address: str, number: int, sites: int) -> list[str]:
    config = f"partition-id={number} num-partitions={sites}"
    return [
        *(str(programs / "flower-supernode"), "--insecure", "--superlink", address),
        *("--node-config", config, "--port", str(_port())),
    ]


def _asked(command: list[str], env: Mapping[str, str], log: Path, limit: float) -> float:
    """Submit the run; the seconds a round that its ServerApp prints, here or into the server's log."""
    try:
        done = subprocess.run(
            command, env=dict(env), capture_output=True, text=True, timeout=limit, check=False
        )
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        said = "".join(t.decode() for t in (late.stdout, late.stderr) if isinstance(t, bytes))
    found = SECONDS.search(said) or SECONDS.search(log.read_text(errors="replace"))
    if found is None:
        raise Missing(f"no time was printed within {limit:.0f} s: {said[-400:]!r}")
    return float(found[1])


@contextmanager
def _process(
    command: list[str], env: Mapping[str, str], log: Any
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=dict(env), stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_open(address: str, server: subprocess.Popen[bytes], limit: float) -> None:
    host, port = address.split(":")
    end = time.monotonic() + limit
    while time.monotonic() < end and server.poll() is None:
        try:
            socket.create_connection((host, int(port)), 1.0).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Missing("the SuperLink does not listen")


def _role(command: str) -> str | None:
    if "flwr-serverapp" in command or "flower-superexec" in command:
        return "server app"
    return "superlink" if "flower-superlink" in command else None


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])
