"""Running the real command, and small Flower apps to run it on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from command_kit import COMMAND, SERVER, environment

PYPROJECT = """
[project]
name = "{name}"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "us"
[tool.flwr.app.components]
serverapp = "{name}.server:app"
clientapp = "{name}.client:app"
[tool.flwr.app.config]
rounds = 2
rate = 0.5
"""

CLIENT = """
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

def odd(me, arrays, metrics):
    pass

@app.train()
def train(message, context):
    me = context.node_config["partition-id"]
    received = message.content["arrays"]
    arrays = {k: a.numpy() * np.float32(0.5) + np.float32(me) for k, a in received.items()}
    metrics = {"num-examples": 10 + me, "loss": 1.0 / (1 + me)}
    if odd(me, arrays, metrics) == "nothing":
        return None
    records = {"arrays": ArrayRecord({k: Array(a) for k, a in arrays.items()})}
    return Message(RecordDict(records | {"metrics": MetricRecord(metrics)}), reply_to=message)

@app.evaluate()
def evaluate(message, context):
    metrics = MetricRecord({"num-examples": 5, "loss": 0.25})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def object(self) -> Any:
        """The one JSON object on stdout."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


AppMaker = Callable[..., Path]
Command = Callable[..., Ran]


@pytest.fixture
def make_app(tmp_path: Path) -> AppMaker:
    """A Flower app directory: FedAvg on a small model. Each argument replaces a file's text."""

    def make(
        name: str = "tiny", *, server: str = SERVER, client: str = CLIENT, project: str = PYPROJECT
    ) -> Path:
        package = tmp_path / name / name
        package.mkdir(parents=True)
        (tmp_path / name / "pyproject.toml").write_text(project.format(name=name))
        (package / "__init__.py").touch()
        (package / "server.py").write_text(server)
        (package / "client.py").write_text(client)
        return tmp_path / name

    return make


@pytest.fixture
def make_odd_app(make_app: AppMaker) -> AppMaker:
    """The same app, but each of these members does something to its reply in training."""

    def make(name: str, deeds: Mapping[int, str]) -> Path:
        body = "".join(f"    if me == {me}:\n        {deed}\n" for me, deed in deeds.items())
        return make_app(name, client=CLIENT.replace("    pass\n", body))

    return make


@pytest.fixture
def barnraise(tmp_path: Path) -> Command:
    """Runs the real command in `tmp_path` and waits for it."""

    def run(*arguments: str | Path, seconds: float = 60, command: Sequence[str] = ()) -> Ran:
        done = subprocess.run(
            [*(command or [str(COMMAND)]), *map(str, arguments)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
