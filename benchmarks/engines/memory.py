"""How much memory a command and its descendants take at most, each process by itself.

Read from /proc while they run, so what a process takes in its last hundredth of a second may be missed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

EVERY = 0.02  # seconds between two looks

Role = Callable[[str], str | None]
"""What a process with this command line is; None for one that does not count."""


@contextmanager
def watched(pid: int, role: Role) -> Iterator[dict[str, float]]:
    """Inside, `pid` and its descendants are watched; yields the peak of each role's largest, in MB."""
    peaks: dict[str, float] = {}
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(pid, role, peaks, ended), daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _watch(pid: int, role: Role, peaks: dict[str, float], ended: threading.Event) -> None:
    roles: dict[int, str | None] = {}
    while not ended.wait(EVERY):
        for process in tree(pid):
            known = role(command_line(process))
            roles[process] = known
            if known is not None and (peak := peak_of(process)) is not None:
                peaks[known] = max(peaks.get(known, 0.0), peak)


def tree(pid: int) -> list[int]:
    """`pid` and its descendants."""
    found = [pid]
    for process in found:
        try:
            tasks = list(Path(f"/proc/{process}/task").iterdir())
            found += [int(c) for t in tasks for c in (t / "children").read_text().split()]
        except OSError:
            continue
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def peak_of(pid: int) -> float | None:
    """The most that was resident since this program was started in it, in MB (2^20)."""
    return _status(pid).get("VmHWM")


def _status(pid: int) -> Mapping[str, float]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    sizes = (line.split() for line in lines if line.endswith("kB"))
    return {name.rstrip(":"): int(size) / 1024 for name, size, _ in sizes}
