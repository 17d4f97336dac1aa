"""Landlock: of the file system, a process and all that it starts see what is listed here, and no more.

A right that was given up cannot be had back, by root neither, and needs no privilege to give up (Linux
5.13 and later, https://docs.kernel.org/userspace-api/landlock.html). Uses the system calls by way of
ctypes. What the running kernel's version of it cannot restrict stays as it was, and is named.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE, _READ, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO = 0x30, 1 << 7, 1 << 8, 1 << 9, 1 << 10
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15  # refer: from one folder into another
_KNOWN = {
    1: (1 << 13) - 1,
    2: (1 << 14) - 1,
    3: (1 << 15) - 1,
}  # rights by version of the interface
_NEWEST = (1 << 16) - 1  # from version 5 on
_TCP = 3  # bind, connect; from version 4 on
_SCOPED = 3  # abstract unix sockets, signals; from version 6 on
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_READING = _EXECUTE | _READ | _READ_DIR
_MAKING = _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _REFER
_WRITING = _READING | _WRITE | _REMOVE | _MAKING | _TRUNCATE

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Of the kernel's interface; 0 where there is none."""
    return max(0, int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)))


def confine(
    reading: Iterable[Path],
    writing: Iterable[Path],
    devices: Iterable[Path],
    *,
    tcp: bool = False,
) -> str:
    """Confine this thread, and whatever it starts from now on, to these paths; "" or what hinders it.

    `devices` may be read, written and controlled; with `tcp` connections are left to others to refuse.
    Paths that are not there are passed over. Call it before there is a second thread, and with no way back
    (`PR_SET_NO_NEW_PRIVS`) already taken.
    """
    newest = version()
    if newest == 0:
        return "this kernel has no landlock"
    rights = _KNOWN.get(newest, _NEWEST if newest >= 5 else _KNOWN[3])
    attributes = struct.pack("=QQQ", rights, 0 if tcp else _TCP, _SCOPED)[: _length(newest)]
    try:
        ruleset = _syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
        try:
            for paths, asked in (
                (reading, _READING),
                (writing, _WRITING),
                (devices, _READING | _WRITE | _IOCTL),
            ):
                for path in paths:
                    _allow(ruleset, path, asked & rights)
            _syscall(_RESTRICT, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        return f"landlock: {error.strerror}"
    return ""


def _length(newest: int) -> int:
    return 8 if newest < 4 else 16 if newest < 6 else 24


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _syscall(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
