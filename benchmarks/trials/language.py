"""The byte-level language model: DiLoCo beside synchronous training, and the price of each update codec.

Every federation here is a real run of a charter through the engine, so bytes are those that crossed the
Grid. The text is the Python standard library's source; for each seed its packages are dealt anew to four
members. Held-out loss is the members' mean, weighted by their held-out windows, in nats per byte.
"""

from __future__ import annotations

import shutil
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from barnraise.builtin import charter_plan
from barnraise.client.tasks import Split, load_task
from barnraise.client.tasks.task import Task
from barnraise.client.training import Inner, evaluate, train
from barnraise.coordinator import events
from barnraise.coordinator.simulate import execute
from barnraise.protocols.charter import Charter
from barnraise.protocols.codecs import CODECS

MEMBERS = ("basel", "geneva", "lausanne", "zurich")
BYTES, QUICK = 150_000, 40_000  # of text, each member
TASK = (
    '[task]\nname = "causal-lm"\ncontext = 64\nwidth = 48\nlayers = 2\nheads = 4\nheld_out = 0.1\n'
)
TRAINING = "batch = 16\nlr = 0.003\nwarmup = 20\ndecay = 0.3\n"
LINKS = (1, 10, 100)  # Mbit/s, up and down alike


@contextmanager
def texts(seed: int, size: int = BYTES) -> Iterator[Path]:
    """A directory with `size` bytes of text for each member, its packages drawn with `seed`."""
    library = Path(sysconfig.get_paths()["stdlib"])
    packages = [
        d
        for d in sorted(library.iterdir())
        if d.is_dir() and d.name not in ("test", "site-packages")
    ]
    order = np.random.default_rng(seed).permutation(len(packages))
    with tempfile.TemporaryDirectory() as root:
        dealt = [packages[i] for i in order]
        for number, name in enumerate(MEMBERS):
            _fill(Path(root) / name, dealt[number :: len(MEMBERS)], size)
        yield Path(root)


def _fill(home: Path, packages: Sequence[Path], room: int) -> None:
    """Files of these packages up to `room` bytes, package by package."""
    for package in packages:
        for file in sorted(package.rglob("*.py")):
            size = file.stat().st_size
            if 500 <= size <= min(room, 40_000):
                target = home / package.name / file.relative_to(package)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
                room -= size


# --- one run -------------------------------------------------------------------------------------------


def charter_text(steps: int, rounds: int, strategy: str, codec: str | None = None) -> str:
    coded = f'codec = "{codec}"\n' if codec else ""
    return (
        f'name = "trial"\n{TASK}[training]\nsteps = {steps}\n{TRAINING}{coded}'
        f"[strategy]\n{strategy}\n[rounds]\ncount = {rounds}\nevaluate_every = {rounds}\n"
    )


def federated(data: Path, text: str, seed: int) -> dict[str, Any]:
    """The run of a charter: its last held-out loss, and the bytes of its train batches, up and down."""
    seen: list[events.Event] = []
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "charter.toml"
        path.write_text(text)
        outcome = execute(charter_plan(path, data, {}, seed), None, watcher=seen.append)
    trained = {e.batch: e for e in seen if isinstance(e, events.BatchSent) and e.type == "train"}
    answers = [e for e in seen if isinstance(e, events.Answered) and e.batch in trained]
    assert not outcome.problems, outcome.problems
    return {
        "loss": outcome.report["metrics"]["loss"],
        "up": sum(e.bytes for e in answers),
        "down": sum(e.bytes for e in trained.values()),
    }


def synchronous(data: Path, steps: int, seed: int) -> dict[str, Any]:
    """Data-parallel training: each step is one AdamW step on a batch of which each member has a share,
    which is the mean of the members' gradients; each sends a gradient and takes one, in float32."""
    charter = Charter.parse(charter_text(steps, 1, ""))
    task = load_task(charter.task)
    splits = [task.data(data / name) for name in MEMBERS]
    torch.manual_seed(charter.model.seed)
    model = task.model()
    torch.manual_seed(seed)
    plan = charter.training.model_copy(update={"batch": charter.training.batch * len(MEMBERS)})
    train(task, model, Everyone(splits), plan, Inner(), (0.0, 1.0))
    traffic = 4 * sum(p.numel() for p in model.parameters()) * steps * len(MEMBERS)
    return {"loss": held_out(task, model, splits), "up": traffic, "down": traffic}


