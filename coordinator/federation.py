"""A federation's directory: what `found` makes, and what whoever works on it holds open.

    F/federation.toml  name, addresses      F/federation/  the authority (`authority`)
    F/charter.toml     for the operator     F/journal.db  F/blobs/  F/lock  F/incoming/
    F/proposals/<agreement>/                F/runs/<name>/          F/serve.sock

The record of what was founded, enrolled, agreed on and run is the journal (`ledger`).
"""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from barnraise.coordinator.authority import Authority
from barnraise.coordinator.blobs import RunBlobs
from barnraise.coordinator.directory import locked
from barnraise.coordinator.journal import Journal
from barnraise.coordinator.ledger import Ledger
from barnraise.coordinator.log import Log
from barnraise.protocols import files
from barnraise.protocols.canonical import digest
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import SIMULATED, is_name
from barnraise.protocols.invite import split_address

DESCRIPTION = "federation.toml"
SESSION_PORT = 8440  # the enrolment port is the next one
_KEYS = {"name", "listen", "session", "enrolment"}


@dataclass(frozen=True)
class Description:
    """`federation.toml`. `session` and `enrolment` are `host:port` as nodes reach them; `listen` is the
    address of this machine on which both ports are opened."""

    name: str
    listen: str
    session: str
    enrolment: str

    @classmethod
    def read(cls, root: Path) -> Description:
        """Raises F101 where nothing was founded, F106 for a file that says something else."""
        path = root / DESCRIPTION
        if not path.is_file():
            raise BarnraiseError(
                "F101",
                f"{root} holds no federation",
                f"there is no {path}",
                next="give the directory that `barnraise found` made",
            )
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            if set(table) != _KEYS or not all(isinstance(v, str) for v in table.values()):
                raise ValueError(f"it must have exactly the texts {', '.join(sorted(_KEYS))}")
            for key in ("session", "enrolment"):
                _address(table[key])
        except (ValueError, OSError) as error:
            raise BarnraiseError(
                "F106", f"{path} cannot be used", str(error), next=f"correct {path}"
            ) from None
        return cls(**table)

    def text(self) -> str:
        return (
            "# How this federation is reached. After a change: invite each member anew (its node then\n"
            "# learns the addresses), and serve again.\n"
            f'name = "{self.name}"\n'
            f'session = "{self.session}"      # as nodes reach it\n'
            f'enrolment = "{self.enrolment}"  # may be open to members alone\n'
            f'listen = "{self.listen}"        # of this machine; both ports\n'
        )

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names and addresses for which the server's certificate is."""
        hosts = {split_address(address)[0] for address in (self.session, self.enrolment)}
        return tuple(sorted(hosts))

    def listens(self, address: str) -> str:
        """Where the port of this public address is opened."""
        return f"{self.listen}:{split_address(address)[1]}"


@dataclass(frozen=True)
class Federation:
    """An opened federation; whoever opened it holds its lock."""

    root: Path
    description: Description
    authority: Authority
    journal: Journal
    blobs: RunBlobs
    ledger: Ledger
    log: Log

    @property
    def name(self) -> str:
        return self.description.name

    def keep_blob(self, data: bytes) -> str:
        """Put a small blob in, durable on return; from any thread. Returns its digest."""
        name = digest(data)
        path = self.blobs.kept(name)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, data)
            for folder in (path.parent.parent, self.blobs.root, self.blobs.root.parent):
                files.fsync(folder)
        return name


def found(root: Path, name: str, host: str, listen: str | None = None) -> Description:
    """Make a federation's directory. Again with the same name goes on where it was cut short.

    `host` is `HOST` or `HOST:PORT`, with port 0 for two that are free now. Raises D101, D104, D105, F103,
    F104, N117.
    """
    if not is_name(name):
        Authority.open(root / "federation", name)  # says what is wrong with it
    if name == SIMULATED:
        raise BarnraiseError(
            "N117",
            f"a federation cannot be called {name}",
            "simulations are, and whoever reads a release must be able to tell them apart",
            next="give another name",
        )
    if (root / DESCRIPTION).exists():
        raise BarnraiseError(
            "F104",
            f"{root} holds a federation already",
            f"its name is {Description.read(root).name}",
            next=f"barnraise serve {root}",
        )
    _check_free(root)
    description = _described(name, host, listen)
    with files.disk_errors(root):
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)
        for folder in ("runs", "proposals", "incoming"):
            (root / folder).mkdir(exist_ok=True)
        files.keep(root / "charter.toml", charter_template(name).encode())
    with locked(root), closing(Authority.open(root / "federation", name)) as authority:
        authority.server_credentials(description.hosts, require_client=True)
        with closing(Journal(root / "journal.db")) as journal:
            Ledger(journal).found(name, authority)
        with files.disk_errors(root):
            files.replace(root / DESCRIPTION, description.text().encode())
    return description


