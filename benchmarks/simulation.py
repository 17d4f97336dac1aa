"""What a simulated round costs: `python benchmarks/simulation.py [--sites 32] [--mb 1] [--flower]`.

Runs the reference work (`apps/flower_round`) in this process, with a run directory (journaled, signed,
fsynced) and without one, and prints exactly one JSON object. Beside it stands the floor, measured in the
same run: hashing the replies, and writing the blobs that the directory gained. `--flower` also runs
the same app in Flower's own simulation, in a process of its own, if `ray` is installed: Barnraise does
not depend on it (`pip install barnraise[sim]`).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

APP = Path(__file__).parent / "apps" / "flower_round"
LINE = re.compile(r"seconds a round: ([0-9.]+)")

FLOWER = """
import sys
sys.path.insert(0, {app!r})
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from flower_round.client import app as client
from flower_round.server import app as server

configured = ServerApp()

@configured.main()
def main(grid, context):
    context.run_config.update({config!r})
    server(grid, context)

run_simulation(configured, client, {sites})
"""


def barnraise(args: argparse.Namespace, directory: Path | None) -> float:
    """Seconds a round of one run."""
    from barnraise.coordinator.plans import app_plan
    from barnraise.coordinator.simulate import execute
    from barnraise.protocols.identity import site_names

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        execute(app_plan(APP, site_names(args.sites), config_of(args), 0), directory)
    return seconds_in(printed.getvalue())


def processes(args: argparse.Namespace, directory: Path) -> float:
    """The median seconds of a train batch, each member a node of its own over mTLS, all kept on disk."""
    from barnraise.coordinator import events
    from barnraise.coordinator.plans import app_plan
    from barnraise.coordinator.simulate import execute
    from barnraise.processes import Processes
    from barnraise.protocols.identity import site_names

    took: list[float] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.BatchClosed) and event.type == "train":
            took.append(event.seconds)

    plan = app_plan(APP, site_names(args.sites), config_of(args), 0)
    with contextlib.redirect_stdout(io.StringIO()):
        execute(plan, directory, watcher=watch, fleets=Processes())
    return statistics.median(took)


def config_of(args: argparse.Namespace) -> dict[str, bool | float | int | str]:
    return {
        "nodes": args.sites,
        "rounds": args.rounds,
        "mb": args.mb,
        "distinct": args.distinct,
    }


def seconds_in(printed: str) -> float:
    found = LINE.search(printed)
    if found is None:
        raise RuntimeError(f"the app printed no time:\n{printed[-2000:]}")
    return float(found[1])


def files_of(directory: Path) -> list[int]:
    """The sizes of the blobs that a run left."""
    return [f.stat().st_size for f in (directory / "blobs" / "sha256").glob("??/*")]


def floor(args: argparse.Namespace, sizes: Sequence[int], where: Path) -> dict[str, float]:
    """Seconds a round for hashing the replies, and for writing (and syncing) what a round writes."""
    blob = os.urandom(int(args.mb * 2**20))
    started = time.perf_counter()
    for _ in range(args.sites):
        hashlib.sha256(blob).digest()
    hashing = time.perf_counter() - started
    data = os.urandom(max(sizes))
    out = {"hash": hashing}
    for name, sync in (("write", False), ("write and fsync", True)):
        folder = Path(tempfile.mkdtemp(dir=where))
        started = time.perf_counter()
        for i, size in enumerate(sizes):
            fd = os.open(folder / str(i), os.O_CREAT | os.O_WRONLY)
            os.write(fd, memoryview(data)[:size])
            if sync:
                os.fsync(fd)
            os.close(fd)
        out[name] = (time.perf_counter() - started) / args.rounds
        shutil.rmtree(folder)
    return out


def flower(args: argparse.Namespace) -> dict[str, Any]:
    """The same app in Flower's own simulation, or why not."""
    if importlib.util.find_spec("ray") is None:
        return {"missing": "ray is not installed; it is not among Barnraise's dependencies"}
    program = FLOWER.format(app=str(APP), sites=args.sites, config=config_of(args))
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    a_round = seconds_in(done.stdout)
    start = time.perf_counter() - started - a_round * args.rounds
    return {"seconds a round": a_round, "seconds around it": start}


def measure(args: argparse.Namespace, where: Path) -> dict[str, Any]:
    durable, temporary, floors = [], [], []
    for n in range(args.repeats):
        directory = where / str(n)
        durable.append(barnraise(args, directory))
        floors.append(floor(args, files_of(directory), where))
        shutil.rmtree(directory)
        temporary.append(barnraise(args, None))
    seconds = {
        "with a directory": statistics.median(durable),
        "without": statistics.median(temporary),
    }
    lowest = {name: statistics.median(f[name] for f in floors) for name in floors[0]}
    least = {
        "with a directory": lowest["hash"] + lowest["write and fsync"],
        "without": lowest["hash"] + lowest["write"],
    }
    result: dict[str, Any] = {
        "benchmark": "simulation",
        "sites": args.sites,
        "mb": args.mb,
        "rounds": args.rounds,
        "repeats": args.repeats,
        "distinct replies": args.distinct,
        "seconds a round": {k: round(v, 6) for k, v in seconds.items()},
        "floor seconds a round": {k: round(v, 6) for k, v in lowest.items()},
        "times the floor": {k: round(v / least[k], 2) for k, v in seconds.items()},
    }
    if args.processes:
        seconds_each = [processes(args, where / f"processes-{n}") for n in range(args.repeats)]
        result["processes, median seconds a batch"] = round(statistics.median(seconds_each), 6)
    if args.flower:
        result["flower"] = theirs = flower(args)
        if "seconds a round" in theirs:
            ratio = theirs["seconds a round"] / seconds["with a directory"]
            theirs["ratio to Barnraise with a directory"] = round(ratio, 2)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sites", type=int, default=32)
    parser.add_argument("--mb", type=float, default=1.0, help="the model's size, in MiB")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--distinct", action="store_true", help="every member's reply differs")
    parser.add_argument("--processes", action="store_true", help="also as nodes of their own")
    parser.add_argument("--flower", action="store_true", help="time Flower's own simulation too")
    args = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # Flower tells of each round
    with tempfile.TemporaryDirectory(prefix="barnraise-benchmark-") as where:
        print(json.dumps(measure(args, Path(where))))


if __name__ == "__main__":
    main()
