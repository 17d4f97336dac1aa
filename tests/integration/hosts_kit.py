"""Hosts as network namespaces: what tests call theirs, and an end to those that a killed test left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

NAMED = Path("/run/netns")
OURS = re.compile(r"barn(\d+)-\d+")


def name_of(number: int) -> str:
    """The name of this process's `number`-th host, which is its device's as well: 15 characters at most."""
    return f"barn{os.getpid()}-{number}"


def network(base: int) -> str:
    """The first three bytes of addresses that no other test process of this machine is likely to use."""
    return f"10.{base + os.getpid() % 50}.{os.getpid() // 50 % 250}"


def ip(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ip", *words], capture_output=True, check=False)


def remove(name: str) -> None:
    """End what runs on this host, and take its link away: either would keep the namespace alive."""
    for pid in map(int, ip("netns", "pids", name).stdout.split()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ip("link", "del", name)
    ip("netns", "del", name)


def clear() -> None:
    """Remove the hosts of test processes that live no more."""
    for path in NAMED.glob("barn*") if NAMED.is_dir() else ():
        if (found := OURS.fullmatch(path.name)) and not Path("/proc", found[1]).exists():
            remove(path.name)
