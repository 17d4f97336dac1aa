"""How this process's C library hands out memory, where it is glibc; elsewhere nothing happens.

Threads of gRPC allocate and free a MiB at a time. By default each gets an arena of its own, which keeps
what it once had, or gives every freed MiB back to the kernel and pays for touching it anew. So does a
simulation whose handlers make and drop a model each.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of <malloc.h>
LARGE = 32 << 20  # bytes from which on an allocation is the kernel's own


def settle(keep: int) -> None:
    """From now on: two arenas at most, whatever is below `LARGE` from them, `keep` bytes held back free."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_ARENA_MAX, 2)
        libc.mallopt(_MMAP_THRESHOLD, LARGE)
        libc.mallopt(_TRIM_THRESHOLD, keep)


def trim() -> None:
    """Give back to the kernel whatever whole pages are free, also between what is in use."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") else None
