"""L6: no rule's memory grows with the members; and the whole size, in the slow suite."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict

from barnraise.protocols.tensors import encode, open_blob
from barnraise.strategies import exact, make
from barnraise.strategies.exact import Step
from barnraise.strategies.reduction import reduced
from barnraise.strategies.registry import RULES
from barnraise.strategies.replies import Contribution, form_of

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "reduce.py"
COMPOSED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, {}) for name in RULES if name != "scaffold"},
    "median, mixed": ("median", {"nnm": 1, "norm_bound": 1.0}),
    "krum, mixed, adam": ("krum", {"nnm": 1, "outer": "adam"}),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and 40 members, 4 MB each: three different blobs under many names."""
    folder = tmp_path_factory.mktemp("blobs")
    made = []
    for i in range(41):
        path = folder / f"{i:02}"
        if i < 3:
            rng = np.random.default_rng(i)
            model = {f"layer{k}": rng.standard_normal(1 << 17, np.float32) for k in range(8)}
            path.write_bytes(b"".join(encode(model)))
        else:
            path.hardlink_to(folder / f"{i % 3:02}")
        made.append(path)
    return made


@pytest.mark.parametrize("what", COMPOSED)
def test_l6_memory_does_not_grow_with_members(what: str, paths: list[Path]) -> None:
    name, options = COMPOSED[what]
    base, *members = [{n: s.open(p) for n, s in open_blob(p).items()} for p in paths]
    form = form_of(base)

    def peak(n: int) -> int:
        rule = make(name, options, 0, n)
        metrics = MetricRecord({"num-examples": 1, "steps": 1})
        given = [Contribution(f"{i:02}", 1, RecordDict(), metrics, members[i]) for i in range(n)]
        step = Step(rule.outer, base) if rule.outer else None
        exact._idle.clear()
        tracemalloc.start()
        try:
            assert not isinstance(reduced(rule.reduction, form, base, given, step, threads=2), str)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(7), peak(40)
    size = 4 << 20
    assert many - few < size
    assert many < 16 * size  # result, state and two threads' rooms; the members alone are 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", ["mean", "median", "trimmed mean", "krum", "geometric median", "mean + adam"]
)
def test_l6_32_updates_of_100_mb_take_less_than_400_mb(rule: str) -> None:
    options = ["--rules", rule, "--theirs", "1000", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, BENCHMARK, *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    assert json.loads(done.stdout)["rules"][rule]["barnraise"]["peak MB"] < 400
