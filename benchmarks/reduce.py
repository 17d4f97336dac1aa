"""What a rule costs: `python benchmarks/reduce.py [--members 32] [--elements 25000000] [--rules mean,krum]`.

Every rule over the same updates on disk, each in a process of its own, beside Flower's own strategies and
beside the obvious NumPy version (load all, stack, one call). Prints exactly one JSON object: seconds (the
median, the least, and of all processors together, which a busy machine distorts least), GB of updates a
second, peak resident memory (MB) and what of it came on top of the imports. The floors are
measured in the same run: reading the updates, BLAS alone, and the shortest streaming Gram pass.
Flower's strategies and NumPy hold every update at once and some take minutes: they get the first
`--theirs` elements of each array, and their seconds are scaled up; `theirs elements` says how many that was.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARRAYS = 16
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("fedavg", {}),
    "median": ("median", {}),
    "trimmed mean": ("trimmed-mean", {"f": 3}),
    "krum": ("krum", {"f": 3}),
    "multi-krum": ("multi-krum", {"f": 3}),
    "geometric median": ("geometric-median", {}),
    "centred clipping": ("centred-clipping", {}),
    "norm bound + mean": ("fedavg", {"norm_bound_median": 1.0}),
    "mean + adam": ("fedavg", {"outer": "adam"}),
    "nnm + krum": ("krum", {"f": 3, "nnm": 3}),
    "nnm + median": ("median", {"nnm": 3}),
}
SLOW = ("nnm + median",)
FLOWER = ("mean", "median", "trimmed mean", "krum", "multi-krum")
NUMPY = ("mean", "median", "trimmed mean", "krum")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--elements", type=int, default=25_000_000, help="float32, in 16 arrays")
    parser.add_argument("--theirs", type=int, default=2_000_000, help="elements for the others")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rules", default="all", help="comma-separated, or all, or quick")
    parser.add_argument("--dir", type=Path, help="where the updates go; default: a temporary one")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    if args.one:
        kind, _, name = args.one.partition(":")
        print(json.dumps(KINDS[kind](args, name)))
        return
    with tempfile.TemporaryDirectory(prefix="barnraise-benchmark-", dir=args.dir) as where:
        print(json.dumps(measure(args, Path(where))))


def measure(args: argparse.Namespace, where: Path) -> dict[str, Any]:
    chosen = rules_of(args.rules)
    theirs = min(args.theirs, args.elements)
    for folder, elements in (("ours", args.elements), ("theirs", theirs)):
        (where / folder).mkdir()
        write_updates(where / folder, args.members, elements)

    def run(kind: str, name: str, folder: str) -> dict[str, Any]:
        return alone(args, where / folder, f"{kind}:{name}")

    floors = {kind: run("floor", kind, "ours") for kind in ("read", "matmul", "gram")}
    rules: dict[str, Any] = {}
    scale = args.elements / theirs
    for name in chosen:
        found = rules[name] = {"barnraise": run("ours", name, "ours")}
        for kind, known in (("flower", FLOWER), ("numpy", NUMPY)):
            if name in known:
                found[kind] = scaled(run(kind, name, "theirs"), scale)
                found[f"times faster than {kind}"] = round(
                    found[kind]["seconds"] / found["barnraise"]["seconds"], 2
                )
        gram = floors["gram"]["seconds"]
        found["times the gram pass"] = round(found["barnraise"]["seconds"] / gram, 2)
    return {
        "benchmark": "reduce",
        "members": args.members,
        "elements": args.elements,
        "theirs elements": theirs,
        "repeats": args.repeats,
        "GB of updates": round(args.members * args.elements * 4 / 1e9, 3),
        "threads": len(os.sched_getaffinity(0)),
        "floors": floors,
        "rules": rules,
    }


def rules_of(chosen: str) -> list[str]:
    if chosen == "all":
        return list(OURS)
    if chosen == "quick":
        return [name for name in OURS if name not in SLOW]
    names = chosen.split(",")
    if unknown := sorted(set(names) - set(OURS)):
        raise SystemExit(f"no such rule: {unknown}; there are {list(OURS)}")
    return names


def alone(args: argparse.Namespace, where: Path, what: str) -> dict[str, Any]:
    """One measurement in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--one", what, "--dir", str(where)]
    command += ["--members", str(args.members), "--repeats", str(args.repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def scaled(found: dict[str, Any], by: float) -> dict[str, Any]:
    """Time and memory above the imports as they would be for the whole size."""
    above = found["MB above imports"]
    times = ("seconds", "least seconds", "processor seconds")
    grown = {key: round(found[key] * by, 3) for key in times}
    grown["MB above imports"] = round(above * by, 1)
    peak = round(found["peak MB"] + above * (by - 1), 1)
    return {**found, **grown, "peak MB": peak, "scaled by": round(by, 2)}


def timed(args: argparse.Namespace, work: Callable[[], object]) -> dict[str, Any]:
    """The median of the seconds that `work` takes, and the peak of resident memory."""
    before = peak()
    seconds, processor = [], []
    for _ in range(args.repeats):
        started, spent = time.perf_counter(), time.process_time()
        work()
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - spent)
    middle = statistics.median(seconds)
    size = sum(path.stat().st_size for path in blobs(args)[1:])
    return {
        "seconds": round(middle, 4),
        "least seconds": round(min(seconds), 4),
        "processor seconds": round(statistics.median(processor), 4),
        "GB/s": round(size / middle / 1e9, 3),
        "peak MB": round(peak(), 1),
        "MB above imports": round(peak() - before, 1),
    }


def peak() -> float:
    """The high-water mark of resident memory, in MB. Not `ru_maxrss`: that begins at the parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# --- updates ----------------------------------------------------------------------------------------


def write_updates(folder: Path, members: int, elements: int) -> None:
    """A base and `members` updates of it as blobs: normal deltas, three members far away."""
    from barnraise.protocols.tensors import encode

    rng = np.random.default_rng(0)
    base = rng.standard_normal(elements, dtype=np.float32)
    for number in range(members + 1):
        model = base
        if number:
            scale = np.float32(5.0 if number <= 3 else 0.1)
            model = base + scale * rng.standard_normal(elements, dtype=np.float32)
        arrays = {f"layer{i:02}": part for i, part in enumerate(np.array_split(model, ARRAYS))}
        with (folder / f"{number:03}").open("wb") as file:
            for piece in encode(arrays):
                file.write(piece)


def blobs(args: argparse.Namespace) -> list[Path]:
    """The base's path, then the members'."""
    return sorted(args.dir.iterdir())


def loaded(path: Path) -> list[NDArray[np.float32]]:
    from barnraise.protocols.tensors import open_blob

    return [spec.open(path).load() for spec in open_blob(path).values()]


# --- what is measured ---------------------------------------------------------------------------------


def ours(args: argparse.Namespace, name: str) -> dict[str, Any]:
    from flwr.app import MetricRecord, RecordDict

    from barnraise.protocols.flower import array_of
    from barnraise.protocols.tensors import open_blob
    from barnraise.strategies import exact, make
    from barnraise.strategies.reduction import reduced
    from barnraise.strategies.replies import Contribution, form_of

    base, *members = [{n: s.open(p) for n, s in open_blob(p).items()} for p in blobs(args)]
    rule, options = OURS[name]
    strategy = make(rule, options, 0, len(members))
    metrics = MetricRecord({"num-examples": 1, "steps": 1})
    given = [Contribution(f"{i:03}", 1, RecordDict(), metrics, m) for i, m in enumerate(members)]
    step = exact.Step(strategy.outer, base) if strategy.outer else None
    array_of(np.zeros(1))
    return timed(args, lambda: reduced(strategy.reduction, form_of(base), base, given, step))


def flower(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Flower's own strategy over replies decoded from the same blobs, decoding included."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp import strategy as theirs

    from barnraise.protocols.flower import become_server

    become_server(1)
    made = {
        "mean": theirs.FedAvg,
        "median": theirs.FedMedian,
        "trimmed mean": lambda: theirs.FedTrimmedAvg(beta=3 / args.members),
        "krum": lambda: theirs.Krum(num_malicious_nodes=3),
        "multi-krum": lambda: theirs.MultiKrum(
            num_malicious_nodes=3, num_nodes_to_select=max(1, args.members - 5)
        ),
    }[name]

    def replies() -> list[Message]:
        found = []
        for number, path in enumerate(blobs(args)[1:]):
            order = Message(RecordDict(), number + 1, "train")
            content = RecordDict({"arrays": ArrayRecord(loaded(path))})
            content["metrics"] = MetricRecord({"num-examples": 1})
            found.append(Message(content, reply_to=order))
        return found

    return timed(args, lambda: made().aggregate_train(1, replies()))


def numpy(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """What one writes first: the members as the rows of one matrix."""

    def krum(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        far = np.array([[np.linalg.norm(a - b) ** 2 for b in matrix] for a in matrix])
        scores = np.sort(far, axis=1)[:, 1 : len(matrix) - 4].sum(axis=1)
        return matrix[int(np.argmin(scores))]

    reduce: Callable[[NDArray[np.float32]], object] = {
        "mean": lambda matrix: matrix.mean(axis=0),
        "median": lambda matrix: np.median(matrix, axis=0),
        "trimmed mean": lambda matrix: np.sort(matrix, axis=0)[3:-3].mean(axis=0),
        "krum": krum,
    }[name]

    def stacked() -> NDArray[np.float32]:
        return np.stack([np.concatenate(loaded(path)) for path in blobs(args)[1:]])

    return timed(args, lambda: reduce(stacked()))


def floor(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """`read`: the updates from disk. `matmul`: BLAS alone, on one block again and again. `gram`: the
    shortest streaming Gram pass: read, subtract the base, multiply."""
    files = blobs(args)
    size = (files[0].stat().st_size - offset(files[0])) // 4
    block, members = 1 << 15, len(files) - 1
    narrow, wide = np.zeros((members + 1, block), np.float32), np.zeros((members, block))

    def each(fill: bool, subtract: bool, multiply: bool) -> None:
        total = np.zeros((members, members))
        held = [path.open("rb", buffering=0) for path in files]
        for file, path in zip(held, files, strict=True):
            file.seek(offset(path))
        for _ in range(0, size, block):
            for file, row in zip(held, narrow, strict=True):
                if fill:
                    file.readinto(row.data.cast("B"))
            if subtract:
                np.subtract(narrow[1:], narrow[0], out=wide, dtype=np.float64)
            if multiply:
                np.add(total, np.dot(wide, wide.T), out=total)
        for file in held:
            file.close()

    parts = {
        "read": (True, False, False),
        "matmul": (False, False, True),
        "gram": (True, True, True),
    }
    return timed(args, lambda: each(*parts[name]))


def offset(path: Path) -> int:
    """Where the first array of the blob lies."""
    from barnraise.protocols.tensors import open_blob

    return min(spec.start for spec in open_blob(path).values())


KINDS = {"ours": ours, "flower": flower, "numpy": numpy, "floor": floor}


if __name__ == "__main__":
    main()
