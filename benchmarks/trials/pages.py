"""Tables and plots of docs/learning.md from the results of `learning.py`.

The page's words are written by hand; a table stands between `<!-- NAME -->` and `<!-- end -->` and is made
anew. The results themselves lie beside the page as learning.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

Results = Mapping[str, Any]
METHODS = {"scaffold": "SCAFFOLD", "fedavg": "FedAvg", "fedprox": "FedProx", "sgd": "SGD"}


def write(results: Results, docs: Path) -> None:
    """Make the tables and plots for the parts in `results`; the other parts stay as they are."""
    held = docs / "learning.json"
    known = json.loads(held.read_text()) if held.is_file() else {}
    known.update(results)
    held.write_text(json.dumps(known, indent=1) + "\n")
    page = docs / "learning.md"
    page.write_text(with_tables(page.read_text(), known))
    for name, result in results.items():
        plot(name, result, docs / f"learning-{name}.svg")


def with_tables(page: str, results: Results) -> str:
    """The page, each table made from the results."""
    for name, made in tables(results).items():
        block = f"<!-- {name} -->\n{made}\n<!-- end -->"
        page, count = re.subn(
            rf"<!-- {re.escape(name)} -->\n.*?<!-- end -->",
            lambda _, block=block: block,  # type: ignore[misc]
            page,
            flags=re.S,
        )
        if count != 1:
            raise ValueError(f"the page has {count} places for the table {name!r}")
    return page


def tables(results: Results) -> dict[str, str]:
    made = {}
    if "scaffold" in results:
        for similarity in results["scaffold"]["similarity"]:
            made[f"scaffold {similarity}"] = scaffold(results["scaffold"], similarity)
    for name, table in (("robust", robust), ("diloco", diloco), ("codecs", codecs)):
        if name in results:
            made[name] = table(results[name])
    return made


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float], digits: int) -> str:
    """The mean over seeds, and the half width of their range."""
    half = (max(values) - min(values)) / 2
    return f"{mean(values):.{digits}f} ± {half:.{digits}f}"


# --- tables --------------------------------------------------------------------------------------------


def scaffold(result: Results, similarity: str) -> str:
    found, most = result["similarity"][similarity], result["most"]
    epochs = sorted({int(e) for cells in found.values() for e in cells} - {0})

    def cell(method: str, count: int) -> str:
        held = found[method].get(str(0 if method == "sgd" else count))
        seeds = sorted(held["rounds"])
        said = [f"{r}" if r <= most else f"> {most}" for r in seeds]
        rate = f"lr {held['lr']:g}" + (f", μ {held['mu']:g}" if held["mu"] else "")
        return f"**{said[len(said) // 2]}** ({said[0]}–{said[-1]}; {rate})"

    body = [[METHODS[m], *(cell(m, e) for e in epochs)] for m in METHODS]
    return rows(["", *(f"{e} epoch{'s' * (e > 1)}" for e in epochs)], body)


def robust(result: Results) -> str:
    found = result["accuracy"]
    attacks = list(next(iter(found.values())))
    best = {a: max(mean(found[rule][a]) for rule in found) for a in attacks}
    body = []
    for rule, cells in found.items():
        said = [f"{100 * mean(cells[a]):.0f}" for a in attacks]
        said = [
            f"**{s}**" if mean(cells[a]) > best[a] - 0.01 else s
            for s, a in zip(said, attacks, strict=True)
        ]
        worst = min(mean(cells[a]) for a in attacks)
        body.append([rule, *said, f"{100 * worst:.0f}"])
    return rows(["% right", *attacks, "worst"], body)


def diloco(result: Results) -> str:
    body = []
    reference = result["rows"]["synchronous"]
    for name, row in result["rows"].items():
        gap = mean(row["loss"]) - mean(reference["loss"])
        less = (reference["up"] + reference["down"]) / (row["up"] + row["down"])
        times = [f"{row['seconds'][m]:,.0f}" for m in row["seconds"]]
        said = f"{gap:+.3f}" if row is not reference else "–"
        volume = f"{(row['up'] + row['down']) / 1e6:.1f}"
        body.append([name, spread(row["loss"], 3), said, volume, f"{less:.0f}×", *times])
    links = [f"s at {m} Mbit/s" for m in reference["seconds"]]
    return rows(["", "held-out loss", "gap", "MB a member", "less", *links], body)


def codecs(result: Results) -> str:
    whole = result["rows"]["whole model"]
    body = [
        [
            name if name == "whole model" else f"`{name}`",
            f"{row['bytes'] / 1e3:.1f}",
            f"{whole['bytes'] / row['bytes']:.1f}×",
            spread(row["loss"], 3),
            f"{mean(row['loss']) - mean(whole['loss']):+.3f}" if row is not whole else "–",
        ]
        for name, row in result["rows"].items()
    ]
    return rows(["", "kB an update", "less", "held-out loss", "difference"], body)


# --- plots ---------------------------------------------------------------------------------------------


def plot(name: str, result: Results, path: Path) -> None:
    """The part's plot as SVG, the same bytes for the same results."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": name, "font.size": 9, "axes.grid": True}):
        figure = PLOTS[name](pyplot, result)
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _plot_scaffold(pyplot: Any, result: Results) -> Any:
    found = result["similarity"]
    figure, axes = pyplot.subplots(1, len(found), figsize=(7, 2.8), sharey=True, squeeze=False)
    for axis, (similarity, cells) in zip(axes[0], found.items(), strict=True):
        epochs = [int(e) for e in cells["fedavg"]]
        for method, label in METHODS.items():
            found_by = [cells[method]["0" if method == "sgd" else str(e)] for e in epochs]
            line = [median(cell["rounds"]) for cell in found_by]
            axis.plot(epochs, line, marker="o", label=label)
        axis.set(title=f"{similarity} similarity", xlabel="local epochs", yscale="log")
    axes[0][0].set_ylabel("rounds to the target")
    axes[0][-1].legend()
    return figure


