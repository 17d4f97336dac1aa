"""The worker as the daemon sees it: started clean, talked to over a socket, ended for certain.

Each life of the worker has a number, and what is heard of it carries that number: `Said` for a frame, `Gone`
when it and all that it started have ended. Knows nothing of orders.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from barnraise.client.node import failpoints, frames
from barnraise.client.node.confinement import APART, SCRATCH, Confinement, Orders
from barnraise.client.node.logs import Capped
from barnraise.client.node.processor import processor_seconds

_SAYS = re.compile(r"[a-z][a-z ]{0,39}")
_HALVES = re.compile("[\ud800-\udfff]")
GRACE = 3.0  # seconds between SIGTERM and SIGKILL
_ALLOWED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
    *("PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
)
_SET = {
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """What of the daemon's environment its worker gets."""
    allowed = {k: v for k, v in own.items() if k in _ALLOWED or k.startswith("LC_")}
    if failpoints.VARIABLE in own:
        allowed[failpoints.VARIABLE] = own[failpoints.VARIABLE]
    return {**allowed, **_SET}


@dataclass(frozen=True)
class Ready:
    """It has loaded its app, or `failure` says why not; `hindered` says what it is not cut off from."""

    hindered: dict[str, str]
    failure: str


@dataclass(frozen=True)
class Refused:
    """It was to be cut off, could not be for the reasons in `hindered`, and has loaded nothing."""

    hindered: dict[str, str]


@dataclass(frozen=True)
class Tried:
    """The code tried to get at something that it may not; both texts are the worker's word, and short."""

    what: str
    where: str


@dataclass(frozen=True)
class Progress:
    order: str
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Done:
    """Digests of contents; None for a state or carry that stays as it was.

    Their envelopes are among `envelopes`, by digest, or in its outgoing folder.
    """

    order: str
    content: str
    state: str | None
    carry: str | None
    envelopes: Mapping[str, str] = field(default_factory=dict)


Heard = Ready | Refused | Tried | Progress | Done


def parsed(message: Mapping[str, Any]) -> Heard:
    """What a frame says; `FrameError` for anything else, for the site's code could have written it.

    Of progress, plain words and two numbers are let through, so that it cannot quote data (L7).
    """
    match message:
        case {"said": "ready", "hindered": dict(hindered), "failure": str(failure)}:
            return Ready(_hindered(hindered), _line(failure, 400))
        case {"said": "refused", "hindered": dict(hindered)}:
            return Refused(_hindered(hindered))
        case {"said": "tried", "what": str(what), "where": str(where)}:
            return Tried(_line(what, 20), _line(where, 200))
        case {
            "said": "progress",
            "order": str(order),
            "what": str(what),
            "done": int(done),
            "total": int(total),
        }:
            known = what if _SAYS.fullmatch(what) else "working"
            return Progress(order, known, _counted(done), _counted(total))
        case {
            "said": "done",
            "order": str(order),
            "content": str(content),
            "state": (str() | None) as state,
            "carry": (str() | None) as carry,
            "envelopes": dict(envelopes),
        } if all(map(_is_text, envelopes.values())):
            return Done(order, content, state, carry, envelopes)
    raise frames.FrameError("it says nothing that a worker has to say")


def _hindered(said: Mapping[Any, Any]) -> dict[str, str]:
    """From what it is not cut off, and why. The names may leave the site: no other than we give."""
    if not said.keys() <= APART:
        raise frames.FrameError("it is not cut off from what nobody asked for")
    return {what: _line(str(why), 200) for what, why in said.items()}


def _line(text: str, most: int) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def _is_text(value: Any) -> bool:
    """Whether it is a small envelope's text, and has bytes: JSON can also say half of a surrogate pair."""
    small = isinstance(value, str) and len(value) <= frames.SMALL and not _HALVES.search(value)
    return small and len(value.encode()) <= frames.SMALL


def _counted(value: int) -> int:
    return min(max(value, 0), 2**53)


@dataclass(frozen=True)
class Said:
    life: int
    what: Heard


@dataclass(frozen=True)
class Gone:
    """`used`: processor seconds of all that it was, as far as it waited for what it had started."""

    life: int
    why: str
    used: float = 0.0


