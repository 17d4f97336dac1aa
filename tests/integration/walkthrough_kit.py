"""Executes a page: what its `console` blocks show is typed, and what they say is printed must be.

Short commands run in this process, by the command's own entry; those that end in `&` are real processes.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hosts_kit

from barnraise.cli.main import run as barnraise

BLOCK = re.compile(r"^```(console|toml)(?: (\S+))?\n(.*?)^```$|^<!-- test: (.*?) -->$", re.M | re.S)
PROMPT = re.compile(r"^(\w+)\$ (.*)$")
PATIENCE = 40.0  # seconds until what the page shows must have come true
LOOKING = (" members --dir", " review ", " plan ", " doctor ", " status ")


@dataclass(frozen=True)
class Typed:
    """One command, who types it, and the lines that it prints."""

    who: str
    line: str
    printed: tuple[str, ...]


@dataclass(frozen=True)
class File:
    path: str
    text: str


@dataclass(frozen=True)
class Deed:
    """What the test does itself at this point of the page."""

    words: tuple[str, ...]


def steps(page: str) -> Iterator[Typed | File | Deed]:
    """The page's steps, in its sequence."""
    for kind, path, body, deed in BLOCK.findall(page):
        if deed:
            yield Deed(tuple(deed.split()))
        elif kind == "toml":
            yield File(path, body)
        else:
            yield from _typed(body)


def _typed(body: str) -> Iterator[Typed]:
    who, line, printed = "", "", list[str]()
    for text in [*body.splitlines(), None]:
        found = PROMPT.match(text) if text is not None else None
        if text is None or found:
            if line:
                yield Typed(who, line, tuple(printed))
            if found:
                who, line, printed = found[1], found[2], []
        else:
            printed.append(text)


@dataclass
class Ran:
    """A process that goes on, with what it has said so far."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip("\n"))


@contextlib.contextmanager
def hosts(members: Sequence[str]) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The coordinator's address, and before each member's command what runs it on a host of its own.

    A host is a network namespace from which nothing but the coordinator's machine can be reached. Where
    the machine allows none, all are on loopback.
    """
    hosts_kit.clear()
    made: list[str] = []
    net = hosts_kit.network(100)
    try:
        for number in range(len(members)):
            if not _host(made, hosts_kit.name_of(number), net, 4 * number):
                yield "127.0.0.1", {}
                return
        run = [["ip", "netns", "exec", name] for name in made]
        yield f"{net}.1", dict(zip(members, run, strict=True))
    finally:
        for name in made:
            hosts_kit.remove(name)


def _host(made: list[str], name: str, net: str, at: int) -> bool:
    """Make one, its link's near end at `net.at+1` and its own at `net.at+2`; False if that is not allowed."""
    if shutil.which("ip") is None or not _ip("netns", "add", name):
        return False
    made.append(name)
    inside = ("netns", "exec", name, "ip")
    return all(
        _ip(*words)
        for words in (
            ("link", "add", name, "type", "veth", "peer", "name", "up0", "netns", name),
            ("addr", "add", f"{net}.{at + 1}/30", "dev", name),
            ("link", "set", name, "up"),
            (*inside, "addr", "add", f"{net}.{at + 2}/30", "dev", "up0"),
            (*inside, "link", "set", "up0", "up"),
            (*inside, "link", "set", "lo", "up"),
            (*inside, "route", "add", "default", "via", f"{net}.{at + 1}"),
        )
    )


def _ip(*words: str) -> bool:
    return hosts_kit.ip(*words).returncode == 0