def _plot_robust(pyplot: Any, result: Results) -> Any:
    found = result["accuracy"]
    attacks = list(next(iter(found.values())))
    grid = [[100 * mean(cells[a]) for a in attacks] for cells in found.values()]
    figure, axis = pyplot.subplots(figsize=(7, 3.6))
    axis.grid(False)
    axis.imshow(grid, cmap="RdYlGn", vmin=0, vmax=100, aspect="auto")
    axis.set_xticks(range(len(attacks)), attacks, rotation=30, ha="right")
    axis.set_yticks(range(len(found)), list(found))
    for y, line in enumerate(grid):
        for x, value in enumerate(line):
            axis.text(x, y, f"{value:.0f}", ha="center", va="center")
    axis.set_title("% of held-out digits right")
    return figure


def _plot_diloco(pyplot: Any, result: Results) -> Any:
    figure, axis = pyplot.subplots(figsize=(7, 3))
    for name, row in result["rows"].items():
        volume = (row["up"] + row["down"]) / 1e6
        axis.plot([volume] * len(row["loss"]), row["loss"], "o", label=name)
    axis.set(xscale="log", xlabel="MB that each member sends and takes", ylabel="held-out loss")
    axis.legend(fontsize=7)
    return figure


def _plot_codecs(pyplot: Any, result: Results) -> Any:
    figure, axis = pyplot.subplots(figsize=(7, 3))
    for name, row in result["rows"].items():
        axis.plot([row["bytes"] / 1e3] * len(row["loss"]), row["loss"], "o", label=name)
    axis.set(xscale="log", xlabel="kB an update", ylabel="held-out loss")
    axis.legend(fontsize=7)
    return figure


PLOTS: Mapping[str, Callable[[Any, Results], Any]] = {
    "scaffold": _plot_scaffold,
    "robust": _plot_robust,
    "diloco": _plot_diloco,
    "codecs": _plot_codecs,
}