def _check_free(root: Path) -> None:
    ours = {"federation", "lock", "charter.toml", "runs", "proposals", "incoming"}
    held = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if other := sorted(n for n in held - ours if not n.startswith("journal.")):
        raise BarnraiseError(
            "D101",
            f"{root} is in use for something else than a federation",
            f"it holds {', '.join(other[:8])}",
            next="give a directory that is empty, or does not exist",
        )


def _described(name: str, host: str, listen: str | None) -> Description:
    bare, colon, port = host.rpartition(":")
    if not colon or (host.startswith("[") and host.endswith("]")):
        bare, port = host, str(SESSION_PORT)
    first, second = _free_ports() if port == "0" else (int(port) if port.isdecimal() else 0, 0)
    session = f"{bare}:{first}"
    enrolment = f"{bare}:{second or first + 1}"
    for address in (session, enrolment):
        _address(address, host)
    return Description(name, listen or _listening(bare), session, enrolment)


def _listening(host: str) -> str:
    """On which address of this machine one listens that is reached as `host`: all, but for loopback."""
    if host in ("localhost", "[::1]") or host.startswith("127."):
        return "127.0.0.1" if host == "localhost" else host
    return "[::]" if host.startswith("[") else "0.0.0.0"


def _free_ports() -> tuple[int, int]:
    """Two ports that nobody holds at this moment."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("", 0))
        other.bind(("", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _address(address: str, given: str = "") -> None:
    try:
        split_address(address)
    except BarnraiseError:
        raise BarnraiseError(
            "F103",
            f"{given or address!r} is no address of a server",
            "it is HOST or HOST:PORT, with a port from 1 to 65534: the next one is used as well",
            next="give HOST:PORT",
        ) from None


@contextmanager
def opened(root: Path) -> Iterator[Federation]:
    """Open a federation under its lock. Raises D102, D104, D105, D106, F101, F106."""
    root = root.absolute()
    description = Description.read(root)
    with files.disk_errors(root), ExitStack() as stack:
        stack.enter_context(locked(root))
        authority = Authority.open(root / "federation", description.name, offline=True)
        stack.callback(authority.close)
        journal = stack.enter_context(closing(Journal(root / "journal.db")))
        blobs = stack.enter_context(closing(RunBlobs(root / "blobs")))
        ledger = Ledger(journal)
        ledger.catch_up(authority)
        log = Log(root / "journal.db", authority.log_key, description.name)
        with closing(log):
            yield Federation(root, description, authority, journal, blobs, ledger, log)


def charter_template(name: str) -> str:
    """A charter that works as it stands, with what may be changed said beside it."""
    return f"""\
# What the members of {name} agree on. They read this text with `barnraise node review`, and sign its digest
# with `barnraise node approve`; a changed charter is another agreement, and is asked for again.
# docs/charter.md lists every key.
name = "{name}"
licence = "Apache-2.0"        # of the model

[task]
name = "causal-lm"            # or "classification", or "module:Class" in a file beside this one
context = 64
width = 64
layers = 2
heads = 2

[training]
steps = 20                    # local steps a round, at each member
batch = 16
lr = 0.003

[strategy]
name = "fedavg"               # docs/strategies.md lists the rules

[rounds]
count = 5
# quorum = 2                  # so many members must sign, and answer in a round; default: all must sign
# grace = 60.0                # seconds to wait for the others, once the quorum has answered
# deadline = 3600.0           # seconds after which a round closes as it is
"""
