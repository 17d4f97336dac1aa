"""What a worker's process is cut off from, as far as the kernel lets us, and how it is made to end.

    network    a network namespace of its own, in which nothing is reachable
    processes  a process namespace of its own: whatever the worker starts ends with it
    directory  of the node's directory it sees sub-directories, but neither files (keys, addresses) nor logs

Each is tried by itself; where the kernel refuses one, its reason is returned, for the node's log. Uses
Linux by way of ctypes and imports nothing heavy: it runs before the ClientApp is loaded.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_NEWNS, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
# dac_read_search, linux_immutable, net_admin, sys_module, sys_rawio, sys_ptrace, sys_admin, sys_boot, mknod
_DROPPED = (2, 9, 12, 16, 17, 19, 21, 22, 27)

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


# --- ending ---------------------------------------------------------------------------------------


def end_with_parent(number: int, parent: int | None = None) -> None:
    """This process gets signal `number` when the thread that started it ends.

    `parent`: who that is; if it has ended already, this process ends here.
    """
    _call("prctl", _PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(0)


def keep_memory_private() -> None:
    """No other process of this user can read this one's memory or open files; it leaves no core."""
    _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Descendants whose parent ends become this process's children."""
    _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children() -> None:
    """Kill this process's children, and theirs as they come here, until there are none."""
    while True:
        for child in _children():
            os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    try:
        return [int(child) for child in listed.read_text().split()]
    except OSError:
        return []


# --- namespaces -----------------------------------------------------------------------------------


def enter_namespaces(*, network: bool = True) -> dict[str, str]:
    """Leave the host's network, processes and mounts; for each what hinders it, or "" where nothing did.

    Without `network` that one is not left, and is for the caller to name. The process namespace holds what
    this process forks from now on.
    """
    apart = _NEWNET if network else _NEWNS
    hindered = {"network": _unshare(apart)}
    if hindered["network"]:
        if why := _enter_user_namespace():
            return dict.fromkeys(("network", "processes", "directory"), why)
        hindered["network"] = _unshare(apart)
    hindered["processes"] = _unshare(_NEWPID)
    hindered["directory"] = _unshare(_NEWNS)
    return hindered


def loopback_up() -> None:
    """Let the processes of this network namespace reach each other; raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _unshare(flags: int) -> str:
    try:
        _call("unshare", flags)
    except OSError as error:
        return str(error)
    return ""


def _enter_user_namespace() -> str:
    """Without privileges, a user namespace is what gives the right to the others."""
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        return str(error)
    return ""


def hide(directory: Path, also: frozenset[str]) -> str:
    """Of `directory` leave the sub-directories, but for those in `also`; "" or what hinders it.

    The whole is covered, so that a file which comes later is hidden as well.
    """
    shown = {p: os.open(p, os.O_PATH) for p in directory.iterdir() if p.is_dir()}
    covered = False
    try:
        _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
        _mount("tmpfs", str(directory), "tmpfs", _MS_NOSUID | _MS_NODEV)
        covered = True
        for path, fd in shown.items():
            if path.name not in also:
                path.mkdir()
                _mount(f"/proc/self/fd/{fd}", str(path), None, _MS_BIND | _MS_REC)
    except OSError as error:
        if covered:
            _call("umount2", str(directory).encode(), _MNT_DETACH)
        return str(error)
    finally:
        for fd in shown.values():
            os.close(fd)
    os.chdir(Path.cwd())
    return ""


def cover(directory: Path) -> None:
    """Put an empty directory over this one, where that is allowed. Mounts are private already (`hide`)."""
    try:
        _mount("tmpfs", str(directory), "tmpfs", _MS_NOSUID | _MS_NODEV)
    except OSError:
        return


def python_paths() -> list[Path]:
    """From where Python, its libraries and this program are read on this machine."""
    ours = Path(__file__).resolve().parents[2]
    package = Path(sys.modules["barnraise"].__file__ or __file__).parent
    named = [sys.prefix, sys.base_prefix, sys.exec_prefix, *(p for p in sys.path if p)]
    return [*map(Path, named), package, *(ours / room for room in ("client", "protocols"))]


def show_own_processes() -> None:
    """Mount this process namespace's own /proc, where that is allowed."""
    try:
        _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    except OSError:
        return


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind)]
    _call("mount", *texts, flags, None)


# --- rights ---------------------------------------------------------------------------------------


def give_up_rights(memory: int | None) -> None:
    """No way back: no capability that undoes the above, no core file, `memory` bytes of data at most."""
    for capability in _DROPPED:
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    _call("capget", header, sets)
    mask = sum(1 << capability for capability in _DROPPED)
    for at in range(3):
        sets[at] &= ~mask & 0xFFFFFFFF
    _call("capset", header, sets)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


# --- the processes of a worker ----------------------------------------------------------------------


def run_inside(
    work: Callable[[], None], contained: bool, parent: int, forked: Callable[[], None]
) -> int:
    """Run `work` in a child and return its exit status (128 + n for signal n) when it has ended.

    Contained in a process namespace, a small init stands between: when it, this process or `parent`
    ends, however that happens, the kernel ends all that is inside. Otherwise this process ends what it
    can find. A SIGTERM is passed on to the child. `forked` is called where the child's things are not
    needed any more.
    """

    def guard() -> int:
        return _wait(_fork(work), forked)

    if contained:
        end_with_parent(signal.SIGKILL, parent)
        return _wait(_fork(lambda: os._exit(guard())), forked)
    signal.signal(signal.SIGHUP, _end_all)
    end_with_parent(signal.SIGHUP, parent)
    adopt_orphans()
    status = guard()
    end_children()
    return status


def _end_all(number: int, frame: object) -> None:
    end_children()
    os._exit(0)


def _fork(work: Callable[[], None]) -> int:
    """Fork; the child ends with this process, runs `work`, and never returns."""
    watch, held = os.pipe()
    child = os.fork()
    if child:
        os.close(watch)
        return child
    try:
        os.close(held)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        end_with_parent(signal.SIGKILL)
        if not _writer_is_gone(watch):
            work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
    raise AssertionError("unreachable")


def _writer_is_gone(pipe: int) -> bool:
    """Whether the process that holds the pipe's other end, into which nobody writes, has ended."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, 1) == b""
    except BlockingIOError:
        return False
    finally:
        os.close(pipe)


def _wait(child: int, forked: Callable[[], None]) -> int:
    """Reap whatever ends, until `child` has."""
    forked()
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
