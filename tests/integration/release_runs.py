"""A tiny charter's run, and its release, for the tests of releases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from barnraise.builtin import charter_plan
from barnraise.coordinator.release import source as sources
from barnraise.coordinator.release.make import Released, make
from barnraise.coordinator.release.publish import in_simulation
from barnraise.coordinator.release.source import Source
from barnraise.coordinator.simulate import execute
from barnraise.protocols.entries import Entry

CHARTER = """
name = "tiny"
licence = "Apache-2.0"
[task]
name = "classification"
features = 4
classes = 2
hidden = [4]
[training]
steps = 2
[rounds]
count = 2
"""
MEMBERS = ("basel", "geneva", "zurich")


def run(home: Path, terms: str = "") -> Path:
    """A simulation of the tiny charter; its directory."""
    generator = np.random.default_rng(7)
    for name in MEMBERS:
        (home / "data" / name).mkdir(parents=True, exist_ok=True)
        x = generator.normal(size=(40, 4)).astype(np.float32)
        np.savez(home / "data" / name / "rows.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    (home / "charter.toml").write_text(f"{CHARTER}\n[release]\n{terms}\n")
    execute(charter_plan(home / "charter.toml", home / "data", {}), home / "run")
    return home / "run"


def released(directory: Path, out: Path) -> Released:
    with sources.opened(directory, None) as source:
        return make(source, out, lambda opened: in_simulation(source, opened))


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def entries(source: Source) -> Iterator[Entry]:
    """The log's, of a run in which no body is too large for one."""
    return (Entry.decode(data) for _, data in source.log.entries())
