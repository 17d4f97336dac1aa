"""docs/strategies.md holds what the registry holds, and its own reducer runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from strategy_kit import INITIAL, PlainGrid, bytes_of, numpy_of, play, record_of, reply

from barnraise.protocols.charter import Charter
from barnraise.strategies import ExactStrategy, make
from barnraise.strategies.registry import BEFORE, COMMON, OUTER, RULES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "strategies.md").read_text(encoding="utf-8")
NODES = (3, 1, 4, 9, 5)


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table under this heading by the name in their first cell."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    found = {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows}
    found.pop("outer", None)  # the head of its table is code too
    return found


def needed(cell: str, f: int) -> int:
    """What "2f + 3" or "2·nnm + 1" comes to."""
    factor, constant = re.fullmatch(r"(?:(\d)·?(?:f|nnm) \+ )?(\d)", cell).groups()  # type: ignore[union-attr]
    return int(factor or 0) * f + int(constant)


def test_the_tables_have_a_row_for_each_rule_pre_step_and_optimizer() -> None:
    assert set(table("Reducers")) == set(RULES)
    assert list(table("Pre-steps")) == list(BEFORE)
    assert list(table("Outer optimizers")) == list(OUTER)


@pytest.mark.parametrize("f", [1, 2, 5])
@pytest.mark.parametrize("name", RULES)
def test_what_the_page_says_a_rule_needs_is_what_it_needs(name: str, f: int) -> None:
    options = {"f": f} if "f" in RULES[name].own else {}
    assert make(name, options, 0).minimum == needed(table("Reducers")[name][2], f)


@pytest.mark.parametrize(
    ("step", "value", "f"), [("norm_bound", 2.0, 0), ("norm_bound_median", 2.0, 0), ("nnm", 3, 3)]
)
def test_what_the_page_says_a_pre_step_needs_is_what_it_needs(
    step: str, value: float, f: int
) -> None:
    assert make("fedavg", {step: value}, 0).minimum == needed(table("Pre-steps")[step][2], f)


def test_papers_and_formulas_stand_in_the_docstrings_too() -> None:
    for name, rule in RULES.items():
        paper = re.search(r"arXiv [\d.]+|Blanchard", table("Reducers")[name][1])
        assert paper
        said = rule.make.__doc__ or ""
        assert paper[0] in said, name
        assert "<-" in said, name


def test_every_option_is_on_one_of_the_pages() -> None:
    pages = PAGE + (DOCS / "charter.md").read_text(encoding="utf-8")
    for rule in RULES.values():
        for key in (*rule.options, *COMMON):
            assert f"`{key}`" in pages, key


def test_defaults_of_the_optimizers_are_as_the_page_says() -> None:
    for name, rule in OUTER.items():
        said = table("Outer optimizers")["adam" if name == "yogi" else name][1]
        made = rule.make(**rule.defaults)
        for key in rule.options:
            (number,) = re.findall(rf"`{key}` ([\d.]+)", said)
            assert float(number) == getattr(made, key)


def test_the_charter_and_the_app_of_the_page_are_the_same_rule() -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    charter = Charter.parse(
        'name = "x"\n[task]\nname = "causal-lm"\n[training]\nsteps = 1\n[rounds]\ncount = 1\n'
        + toml
    )
    by_charter = make(charter.strategy.name, charter.strategy.options, 0)
    by_app = code(0)["strategy"]
    assert by_charter.settings()[:3] == by_app.settings()[:3]


def code(number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.S)[number], found)
    return found


def test_a_reducer_of_ones_own_in_30_lines() -> None:
    source = re.findall(r"```python\n(.*?)```", PAGE, re.S)[1]
    assert len(source.splitlines()) <= 30

    def member(order: Message) -> Message:
        """Four add 1, more or less; the fifth goes the other way, ten times as far."""
        who = order.metadata.dst_node_id
        step = -10.0 if who == 9 else 1.0 + who / 100
        model = numpy_of(order.content.array_records["arrays"])
        moved = {n: np.asarray(a + step, a.dtype) for n, a in model.items()}
        return reply(order, moved)

    strategy = code(1)["strategy"]
    assert isinstance(strategy, ExactStrategy)
    model = play(strategy, 1, grid=PlainGrid(NODES, member))
    assert strategy.decision() == {"selected": ["1", "3", "4", "5"]}
    np.testing.assert_allclose(numpy_of(model)["b"], INITIAL["b"] + 1.0325)
    turned = PlainGrid(NODES, member, order=lambda replies: replies[::-1])
    assert bytes_of(play(code(1)["strategy"], 1, grid=turned)) == bytes_of(model)
    few = play(
        code(1)["strategy"], 1, grid=PlainGrid([1, 3, 4], lambda o: reply(o, {"x": np.ones(1)}))
    )
    assert bytes_of(few) == bytes_of(record_of(INITIAL))
