"""What decides a simulated run: a `Plan`, made from a Flower app directory or from what a run's directory
keeps of the run that it holds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flwr.app import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from barnraise.coordinator import campaign
from barnraise.coordinator.founding import Stating
from barnraise.coordinator.rounds import Policy
from barnraise.protocols import flower, identity
from barnraise.protocols.apps import (
    BUILT_IN,
    CHARTER,
    INIT,
    Code,
    app_digest,
    code_files,
    code_kept,
)
from barnraise.protocols.charter import Charter
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.randomness import derive, simulation_secret


@dataclass(frozen=True)
class Plan:
    """Everything that decides a simulated run.

    `code` is the app's files by path; its digest is the app's. `members` maps each name to its node
    config. `server` and `client` import the two apps when they are needed; they are given the directory
    that keeps a copy of `code`. A node in a process of its own imports `component` from `home` (None:
    from that copy). `data` digests each member's data, where the plan knows them; `stating` gives what
    members state of them. `again`: the plan was made from what a run's directory keeps.
    """

    name: str
    code: Code
    config: UserConfig
    members: Mapping[str, UserConfig]
    seed: int
    server: Callable[[Path], ServerApp]
    client: Callable[[Path], ClientApp]
    source: Mapping[str, Any]
    component: str = BUILT_IN
    home: Path | None = None
    policy: Policy = field(default_factory=Policy)
    mixed_replies: bool = False
    data: Callable[[], Mapping[str, str]] | None = None
    stating: Callable[[], Mapping[str, Stating]] | None = None
    again: bool = False

    @property
    def secret(self) -> bytes:
        return simulation_secret(self.seed)

    @property
    def run(self) -> str:
        return derive(self.secret, "run", self.name).hex()[:16]


def app_plan(app_dir: Path, names: Sequence[str], config: UserConfig, seed: int) -> Plan:
    """The plan for a Flower app directory."""
    app_dir = app_dir.absolute()
    project = flower.project(app_dir, config)
    members: dict[str, UserConfig] = {
        name: {"partition-id": i, "num-partitions": len(names)} for i, name in enumerate(names)
    }

    def server(copy: Path) -> ServerApp:
        sys.path.insert(0, str(app_dir))
        return flower.load_server_app(project.server, app_dir)

    return Plan(
        project.name,
        code_files(app_dir),
        project.config,
        members,
        seed,
        server,
        lambda copy: flower.load_client_app(project.client, app_dir),
        {"kind": "app", "path": str(app_dir), "sites": len(names)},
        project.client,
        app_dir,
        mixed_replies=project.mixed_replies,
    )


def charter_code(charter: Charter, text: str, path: Path) -> Code:
    """What a charter's app consists of: the charter, the code of a task of one's own, initial weights."""
    code: dict[str, bytes | Path] = {CHARTER: text.encode()}
    if charter.task.own is not None:
        top = charter.task.own[0].partition(".")[0]
        if (module := path.parent / f"{top}.py").is_file():
            code[module.name] = module.read_bytes()
        for name, held in code_files(path.parent / top).items():
            code[f"{top}/{name}"] = held
    if charter.model.init is not None:
        code[INIT] = path.parent / charter.model.init
    return code


def plan_again(directory: Path) -> Plan:
    """The plan of the run that `directory` holds, for a replay. Raises D103 or D106."""
    path = directory / "source.json"
    if not path.exists():
        raise BarnraiseError(
            "D103",
            f"{directory} holds no run",
            "it has no source.json" if directory.is_dir() else "there is no such directory",
            next="give the --dir of a `barnraise sim run`",
        )
    source = source_kept(directory)
    if source is None:
        raise BarnraiseError(
            "D106",
            f"{path} is damaged",
            "it is not what describes a run",
            next="run the command that made it again: it writes the file anew",
        )
    _check_copy(directory / "app", source)
    return replace(_AGAIN[source["kind"]](directory, source), again=True)


def source_kept(directory: Path) -> dict[str, Any] | None:
    """What `source.json` says of the run in `directory`; None for a file that is damaged or gone."""
    try:
        source = json.loads((directory / "source.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"app": {"path", "sites"}, "charter": {"members", "trainers"}, "test": set[str]()}
    if not isinstance(source, dict) or source.get("kind") not in kinds:
        return None
    needed = {"config", "seed", "app"} | kinds[source["kind"]]
    return source if needed <= source.keys() else None


def _check_copy(copy: Path, source: Mapping[str, Any]) -> None:
    """D106 unless the copy is of the app that was run, before anything in it is read or imported."""
    if (found := app_digest(code_kept(copy))) != source["app"]:
        raise BarnraiseError(
            "D106",
            f"{copy} is not the app that was run",
            f"its digest is {found}, that of the app {source['app']}",
            next="run the command that made it again: it writes the copy anew",
        )


def _app_again(directory: Path, source: Mapping[str, Any]) -> Plan:
    original = Path(source["path"])
    kept = directory / "app"
    home = original if original.is_dir() and _same_code(original, kept) else kept
    return app_plan(home, identity.site_names(source["sites"]), source["config"], source["seed"])


def _charter_again(directory: Path, source: Mapping[str, Any]) -> Plan:
    """The run of a charter, without the members' side: no task is loaded and no data read."""
    copy = directory / "app"
    charter = Charter.read(copy / CHARTER)
    init = copy / INIT if charter.model.init is not None else None
    rounds = charter.rounds
    return Plan(
        charter.name,
        code_kept(copy),
        source["config"],
        {name: {} for name in source["members"]},
        source["seed"],
        lambda _: campaign.server_app(init, source["trainers"]),
        lambda _: ClientApp(),
        source,
        policy=Policy(rounds.quorum, rounds.grace, rounds.deadline),
    )


def _test_again(directory: Path, source: Mapping[str, Any]) -> Plan:
    raise BarnraiseError(
        "D103",
        f"{directory} holds a run of barnraise.testing",
        "its apps are objects of a test, of which nothing is kept",
        next="replay it in the test: Federation.run(…, replay=True)",
    )


_AGAIN = {"app": _app_again, "charter": _charter_again, "test": _test_again}


def _same_code(one: Path, other: Path) -> bool:
    return app_digest(code_files(one)) == app_digest(code_files(other))
