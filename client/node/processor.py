"""What a worker's processes use of this machine: processor seconds, from /proc, and seconds of its GPUs.

A GPU counts as used while an order is being worked on, whether or not the code touches it: the kernel
does not tell, and a site that lends its machine lends the GPU with it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

EVERY = 1.0  # seconds between two looks at a worker: a look costs as much as a small order
_TICK = os.sysconf("SC_CLK_TCK")


class Meter:
    """Counts on from one reading to the next."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, gpus: int | None = None
    ) -> None:
        self._clock = clock
        self._gpus = visible_gpus(os.environ) if gpus is None else gpus
        self._worker: int | None = None
        self._used, self._at, self._at_work = 0.0, clock(), False
        self._looked = -math.inf

    def read(
        self, worker: int | None, at_work: bool, *, last: bool = False, used: float | None = None
    ) -> tuple[float, float]:
        """(processor seconds, GPU seconds) since the last reading. `worker` is a process, or None.

        What it used before its work begins, or since a look that is not `EVERY` seconds old, is read
        with what it uses next; before it ends, once more, with `last`. Of a worker that has ended,
        `used` is what it used in all.
        """
        now = self._clock()
        gpu = (now - self._at) * self._gpus if self._at_work else 0.0
        self._at, self._at_work = now, at_work
        if worker != self._worker:
            self._worker, self._used, self._looked = worker, 0.0, -math.inf
        if at_work or (now - self._looked < EVERY and not last):
            return 0.0, gpu
        self._looked = now
        if used is None:
            used = processor_seconds(worker) if worker is not None else 0.0
        processor, self._used = max(0.0, used - self._used), max(used, self._used)
        return processor, gpu


def processor_seconds(process: int) -> float:
    """What this process, its descendants, and those of them that have ended have used; 0 if it is gone."""
    seen, waiting, ticks = {process}, [process], 0
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
            for task in (folder / "task").iterdir():
                children = {int(c) for c in (task / "children").read_text().split()}
                waiting += children - seen
                seen |= children
        except (OSError, ValueError, IndexError):
            continue
    return ticks / _TICK


def visible_gpus(environment: Mapping[str, str]) -> int:
    """How many GPUs the worker sees."""
    devices = [p for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit()]
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return len(devices)
    return min(len(devices), len([n for n in named.split(",") if n.strip() not in ("", "-1")]))