class Worker:
    """One life at a time. Owned by the daemon's main thread, which outlives it.

    The process ends when the thread that started it does, so `start` belongs to a thread that stays.
    """

    def __init__(
        self,
        home: Path,
        memory: int | None,
        tell: Callable[[Said | Gone], None],
        confinement: Confinement | None = None,
    ) -> None:
        self._home, self._memory, self._tell = home, memory, tell
        self._confinement = confinement
        self._log = Capped(home / "logs" / "worker.log")
        self._life = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    @property
    def life(self) -> int:
        """The number of the life that is going on, or was last."""
        return self._life

    @property
    def process(self) -> int | None:
        """The process of the life that is going on, or was last."""
        return self._process.pid if self._process is not None else None

    def start(self, first: Mapping[str, Any]) -> None:
        """Start it and send it `first`. It is heard of by `Gone` whatever happens to it."""
        self._life += 1
        orders = self._orders(first)
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                self._command(theirs.fileno(), orders),
                env=environment(os.environ) | self._homes(orders),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._socket = ours
        listen = threading.Thread(
            target=self._listen, args=(self._life, self._process, ours), name="worker", daemon=True
        )
        copy = threading.Thread(
            target=self._copy, args=(self._process,), name="worker log", daemon=True
        )
        self._threads = [listen, copy]
        for thread in self._threads:
            thread.start()
        watched = (
            {"reading": orders.reading, "writing": orders.writing} if orders.confined else None
        )
        self.send({**first, "watched": watched})

    def _command(self, number: int, orders: Orders) -> list[str]:
        program = [sys.executable, "-P", "-m", "barnraise.client.node.worker"]
        return [*program, str(number), json.dumps(asdict(orders))]

    def _orders(self, first: Mapping[str, Any]) -> Orders:
        confinement = self._confinement
        if confinement is None:
            return Orders(str(self._home), os.getpid(), self._memory)
        scratch = self._home / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        return Orders(
            str(self._home),
            os.getpid(),
            self._memory,
            True,
            confinement.required,
            [first["code"], *first["stores"], *confinement.directories],
            [first["outgoing"], *([first["spares"]] if "spares" in first else []), str(scratch)],
            confinement.launcher,
            confinement.network,
        )

    def _homes(self, orders: Orders) -> dict[str, str]:
        """Where the code finds a place of its own, for what libraries put away and want back."""
        scratch = str(self._home / SCRATCH)
        return {"HOME": scratch, "TMPDIR": scratch} if orders.confined else {}

    def send(self, message: Mapping[str, Any]) -> None:
        """Send it a frame; if it is dead, `Gone` is what will be heard."""
        assert self._socket is not None
        try:
            frames.send(self._socket, message)
        except OSError:
            return

    def stop(self) -> None:
        """End it and whatever it started: SIGTERM, then SIGKILL after GRACE seconds."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join(GRACE)
        self._process = None

    def _listen(self, life: int, process: subprocess.Popen[bytes], ours: socket.socket) -> None:
        nonsense = ""
        with ours:
            try:
                while (message := frames.receive(ours)) is not None:
                    self._tell(Said(life, parsed(message)))
            except (frames.FrameError, OSError) as error:
                nonsense = f"it said what is no frame ({error}), and was ended"
                process.kill()
        if not _has_ended(process, GRACE):
            nonsense = nonsense or "it closed its connection, and was ended"
            process.kill()
            _has_ended(process, None)
        used = processor_seconds(process.pid)  # before it is waited for, and gone
        status = process.wait()
        self._tell(Gone(life, nonsense or _ending(status), used))

    def _copy(self, process: subprocess.Popen[bytes]) -> None:
        """What the worker prints, into its log, for as long as anyone can print."""
        assert process.stdout is not None
        with process.stdout as out:
            while data := os.read(out.fileno(), 1 << 16):
                self._log.write(data)


def _has_ended(process: subprocess.Popen[bytes], seconds: float | None) -> bool:
    """Whether it ends within so many seconds, None for as long as it takes; it is not waited for."""
    try:
        held = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([held], [], [], seconds)[0])
    finally:
        os.close(held)


def _ending(status: int) -> str:
    number = -status if status < 0 else status - 128
    try:
        return f"it was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"it ended with status {status}"