class Everyone(Dataset[Any]):
    """The members' examples in turn, each member's as often as another's."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self._parts: list[Any] = [split.train for split in splits]

    def __len__(self) -> int:
        return len(self._parts) * max(len(part) for part in self._parts)

    def __getitem__(self, index: int) -> Any:
        place, member = divmod(index, len(self._parts))
        part = self._parts[member]
        return part[place % len(part)]


def held_out(task: Task, model: nn.Module, splits: Sequence[Split]) -> float:
    """As the members' weighted mean, the way a run reports it."""
    sizes = [split.sizes()[1] for split in splits]
    losses = [evaluate(task, model, split.held_out)["loss"] for split in splits]
    return sum(n * loss for n, loss in zip(sizes, losses, strict=True)) / sum(sizes)


def seconds_a_step() -> float:
    """Of one member's optimizer step on this machine: the median of ten."""
    charter = Charter.parse(charter_text(1, 1, ""))
    task = load_task(charter.task)
    model, inner, taken = task.model(), Inner(), []
    with texts(0, QUICK) as data:
        split = task.data(data / MEMBERS[0])
        for _ in range(10):
            started = time.perf_counter()
            train(task, model, split.train, charter.training, inner, (0.0, 1.0))
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


# --- the trials ----------------------------------------------------------------------------------------

OUTER = {
    "plain mean": 'name = "fedavg"',
    "momentum 0.3, lr 1": 'name = "diloco"\nlr = 1.0\nmomentum = 0.3',
    "momentum 0.9, lr 0.7": 'name = "diloco"',
}


def diloco(quick: bool, seeds: Sequence[int]) -> dict[str, Any]:
    """DiLoCo at H local steps a round, beside synchronous training of as many steps and tokens."""
    steps, horizons = (10, (10,)) if quick else (600, (10, 30, 100))
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        with texts(seed, QUICK if quick else BYTES) as data:
            runs.setdefault("synchronous", []).append(synchronous(data, steps, seed))
            for h in horizons:
                for name, strategy in OUTER.items():
                    text = charter_text(h, steps // h, strategy)
                    runs.setdefault(f"H = {h}, {name}", []).append(federated(data, text, seed))
    step = seconds_a_step()
    rows = {name: _diloco_row(found, steps, step) for name, found in runs.items()}
    return {"steps": steps, "seconds_a_step": step, "rows": rows}


def _diloco_row(found: list[dict[str, Any]], steps: int, step: float) -> dict[str, Any]:
    """Losses by seed, bytes of one member, and hours on links where its traffic and work alternate."""
    up, down = (found[0][key] / len(MEMBERS) for key in ("up", "down"))
    return {
        "loss": [f["loss"] for f in found],
        "up": up,
        "down": down,
        "seconds": {str(mbit): steps * step + 8 * (up + down) / (mbit * 1e6) for mbit in LINKS},
    }


def codecs(quick: bool, seeds: Sequence[int]) -> dict[str, Any]:
    """The same run under each codec: held-out loss by seed, and the bytes of one member's update."""
    steps, rounds = (2, 2) if quick else (20, 20)
    rows: dict[str, Any] = {}
    for seed in seeds:
        with texts(seed, QUICK if quick else BYTES) as data:
            for codec in (None, *CODECS):
                text = charter_text(steps, rounds, OUTER["momentum 0.3, lr 1"], codec)
                found = federated(data, text, seed)
                row = rows.setdefault(codec or "whole model", {"loss": []})
                row["loss"].append(found["loss"])
                row["bytes"] = found["up"] / len(MEMBERS) / rounds
    return {"steps": steps, "rounds": rounds, "rows": rows}
