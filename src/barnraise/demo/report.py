"""What the demo came to: together against alone, as numbers, as a plot, as a text that the model wrote."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from barnraise.coordinator.history import Round, history
from barnraise.protocols.charter import Charter

PROMPT = "def "
SAMPLE_BYTES = 400


def measured(home: Path) -> dict[str, Any]:
    """Everything that the journals of the run, and of each member alone, say; as JSON.

    Losses are means over held-out bytes, in nats per byte: `loss` over every member's held-out text,
    `own` over the member's own. Of a member alone the best of its measurements counts.
    """
    charter = Charter.read(home / "charter.toml")
    rounds = history(home / "together")
    last = rounds[-1].report
    alone = {d.name: _alone(history(d), d.name) for d in sorted((home / "alone").iterdir())}
    best = min(alone, key=lambda member: alone[member]["loss"])
    together = {
        "loss": last["after"]["loss"],
        "own": {member: means["loss"] for member, means in last["members"].items()},
    }
    gain = alone[best]["loss"] - together["loss"]
    return {
        "federation": charter.name,
        "members": sorted(alone),
        "digest": rounds[-1].model,
        "local_steps": (charter.training.steps or 0) * charter.rounds.count,
        "rounds": [_row(r) for r in rounds],
        "together": together,
        "alone": alone,
        "best_alone": {"member": best, "loss": alone[best]["loss"]},
        "gain": {"nats_per_byte": gain, "part": gain / alone[best]["loss"]},
        "seconds": sum(r.seconds for r in rounds),
        "bytes": sum(r.bytes for r in rounds),
        "versions": {name: version(name) for name in ("barnraise", "flwr", "torch", "numpy")},
    }


def _alone(rounds: list[Round], member: str) -> dict[str, Any]:
    """A member alone: its losses at each measurement, the best of them, and then its own text's."""
    seen = [r for r in rounds if r.report["members"]]
    best = min(seen, key=lambda r: r.report["after"]["loss"])
    return {
        "loss": best.report["after"]["loss"],
        "own": best.report["members"][member]["loss"],
        "round": best.number,
        "history": [[r.number, r.report["after"]["loss"]] for r in seen],
    }


def _row(one: Round) -> dict[str, Any]:
    report = one.report
    return {
        "round": one.number,
        "accepted": list(one.accepted),
        "refused": dict(one.refused),
        "absent": list(one.absent),
        "before": report.get("before", {}).get("loss"),
        "after": report["after"]["loss"],
        "train": report.get("train", {}).get("loss"),
        "members": {member: means["loss"] for member, means in report["members"].items()},
        "model": one.model,
        "seconds": one.seconds,
        "bytes": one.bytes,
    }


def write_plot(path: Path, metrics: dict[str, Any]) -> None:
    """Held-out loss by round, together and each alone, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "barnraise", "font.size": 10})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for member, one in metrics["alone"].items():
        axes.plot(*zip(*one["history"], strict=True), lw=1.2, marker=".", label=f"{member} alone")
    rounds = metrics["rounds"]
    axes.plot(
        [r["round"] for r in rounds],
        [r["after"] for r in rounds],
        color="black",
        lw=2.4,
        label="together",
    )
    axes.set_xlabel("round")
    axes.set_ylabel("held-out loss, nats per byte")
    axes.set_title(
        f"{metrics['federation']}: together against alone, on every member's held-out text"
    )
    axes.set_ylim(top=min(4.0, rounds[0]["after"] or 4.0))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def write_sample(home: Path) -> None:
    """A text by the shared model, the same each time."""
    import torch
    from safetensors.torch import load_file

    from barnraise.client.tasks import Sampler, load_task

    task = load_task(Charter.read(home / "charter.toml").task)
    model = task.model()
    model.load_state_dict(load_file(home / "model.safetensors"))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    assert isinstance(task, Sampler)
    text = task.sample(model.eval(), PROMPT, SAMPLE_BYTES)
    (home / "sample.txt").write_text(text + "\n")
