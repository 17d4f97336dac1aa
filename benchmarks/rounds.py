"""What a round costs on nodes: `python benchmarks/rounds.py [--mb 1] [--sites 4] [--rounds 8]`.

The reference work (`apps/flower_round`, a standard Flower app that trains nothing) on Barnraise, every
member a node of its own over mutual TLS, durable, signed and logged with every blob kept; then the very
same app on Flower's own SuperLink and SuperNodes; then the machine's own floor, in the same run. Prints
exactly one JSON object on stdout; progress goes to stderr. MB are 2^20 bytes.

A round is what lies between two batches in the journal: sending, working, delivering, judging, averaging.
`--strategy ours` averages with Barnraise's FedAvg instead of Flower's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines import floor, ours, superlink

APP = Path(__file__).parent / "apps" / "flower_round"


def main(arguments: Sequence[str] | None = None) -> None:
    args = parsed(arguments)
    with tempfile.TemporaryDirectory(prefix="barnraise-rounds-", dir=args.where) as where:
        print(json.dumps(measured(args, Path(where))))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mb", type=float, default=1.0, help="the model's size")
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--strategy", choices=["flower", "ours"], default="flower")
    parser.add_argument("--distinct", action="store_true", help="every member's reply differs")
    parser.add_argument("--in-process", action="store_true", help="no nodes: all in one process")
    parser.add_argument("--skip-flower", action="store_true")
    parser.add_argument("--skip-floor", action="store_true")
    parser.add_argument("--flower-rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that Flower may take")
    parser.add_argument("--where", help="where the runs are kept meanwhile")
    args = parser.parse_args(arguments)
    if args.rounds < 3:
        parser.error("--rounds is 3 at least: the first ones warm up")
    return args


def measured(args: argparse.Namespace, where: Path) -> dict[str, Any]:
    result: dict[str, Any] = {
        "benchmark": "rounds",
        "mb": args.mb,
        "sites": args.sites,
        "strategy": args.strategy,
        "distinct replies": args.distinct,
        "machine": machine(),
        "barnraise": barnraise(args, where),
    }
    if not args.skip_flower:
        result["flower"] = flower(args, where, result["barnraise"]["median seconds a round"])
    if not args.skip_floor:
        say("the machine's floor")
        lowest = floor.measure(where, args.mb, args.sites)
        result["floor, seconds a round"] = {k: round(v, 4) for k, v in lowest.items()}
    return result


def config_of(args: argparse.Namespace, rounds: int) -> dict[str, Any]:
    return {
        "nodes": args.sites,
        "rounds": rounds,
        "mb": args.mb,
        "distinct": args.distinct,
        "strategy": args.strategy,
    }


def barnraise(args: argparse.Namespace, where: Path) -> dict[str, Any]:
    """Medians over all rounds but each run's first, which warms up; the largest peaks."""
    rounds: list[float] = []
    batches: list[float] = []
    peaks: dict[str, float] = {}
    kept, models = 0, set()
    for number in range(args.repeats):
        say(f"Barnraise, run {number + 1} of {args.repeats}")
        directory = where / f"run-{number}"
        config = config_of(args, args.rounds)
        told = ours.run(APP, directory, args.sites, config, processes=not args.in_process)
        shutil.rmtree(directory)
        rounds += told["rounds"][1:]
        batches += told["batches"][1:]
        kept = told["bytes kept a round"]
        models.add(told["model"])
        for name, peak in told["peak MB"].items():
            peaks[name] = max(peak, peaks.get(name, 0.0))
    if len(models) != 1:
        raise RuntimeError(f"the same work ended in several models: {sorted(models)}")
    return {
        "median seconds a round": round(statistics.median(rounds), 4),
        "fastest and slowest": [round(min(rounds), 4), round(max(rounds), 4)],
        "median seconds until a batch is closed": round(statistics.median(batches), 4),
        "rounds": len(rounds),
        "bytes kept a round": kept,
        "peak MB": peaks,
        "model": models.pop(),
    }


def flower(args: argparse.Namespace, where: Path, own: float) -> dict[str, Any]:
    """The same app on Flower's own engine, or why not; and how many times as long it takes."""
    if args.strategy != "flower":
        return {"skipped": "Flower's engine was timed with Flower's strategy alone"}
    say("Flower's SuperLink and SuperNodes")
    place = Path(tempfile.mkdtemp(dir=where))
    try:
        told = superlink.run(
            APP, place, args.sites, config_of(args, args.flower_rounds), args.limit
        )
    except superlink.Missing as missing:
        return {"missing": str(missing)}
    return {**told, "times Barnraise": round(told["seconds a round"] / own, 1)}


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"processors": len(os.sched_getaffinity(0)), "GiB": round(memory, 1)}


def say(what: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
