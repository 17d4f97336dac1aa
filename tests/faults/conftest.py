"""Lets the tests of this folder import its kits, the session's and others; one driver; the kill matrix."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "integration"))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "session"))
sys.path.insert(0, str(Path(__file__).parent))

import kills

HEAD = ("app", "resumed by", "killed", "points", "kills", "final model", "s", "outcome")


@pytest.fixture(scope="session")
def driven() -> Iterator[kills.Driver]:
    made = kills.Driver()
    yield made
    made.close()


@pytest.fixture
def matrix(record_property: Callable[[str, object], None]) -> Iterator[Callable[[kills.Row], None]]:
    """Takes rows for the matrix, which are read when the test has ended."""
    rows: list[kills.Row] = []
    record_property("kills", rows)
    yield rows.append


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Rows are put into the report as plain values, for they may come from another process."""
    report = yield
    report.user_properties = [
        (name, [asdict(row) for row in value] if name == "kills" else value)
        for name, value in report.user_properties
    ]
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The kill matrix: where what was killed, and in which model it ended."""
    lines = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if getattr(report, "when", "") == "call":
                for name, rows in report.user_properties:
                    if name == "kills":
                        lines += [_line(row, outcome) for row in rows]
    if not lines:
        return
    table = [HEAD, *sorted(lines)]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEAD))]
    terminalreporter.section("kill matrix")
    for line in table:
        terminalreporter.write_line(
            "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True))
        )
    points, happened = (sum(int(line[i]) for line in lines) for i in (3, 4))
    terminalreporter.write_line(f"{points} points, {happened} kills")


def _line(row: dict[str, Any], outcome: str) -> tuple[str, ...]:
    digest = row["digest"].removeprefix("sha256:")[:12]
    counts = (str(row["points"]), str(row["kills"]), digest, f"{row['seconds']:.1f}")
    ended = "the same model" if outcome == "passed" else "FAILED"
    return (row["app"], row["resumed"], row["who"], *counts, ended)
