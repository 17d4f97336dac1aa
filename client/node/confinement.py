"""What a worker is confined to, as the daemon asks for it, and how that is done in the worker's process.

    network       no socket but those within this machine (`seccomp`), besides the namespace
    files         nothing is read but Python, the system's libraries, the code and the site's data; nothing
                  is written but what the daemon takes from there, and a scratch directory (`landlock`)

A simulation's worker is not confined to files: there it may use what the user who started it may use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from barnraise.client.node import landlock, sandbox, seccomp

SCRATCH = "scratch"
APART = frozenset({"network", "processes", "directory", "files", "system calls"})
LOOPBACK, HOST = "loopback", "host"  # what a worker of several processes has of the network
_LIBRARIES = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt/rocm",
    "/opt/nvidia",
    "/sys",
)
_SETTINGS = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "os-release"),
    *("passwd", "group", "nsswitch.conf", "hosts", "host.conf", "resolv.conf", "mime.types"),
    *("ssl/openssl.cnf", "ssl/certs", "alternatives", "OpenCL", "gai.conf", "locale.alias"),
)
_OF_PROCESSES = ("cpuinfo", "meminfo", "stat", "version", "sys", "filesystems", "mounts", "self")
_DEVICES = ("null", "zero", "full", "random", "urandom", "nvidia*", "dri", "kfd")
_COVERED = ("/run", "/tmp", "/var/tmp", "/dev/shm")  # where sockets and files of others lie


@dataclass(frozen=True)
class Confinement:
    """What of this machine's data the code may read, and whether it may not run with less apart.

    `launcher`: what starts a worker of several processes, which need `network` to find each other.
    """

    directories: tuple[str, ...]
    required: bool
    launcher: tuple[str, ...] = ()
    network: str = LOOPBACK


@dataclass(frozen=True)
class Orders:
    """What a worker is started with. `confined`: to `reading`, `writing` and what Python needs.

    `memory`: bytes of data it may have, None for as many as there are. `required`: with anything of it
    missing, it ends instead.
    """

    home: str
    parent: int
    memory: int | None
    confined: bool = False
    required: bool = False
    reading: Sequence[str] = ()
    writing: Sequence[str] = ()
    launcher: Sequence[str] = ()
    network: str = LOOPBACK

    @property
    def on_host(self) -> bool:
        """Whether its processes are to reach those on other hosts."""
        return bool(self.launcher) and self.network == HOST


def cover(orders: Orders) -> None:
    """Put empty directories over those in which others' sockets and files lie; needs a mount namespace."""
    if not orders.confined:
        return
    kept = [Path(p).resolve() for p in (orders.home, *orders.reading, *orders.writing)]
    kept += [path.resolve() for path in sandbox.python_paths()]
    for name in _COVERED:
        path = Path(name)
        if path.is_dir() and not any(one.is_relative_to(path.resolve()) for one in kept):
            sandbox.cover(path.resolve())


def shut(orders: Orders, hindered: dict[str, str]) -> None:
    """Give up, for good, what is not needed; what hinders it is added to `hindered`."""
    if orders.confined:
        hindered["files"] = landlock.confine(
            reading(orders, contained=not hindered["processes"]),
            [*map(Path, orders.writing), Path("/dev/shm")],
            devices(),
            tcp=bool(orders.launcher),
        )
        if not hindered["files"]:
            hindered["directory"] = ""  # what is not listed cannot be opened, wherever it shows
    internet = _internet(orders, hindered)
    why = seccomp.refuse(internet=internet)
    if why and orders.confined:
        hindered["system calls"] = why
    elif not why and not internet:
        hindered["network"] = ""
    if orders.on_host:
        hindered["network"] = "policy.toml gives the worker this host's network"


def _internet(orders: Orders, hindered: Mapping[str, str]) -> bool:
    """Whether sockets of the internet may be opened: where none leads out, or where the site says so."""
    return orders.on_host or (bool(orders.launcher) and not hindered["network"])


def reading(orders: Orders, *, contained: bool) -> list[Path]:
    """What may be read: the system's libraries and settings, Python, the code, the site's data."""
    processes = [Path("/proc")] if contained else own_process()
    return [*reading_anywhere(), *processes, *map(Path, orders.reading)]


def reading_anywhere() -> list[Path]:
    """The system's libraries and settings, Python, devices: what every code may read."""
    settings = [Path("/etc") / one for one in _SETTINGS]
    return [*map(Path, _LIBRARIES), *settings, *sandbox.python_paths(), *devices()]


def own_process() -> list[Path]:
    """What code may read of /proc, however it is kept apart: of this process, and of the machine's kind."""
    return [Path("/proc") / one for one in _OF_PROCESSES]


def devices() -> list[Path]:
    """What code needs of /dev: nothing, zeros, randomness, GPUs."""
    return [path for name in _DEVICES for path in Path("/dev").glob(name)]
