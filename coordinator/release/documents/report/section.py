"""What every section is made of, and the tables in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from barnraise.coordinator.release.documents.report.markup import Child, Element, tag


@dataclass(frozen=True)
class Section:
    """A heading (h2) with notes beside it, and what it shows. `name` is its anchor."""

    name: str
    heading: str
    notes: Sequence[Child]
    body: Sequence[Child]

    def drawn(self) -> Element:
        return tag(
            "section",
            tag(
                "div", tag("h2", self.heading, id=f"{self.name}-heading"), self.notes, class_="note"
            ),
            tag("div", self.body, class_="shown"),
            id=self.name,
            class_="part",
            aria_labelledby=f"{self.name}-heading",
        )


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    numeric: Collection[int] = (),
    hidden: Collection[int] = (),
    wide: Collection[int] = (),
    total: Sequence[Child] | None = None,
) -> Element:
    """`numeric` columns stand to the right, `hidden` ones are left out on narrow screens, `wide` ones hold
    sentences. The first cell of a row is its heading."""

    def kind(column: int) -> str | None:
        kinds = (("number", numeric), ("narrow-off", hidden), ("wide", wide))
        names = [name for name, columns in kinds if column in columns]
        return " ".join(names) or None

    def row(cells: Sequence[Child]) -> Element:
        first = tag("th", cells[0], scope="row", class_=kind(0))
        return tag("tr", first, [tag("td", c, class_=kind(n)) for n, c in enumerate(cells) if n])

    head = [
        tag("th", h, scope="col", class_=kind(n)) if h else tag("td", class_=kind(n))
        for n, h in enumerate(heads)
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", head)),
            tag("tbody", [row(cells) for cells in rows]),
            tag("tfoot", row(total)) if total else None,
        ),
        class_="table",
        tabindex="0",  # what scrolls sideways must be reachable by keyboard
        role="group",
        aria_label=caption,
    )


def pairs(*entries: tuple[str, Child] | None) -> Element:
    """Terms and what they are; None leaves one out."""
    return tag("dl", [[tag("dt", e[0]), tag("dd", e[1])] for e in entries if e], class_="pairs")


def folded(summary: str, *inside: Child) -> Element:
    """Closed until somebody opens it; works without JavaScript."""
    return tag("details", tag("summary", summary), inside)
