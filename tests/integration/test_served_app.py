"""An unmodified Flower app under `serve`: agreed on, run, killed, gone on with, held back from, aborted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from walkthrough_kit import Typed, Walk

CLIENT = """
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    arrays = {k: Array(a.numpy() + np.float32(1)) for k, a in message.content["arrays"].items()}
    records = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 10})}
    return Message(RecordDict(records), reply_to=message)

@app.evaluate()
def evaluate(message, context):
    metrics = MetricRecord({"num-examples": 5, "loss": 0.25})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
"""


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Walk]:
    monkeypatch.setenv("COLUMNS", "200")
    walk = Walk(tmp_path, ["ada"])
    try:
        yield walk
    finally:
        walk.close()


def types(walk: Walk, who: str, line: str, *printed: str) -> None:
    walk.type(Typed(who, f"barnraise {line}", printed))


def told(walk: Walk, line: str) -> Any:
    """What the operator's verb says as JSON."""
    code, out, err = walk.once("operator", f"barnraise {line} --dir f --json")
    assert code == 0, err
    return json.loads(out)


def begun(walk: Walk, app: Path) -> None:
    """One member, whose node runs, has agreed on the app."""
    types(walk, "operator", "found f --host coordinator.example.org", "…")
    types(walk, "operator", "serve f &", "f is served at …")
    types(walk, "operator", "invite ada --dir f > ada.invite")
    types(walk, "ada", "join ada.invite --dir node &", "…", "waiting for the operator …")
    digits = walk.known["FINGERPRINT OF ada"]
    types(
        walk, "operator", f'members confirm ada --fingerprint "{digits}" --dir f', "ada is a member"
    )
    walk.until(lambda: (walk.home("ada") / "node" / "federation.json").exists(), "the certificate")
    types(walk, "ada", "node up node &")
    types(walk, "operator", f"run open --app {app} -c rounds=4 --dir f", "error[F110] …", "…")
    types(walk, "ada", "node review --dir node", "…")
    types(walk, "ada", "node approve AGREEMENT --dir node", "…")


@pytest.mark.slow
def test_a_flower_app_is_served_whatever_is_killed(walk: Walk, make_app: Any) -> None:
    app = make_app("tiny", client=CLIENT)
    begun(walk, app)
    opens = f"run open --wait --app {app} -c rounds=4 --dir f"
    types(walk, "operator", opens, "the run tiny-1 is open", "…")
    serve = walk.running["operator serve"].process
    serve.kill()
    serve.wait()
    types(walk, "operator", "serve f &", "…")
    types(walk, "operator", "run watch --dir f", "…", "tiny-1  finished  sha256:…")
    (run,) = told(walk, "run list")["runs"]
    model = (Path(run["directory"]) / "model.safetensors").read_bytes()
    assert run["model"] == "sha256:" + hashlib.sha256(model).hexdigest()

    types(walk, "ada", "node pause --why backup --dir node", "…")
    types(walk, "operator", opens, "the run tiny-2 is open", "…")
    walk.until(lambda: "ada" in told(walk, "run why")["why"], "a wait for ada")
    types(walk, "operator", "run abort --yes --dir f", "the run tiny-2 is aborted; …")
    assert [one["state"] for one in told(walk, "run list")["runs"]] == ["finished", "aborted"]
    assert told(walk, "run list")["runs"][1]["model"] == ""
    code, _, err = walk.once("operator", "barnraise run close --dir f")
    assert code == 1 and "error[F112]" in err
