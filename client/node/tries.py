"""What the code tries and may not is put on record: seen by Python's audit hook, told to the daemon.

The hook records and prevents nothing: the kernel does that (`sandbox`, `landlock`, `seccomp`), also where
code goes past Python and is not seen here.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MOST = 100  # tries that are told of one worker; each once
LONGEST = 200  # characters of what was tried
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """`tell` is called with what was tried ("read", "write", "socket") and at what, each pair once."""

    def __init__(
        self, reading: Sequence[str], writing: Sequence[str], tell: Callable[[str, str], None]
    ) -> None:
        self._reading = tuple(os.path.realpath(p) for p in (*reading, *writing))
        self._writing = tuple(os.path.realpath(p) for p in writing)
        self._tell = tell
        self._seen: set[tuple[str, str]] = set()
        self._busy = threading.local()

    def begin(self) -> None:
        """From now on; there is no end."""
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS or getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            for what, where in _EVENTS[event](self, arguments):
                self._try(what, where)
        except Exception:
            pass
        finally:
            self._busy.now = False

    def _try(self, what: str, where: str) -> None:
        said = (what, "".join(c if c.isprintable() else "?" for c in where[:LONGEST]))
        if said not in self._seen and len(self._seen) < MOST:
            self._seen.add(said)
            self._tell(*said)

    def _opened(self, arguments: tuple[Any, ...]) -> list[tuple[str, str]]:
        path, mode, flags = arguments
        if isinstance(path, int):
            return []
        writes = bool(flags & _WRITING) if isinstance(flags, int) else False
        writes = writes or (isinstance(mode, str) and any(c in mode for c in "wax+"))
        return self._path("write" if writes else "read", path)

    def _path(self, what: str, path: Any) -> list[tuple[str, str]]:
        real = os.path.realpath(os.fsdecode(path))
        allowed = self._writing if what == "write" else self._reading
        if any(real == base or real.startswith(base.rstrip("/") + "/") for base in allowed):
            return []
        return [(what, real)]

    def _changed(self, arguments: tuple[Any, ...]) -> list[tuple[str, str]]:
        return [
            t for a in arguments[:2] if isinstance(a, str | bytes) for t in self._path("write", a)
        ]

    def _listed(self, arguments: tuple[Any, ...]) -> list[tuple[str, str]]:
        return self._path("read", arguments[0]) if isinstance(arguments[0], str | bytes) else []

    def _socket(self, arguments: tuple[Any, ...]) -> list[tuple[str, str]]:
        family = int(arguments[1])
        return [] if family == 1 else [("socket", f"of family {family}")]

    def _connected(self, arguments: tuple[Any, ...]) -> list[tuple[str, str]]:
        return [("socket", f"to {arguments[1]!r}")]


_EVENTS: Mapping[str, Callable[[Watch, tuple[Any, ...]], list[tuple[str, str]]]] = {
    "open": Watch._opened,
    "os.listdir": Watch._listed,
    "os.scandir": Watch._listed,
    "os.remove": Watch._changed,
    "os.rename": Watch._changed,
    "os.mkdir": Watch._changed,
    "os.link": Watch._changed,
    "os.symlink": Watch._changed,
    "socket.__new__": Watch._socket,
    "socket.connect": Watch._connected,
    "socket.getaddrinfo": lambda self, arguments: [("socket", f"to {arguments[0]!r}")],
}