class Walk:
    """`root` holds a directory for the operator and for each of `members`. `apart` is what goes before the
    command of a process that a member runs."""

    def __init__(
        self,
        root: Path,
        members: Sequence[str],
        address: str = "127.0.0.1",
        apart: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.root, self.members, self.apart = root, members, apart or {}
        self.began = time.monotonic()
        self.running: dict[str, Ran] = {}
        self.known: dict[str, str] = {"coordinator.example.org": f"{address}:0"}
        for who in ("operator", *members):
            (root / who).mkdir()

    def home(self, who: str) -> Path:
        return self.root / who

    def type(self, step: Typed) -> None:
        """Do what a line says, once or for each member."""
        for who in self.members if step.who == "each" else [step.who]:
            print(f"{time.monotonic() - self.began:6.1f} s  {who}$ {step.line}")
            line = self._filled(step.line.replace("NAME", who))
            printed = [self._filled(text.replace("NAME", who)) for text in step.printed]
            if line.endswith(" &"):
                self._begin(who, line.removesuffix(" &"), printed)
            else:
                self._run(who, line, printed)

    def _filled(self, text: str) -> str:
        for word, value in self.known.items():
            text = text.replace(word, value)
        return text

    def _run(self, who: str, line: str, printed: list[str]) -> None:
        """A command that only looks is typed again until it sees what the page shows."""
        line, _, target = line.partition(" > ")
        looks = any(verb in line for verb in LOOKING)
        end = time.monotonic() + (PATIENCE if looks else 0.0)
        fails = any(text.startswith("error[") for text in printed)
        while True:
            code, out, err = self.once(who, line)
            said = err if target else err + out
            fits = code == int(fails) and matches(printed, said.splitlines())
            if fits or time.monotonic() > end:
                break
            threading.Event().wait(0.2)
        assert fits, f"{who}$ {line}\n{said}\nended with {code}, not as\n{printed}"
        if target:
            for home in ("operator", *self.members):  # it is mailed
                (self.home(home) / target).write_text(out)
        self._remember(said)

    def once(self, who: str, line: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.home(who)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = barnraise(_words(line)[1:], sys.stdout)
        return code, out.getvalue(), err.getvalue()

    def _begin(self, who: str, line: str, printed: list[str]) -> None:
        command = [*self.apart.get(who, ()), sys.executable, "-m", *_words(line)]
        process = subprocess.Popen(
            command,
            cwd=self.home(who),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "COLUMNS": "200"},
        )
        ran = self.running[f"{who} {line.split()[1]}"] = Ran(process)
        threading.Thread(target=ran.read, daemon=True).start()
        self.until(lambda: matches(printed, ran.said) or process.poll() is not None, line)
        assert matches(printed, ran.said), f"{who}$ {line}\n{ran.said}"
        self._remember("\n".join(ran.said), who)

    def _remember(self, said: str, who: str = "") -> None:
        if who and (found := re.search(r"^ +((?:\d{5} ?){4})$", said, re.M)):
            self.known[f"FINGERPRINT OF {who}"] = found[1]
        if found := re.search(r"^  agreement (sha256:[0-9a-f]{64})$", said, re.M):
            self.known["AGREEMENT"] = found[1]

    @staticmethod
    def until(ready: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        pause = threading.Event()
        while not ready():
            assert time.monotonic() < end, f"in vain: {what}"
            pause.wait(0.05)

    def ended(self, key: str) -> tuple[int, str]:
        """The exit code and the words of a process, once it has ended."""
        ran = self.running[key]
        code = ran.process.wait(PATIENCE)
        return code, "\n".join(ran.said)

    def close(self) -> None:
        """End whatever goes on."""
        for ran in self.running.values():
            if ran.process.poll() is None:
                ran.process.send_signal(signal.SIGTERM)
        for ran in self.running.values():
            try:
                ran.process.wait(15)
            except subprocess.TimeoutExpired:
                ran.process.kill()
                ran.process.wait()


def matches(printed: Sequence[str], said: Sequence[str]) -> bool:
    """Whether `said` is what `printed` shows; `…` stands for anything, alone for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if text == "…" else re.escape(text.rstrip()).replace("…", ".*") + r" *\n"
        for text in printed
    )
    whole = "".join(f"{line}\n" for line in said)
    return re.fullmatch(pattern + r"(?:.*\n)*", whole) is not None


def _words(line: str) -> list[str]:
    return shlex.split(line)
