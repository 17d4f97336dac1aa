"""A charter, and one directory of data per member, as a run: the built-in app under `sim` and `demo`.

Here the coordinator's side (`campaign`) and the institution's (`client.app`) meet in one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from flwr.app import UserConfig
from flwr.serverapp import ServerApp
from torch import nn

from barnraise.client.app import client_app
from barnraise.client.data import answers as answering
from barnraise.client.data.made import made
from barnraise.client.data.reading import reading_of
from barnraise.client.tasks import Columned, Task, load_task
from barnraise.client.tasks.checked import Checked, tried
from barnraise.coordinator import campaign
from barnraise.coordinator.founding import Stating
from barnraise.coordinator.plans import Plan, charter_code
from barnraise.coordinator.rounds import Policy
from barnraise.protocols.apps import INIT, Code, app_digest
from barnraise.protocols.canonical import digest_of
from barnraise.protocols.charter import Charter, read_text
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import is_name
from barnraise.protocols.randomness import derive, simulation_secret
from barnraise.protocols.values import cut, shortened
from barnraise.strategies import make


def charter_plan(
    path: Path,
    data: Path,
    overrides: UserConfig,
    seed: int = 0,
    *,
    trainers: Collection[str] | None = None,
) -> Plan:
    """The run of the charter at `path`, one member per sub-directory of `data`.

    Everything that can be known to be wrong is refused here, before anything starts: C101-C106, D201,
    D202. What members state of their data, in `data`/<member>.data.toml, goes on record before the run.
    `overrides` must be empty: a charter is what members signed. `trainers` as in `campaign`.
    """
    if overrides:
        raise BarnraiseError(
            "X102",
            "a charter has no configuration besides itself",
            f"-c gives {', '.join(overrides)}",
            next=f"write it into {path}",
        )
    text = read_text(path)
    charter = Charter.parse(text, str(path))
    members = member_directories(data)
    code = charter_code(charter, text, path)
    with _task(charter, code) as task:
        _check(charter, task, members, path)
    config: UserConfig = {"charter": text}
    if trainers is not None:
        config["trainers"] = " ".join(sorted(trainers))
    source = {
        "kind": "charter",
        "members": list(members),
        "trainers": sorted(trainers) if trainers is not None else None,
    }
    return Plan(
        charter.name,
        code,
        config,
        {name: {"data": str(directory)} for name, directory in members.items()},
        seed,
        _server(charter, trainers),
        client_app,
        source,
        policy=Policy(charter.rounds.quorum, charter.rounds.grace, charter.rounds.deadline),
        data=lambda: {name: data_digest(directory) for name, directory in members.items()},
        stating=partial(stated, charter, data, members, seed) if trainers is None else None,
    )


def stated(
    charter: Charter, data: Path, members: Mapping[str, Path], seed: int
) -> dict[str, Stating]:
    """The statements of those members of whom `data` holds answers. Salts follow from the seed.

    Raises D201, D202, S102 to S107.
    """
    secret, found = simulation_secret(seed), {}
    for name, directory in members.items():
        path = data / f"{name}.data.toml"
        if path.is_file():
            one = made(
                directory,
                reading_of(charter.task),
                answering.read(path),
                data,
                derive(secret, "data salt", name),
            )
            found[name] = Stating(one.statement, one.code)
    return found


def data_digest(directory: Path, whole: int = 1 << 30) -> str:
    """Names a member's data: a digest of the sorted (path, SHA-256) of its files, hidden ones left out.

    Of more than `whole` bytes, sizes and times of change stand for the contents.
    """
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and not _is_hidden(p, directory))
    files = {_name_below(directory, p): p for p in paths}
    facts = {name: p.stat() for name, p in files.items()}
    if sum(fact.st_size for fact in facts.values()) > whole:
        return digest_of([[name, f.st_size, str(f.st_mtime_ns)] for name, f in facts.items()])
    return app_digest(files)


def _name_below(directory: Path, path: Path) -> str:
    """The relative path as text, whatever bytes it is of."""
    name = os.fsencode(path.relative_to(directory).as_posix())
    return name.decode(errors="backslashreplace")


def _is_hidden(path: Path, below: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.relative_to(below).parts)


def member_directories(data: Path) -> dict[str, Path]:
    """Each member's directory under `data` by its name, which is the member's. Raises D201."""
    found = [d for d in sorted(data.iterdir()) if _is_member(d)] if data.is_dir() else []
    if not found:
        raise BarnraiseError(
            "D201",
            f"{data} holds no member's data",
            "it has no sub-directory" if data.is_dir() else "there is no such directory",
            next="give --data a directory with one sub-directory per member",
        )
    if wrong := [d.name for d in found if not is_name(d.name)]:
        raise BarnraiseError(
            "D201",
            f"{wrong[0]!r} is no member's name",
            f"the sub-directories of {data} are the members; a name is of a-z, 0-9 and inner hyphens",
            next=f"rename {data / wrong[0]}",
        )
    return {d.name: d.absolute() for d in found}


def _is_member(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith((".", "__"))


@contextmanager
def _task(charter: Charter, code: Code) -> Iterator[Task]:
    """The task, loaded from nothing but its own code, as it will be when the run starts."""
    with TemporaryDirectory(prefix="barnraise-") as alone:
        for name, data in code.items():
            if isinstance(data, bytes):
                target = Path(alone) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        yield load_task(charter.task, Path(alone))


def _server(charter: Charter, trainers: Collection[str] | None) -> Callable[[Path], ServerApp]:
    def server(copy: Path) -> ServerApp:
        init = copy / INIT if charter.model.init is not None else None
        return campaign.server_app(init, trainers)

    return server


def _check(charter: Charter, task: Task, members: dict[str, Path], path: Path) -> None:
    """Refuse now what would fail later: rule and size, quorum, data, initial weights."""
    rule = make(charter.strategy.name, charter.strategy.options, 0, len(members))
    quorum = charter.rounds.quorum
    if quorum is not None and not rule.minimum <= quorum <= len(members):
        raise BarnraiseError(
            "C104",
            f"rounds.quorum is {quorum}, and there are {len(members)} members",
            f"{charter.strategy.name} needs {rule.minimum} at least: {', '.join(members)}",
            next=f"correct rounds.quorum in {path}",
        )
    if isinstance(task, Checked):
        tried(task, charter.training.batch, members)
    else:
        for directory in members.values():
            task.data(directory)
    if isinstance(task, Columned):
        _check_columns({name: task.columns(directory) for name, directory in members.items()})
    if charter.model.init is not None:
        _check_init(path.parent / charter.model.init, charter.model.init, task.model())


def _check_columns(columns: Mapping[str, tuple[str, ...] | None]) -> None:
    """Raise D202 for two members whose columns have other names: their numbers mean other things."""
    named = {member: names for member, names in columns.items() if names is not None}
    for other in named:
        first = next(iter(named))
        if named[other] != named[first]:
            raise BarnraiseError(
                "D202",
                f"the columns of {first} and {other} differ",
                f"{first} has {cut(', '.join(named[first]))}\n"
                f"{other} has {cut(', '.join(named[other]))}",
                next="give the same columns to every member, in any order",
            )


def _check_init(path: Path, written: str, model: nn.Module) -> None:
    held = campaign.read_model(path, written)
    wanted = {
        k: (str(t.dtype).removeprefix("torch."), tuple(t.shape))
        for k, t in model.state_dict().items()
    }
    got = {k: (a.dtype, tuple(a.shape)) for k, a in held.items()}
    wrong = sorted(k for k in wanted.keys() | got.keys() if wanted.get(k) != got.get(k))
    if wrong:
        key = wrong[0]
        raise BarnraiseError(
            "C106",
            f"the initial model {shortened(written)} is not of this task's model",
            f"{key}: the file has {got.get(key, 'none')}, the model {wanted.get(key, 'none')}",
            next="correct [model] init or [task] in the charter",
        )
