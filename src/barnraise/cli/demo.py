"""`barnraise demo`: a whole federation on this machine, on real text, and each member alone beside it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from barnraise.cli import words
from barnraise.cli.config import directory as directory_in
from barnraise.cli.sim import Json, Verbose
from barnraise.demo.text import PACKAGES


def demo(
    directory: Annotated[
        Path,
        typer.Option("--dir", metavar="D", parser=directory_in, help="Where the demo is kept."),
    ] = Path("barnraise-demo"),
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", metavar="N", min=1, help="How many rounds. [default: 10]"),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> dict[str, Any]:
    """Four members train one small language model together, and each alone beside it.

    On this Python's own source text, in about three minutes. Then a release of what they made, checked:
    verified, a round recomputed, a contribution trained again. The same command again continues a demo
    that was interrupted, and shows one that is finished.
    """
    from barnraise.cli.watch import say
    from barnraise.demo import federation
    from barnraise.protocols.files import disk_errors

    with disk_errors(directory):
        charter = federation.prepare(directory, rounds)
        metrics = federation.finished(directory)
        if metrics is not None:
            say(f"{directory} is finished; nothing is trained again", *_rows(metrics))
        else:
            metrics = _train(directory, charter.rounds.count, verbose)
        say(*_comparison(metrics))
        checked = _released(directory, metrics)
    say(*_next(directory))
    return {"ok": True, "directory": str(directory), **metrics, "release": checked}


def _released(directory: Path, metrics: dict[str, Any]) -> dict[str, str]:
    """Publish the release, and say what its checks come to, in four lines."""
    from barnraise.cli.watch import engines_log_hidden, say
    from barnraise.demo import release

    with engines_log_hidden():
        out = release.publish(directory, metrics)
        say(f"released   {out}: for anyone to check")
        found = {"directory": str(out)}
        for what, came in release.checks(directory, out):
            say(f"{what:9}  {came}")
            found[what] = came
    say("")
    return found


def _train(directory: Path, rounds: int, verbose: bool) -> dict[str, Any]:
    from barnraise.cli.watch import watched
    from barnraise.demo import federation
    from barnraise.demo.alone import beside

    progress = _AloneProgress(len(PACKAGES), rounds)
    with beside(directory, progress.told) as alone:
        status = directory / "together"
        with watched(directory, verbose, seals=True, status=status) as watcher:
            federation.together(directory, watcher)
        with progress.shown():
            alone.wait()
    return federation.conclude(directory)


class _AloneProgress:
    """How far the members alone are. `told` comes from another thread; rich's progress has a lock."""

    def __init__(self, members: int, rounds: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from barnraise.cli.watch import console

        text = TextColumn("[dim]each alone, for comparison: {task.description}")
        bar = (BarColumn(), TextColumn("{task.completed}/{task.total} rounds"), TimeElapsedColumn())
        self._progress = Progress(text, *bar, console=console(), transient=True)
        self._task = self._progress.add_task("", total=members * rounds)
        self._done: dict[str, int] = {}

    def told(self, member: str, number: int) -> None:
        self._done[member] = number
        self._progress.update(self._task, completed=sum(self._done.values()), description=member)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, a bar on a terminal."""
        if not self._progress.console.is_terminal:
            yield
            return
        with self._progress:
            yield


def _rows(metrics: dict[str, Any]) -> list[str]:
    """A row per round, as it was shown when it happened."""
    count = len(metrics["rounds"]) - 1
    return [_row(one, count) for one in metrics["rounds"]]


def _row(one: dict[str, Any], count: int) -> str:
    parts = [
        f"round {one['round']:>{len(str(count))}}/{count}",
        " ".join(one["accepted"]) or "the initial model",
        words.change({"loss": one["before"]}, {"loss": one["after"]}),
        words.duration(one["seconds"]),
        words.size(one["bytes"]),
    ]
    return " · ".join(parts)


def _comparison(metrics: dict[str, Any]) -> list[str]:
    """Together against alone, and in words which won."""
    together, alone, best = metrics["together"], metrics["alone"], metrics["best_alone"]
    width = max(len(member) for member in alone)
    lines = [
        "",
        f"held-out loss in nats per byte, after {metrics['local_steps']} local steps each",
        f"  {'':{width}}        everyone's text    its own text (together)",
        f"  {'together':{width}}        {together['loss']:.3f}",
    ]
    for member, one in alone.items():
        own = f"{one['own']:.3f} ({together['own'][member]:.3f})"
        lines.append(f"  {member:{width}} alone  {one['loss']:.3f}              {own}")
    gain = metrics["gain"]
    if gain["nats_per_byte"] > 0:
        said = f"together is better than the best alone ({best['member']}) by"
    else:
        said = f"together did NOT beat the best alone ({best['member']}); it is off by"
    wins = sum(together["own"][member] < one["own"] for member, one in alone.items())
    return [
        *lines,
        f"{said} {abs(gain['nats_per_byte']):.3f} ({abs(gain['part']):.1%});",
        f"on its own text it is better for {wins} of {len(alone)} members",
        "",
    ]


def _next(directory: Path) -> list[str]:
    files = "model.safetensors  metrics.json  loss.svg  sample.txt  release"
    charter, data = directory / "charter.toml", directory / "data"
    return [
        f"{directory}: {files}",
        f"check: barnraise verify {shlex.quote(str(directory / 'release'))}",
        (
            f"next: barnraise sim run {shlex.quote(str(charter))} --data DIR "
            f"(your own text, one sub-directory per member, as in {data})"
        ),
    ]
