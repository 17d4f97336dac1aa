"""The process's own streams and end: nobody reading ends no run, and nothing left behind keeps a command.

Imports nothing of ours and nothing slow: it works before anything else does.
"""

from __future__ import annotations

import io
import os
import sys
import threading

GRACE = 1.0  # seconds in which what an app left may end by itself


def fill_closed() -> set[int]:
    """Put the null device on those of the descriptors 0 to 2 that are closed; returns them.

    Otherwise the next file that is opened would be the app's stdout.
    """
    closed = {fd for fd in (0, 1, 2) if not _is_open(fd)}
    for _ in closed:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest that is free
    for fd, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, _Unbreakable.on(fd, "utf-8"))
    return closed


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def unbreakable() -> None:
    """From here on stdout and stderr swallow what cannot be written: a run does not end because whoever
    read what it says has gone away, or the log's disk is full."""
    for fd, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, _Unbreakable.on(fd, getattr(sys, name).encoding))


class _Unbreakable(io.TextIOWrapper):
    """Turns its descriptor to the null device at the first write that fails."""

    @classmethod
    def on(cls, fd: int, encoding: str) -> _Unbreakable:
        raw = open(fd, "wb", closefd=False)  # noqa: SIM115
        return cls(raw, encoding=encoding, errors="backslashreplace", line_buffering=True)

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def end_anyway(code: int) -> None:
    """Call this last. Threads that an app left, and that would keep the process, get `GRACE` seconds."""
    if _left():
        threading.Thread(target=_end, args=(code,), name="the end", daemon=True).start()


def _left() -> list[str]:
    """The threads for which Python would wait."""
    main = threading.main_thread()
    return [t.name for t in threading.enumerate() if t is not main and not t.daemon]


def _end(code: int) -> None:
    threading.Event().wait(GRACE)
    if names := _left():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        sys.stderr.write(
            f"the app has left threads running: {', '.join(names[:4])}{more}; "
            "the command ends without them\n"
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
