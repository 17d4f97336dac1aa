"""A filter on system calls: no socket but those within this machine, and no way around the namespaces.

Classic BPF by way of `prctl`; needs no privilege once `PR_SET_NO_NEW_PRIVS` is set, and cannot be taken off.
A call that is not allowed fails with EPERM, as if the network were shut. Other processors than x86-64 and
64-bit ARM are not known here, and are named as what hinders it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_SET_SECCOMP, _FILTER = 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
_ABSENT = 0x00050000 | errno.ENOSYS
_AF_UNIX = 1
_INTERNET = (2, 10)  # IPv4, IPv6
_NEW_NAMESPACE = 0x7E020080  # every CLONE_NEW… flag
_X32 = 0x40000000
_NUMBER, _ARCHITECTURE, _FIRST = (
    0,
    4,
    16,
)  # offsets in seccomp_data; the first argument's lower half

# name: (x86-64, 64-bit ARM)
_REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
}
_SOCKET, _CLONE, _CLONE3 = (41, 198), (56, 220), (435, 435)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def refuse(*, internet: bool = False) -> str:
    """Put the filter on this process and all that it starts; "" or what hinders it.

    `internet`: sockets of IPv4 and IPv6 are let through, for a network in which they reach nobody else.
    """
    known = _ARCHITECTURES.get(platform.machine())
    if known is None:
        return f"no filter of system calls is known for {platform.machine()}"
    code = _program(*known, internet=internet)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_SECCOMP, _FILTER, ctypes.c_char_p(program), 0, 0) != 0:
        return f"seccomp: {os.strerror(ctypes.get_errno())}"
    return ""


def _program(column: int, architecture: int, *, internet: bool = False) -> bytes:
    families = (_AF_UNIX, *(_INTERNET if internet else ()))
    lines = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if column == 0:
        lines += [_step(_JUMP_AT_LEAST, _X32, 0, 1), _step(_RETURN, _REFUSE)]
    for numbers in _REFUSED.values():
        lines += [_step(_JUMP_EQUAL, numbers[column], 0, 1), _step(_RETURN, _REFUSE)]
    lines += [
        # clone3 passes its flags in memory; without it the C library calls clone
        _step(_JUMP_EQUAL, _CLONE3[column], 0, 1),
        _step(_RETURN, _ABSENT),
        _step(_JUMP_EQUAL, _CLONE[column], 0, 4),
        _step(_LOAD, _FIRST),
        _step(_JUMP_SET, _NEW_NAMESPACE, 0, 1),
        _step(_RETURN, _REFUSE),
        _step(_RETURN, _ALLOW),
        _step(_JUMP_EQUAL, _SOCKET[column], 0, len(families) + 2),
        _step(_LOAD, _FIRST),
        *(_step(_JUMP_EQUAL, family, len(families) - at, 0) for at, family in enumerate(families)),
        _step(_RETURN, _REFUSE),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(lines)


def _step(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("HBBI", code, true, false, value)
