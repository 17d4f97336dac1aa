"""`report.html` of a release: strict HTML, nothing from elsewhere; what it shows is what the facts say."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import release_kit
from hypothesis import given, settings
from hypothesis import strategies as st
from report_facts import NAMES, compared, member, some_facts, told, with_trouble

from barnraise.client.tasks import load_task
from barnraise.coordinator import simulate
from barnraise.coordinator.release.documents.report import numbers, report, scale, story, style
from barnraise.coordinator.release.documents.report.learning import axes
from barnraise.coordinator.release.documents.report.story import Story
from barnraise.coordinator.release.documents.report.thin import off, thinned
from barnraise.coordinator.release.facts import Facts
from barnraise.protocols.charter import Charter, ReleaseSection
from barnraise.protocols.identity import SIMULATED

VOID = {"meta"}
LOADING = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
HOSTILE = "</style><script>alert(1)</script>\"'&\u202e<img src=x onerror=y>\x00"


@dataclass
class Node:
    name: str
    attributes: dict[str, str | None]
    children: list[Node] = field(default_factory=list)
    text: str = ""

    def walk(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            yield from child.walk()

    def words(self) -> str:
        return " ".join([self.text, *(child.words() for child in self.children)])

    def all(self, name: str, kind: str | None = None) -> list[Node]:
        return [
            one
            for one in self.walk()
            if one.name == name
            and (kind is None or kind in (one.attributes.get("class") or "").split())
        ]

    def by_id(self, name: str) -> Node:
        (found,) = [one for one in self.walk() if one.attributes.get("id") == name]
        return found


class Strict(HTMLParser):
    """A tree, or an AssertionError for what is not closed, closed twice, or doubled."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].text += data


def tree(facts: Facts) -> Node:
    page = report(facts)["report.html"].decode()
    assert page.startswith("<!doctype html>\n")
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert len(parser.open) == 1
    return parser.open[0]


def a_flower_app() -> Facts:
    """No charter, nothing signed, nothing measured, nothing known of members."""
    facts = some_facts(("a", "b"), 3)
    return replace(
        facts,
        charter=None,
        charter_text="",
        terms=ReleaseSection(),  # type: ignore[call-arg]
        agreement=None,
        signed=(),
        final={},
        sent={},
        licence=None,
        contributions="sealed",
        rounds=tuple(replace(one, before={}, after={}, members={}) for one in facts.rounds[1:]),
        members=tuple(member(n, data=None, organisation="", steps=0, examples=0) for n in "ab"),
    )


def hostile() -> Facts:
    facts = with_trouble(some_facts())
    evil = member("basel", organisation=HOSTILE)
    assert evil.data is not None
    evil = replace(
        evil, data=replace(evil.data, document={"description": HOSTILE, "license": [HOSTILE, 7]})
    )
    rounds = (*facts.rounds[:3], replace(facts.rounds[3], refused={"basel": HOSTILE}))
    terms = ReleaseSection(title=HOSTILE, description=HOSTILE, contact=HOSTILE)  # type: ignore[call-arg]
    alone = {HOSTILE: {"loss": 2, "own": 2, "history": [[0, 3.0], [1, 2.0]]}}
    comparison = {"together": {"loss": 1, "own": {HOSTILE: 1}}, "alone": alone}
    return replace(
        facts,
        members=(evil, *facts.members[1:]),
        rounds=rounds,
        terms=terms,
        comparison=comparison,
        charter_text=HOSTILE,
        clause=HOSTILE,
        licence=HOSTILE,
        versions={HOSTILE: HOSTILE},
        final={HOSTILE: 1.0},
    )


CASES = {
    "good": some_facts(),
    "trouble": with_trouble(some_facts()),
    "won": replace(some_facts(), comparison=compared(some_facts(), -0.1)),
    "lost": replace(some_facts(), comparison=compared(some_facts(), 0.1), federation="sim"),
    "strange": replace(some_facts(), comparison={"together": [], "alone": 3}),
    "app": a_flower_app(),
    "hostile": hostile(),
    "none": replace(some_facts(), rounds=(), members=(), sent={}, signed=()),
    "one": some_facts(("a",), 1),
    **{f"kit {make.__name__}": make() for make in release_kit.ALL},
}
every_case = pytest.mark.parametrize("case", CASES)


@cache
def case_tree(case: str) -> Node:
    return tree(CASES[case])


# --- the page as a page -----------------------------------------------------------------------------


@every_case
def test_it_is_strict_html_with_unique_ids_and_every_reference_resolves(case: str) -> None:
    page = case_tree(case)
    ids = [one.attributes["id"] for one in page.walk() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for one in page.walk():
        for key in ("aria-labelledby", "href"):
            for name in (one.attributes.get(key) or "").split():
                assert name.removeprefix("#") in ids


@every_case
def test_headings_are_in_order_and_landmarks_are_there(case: str) -> None:
    page = case_tree(case)
    levels = [int(one.name[1]) for one in page.walk() if re.fullmatch("h[1-6]", one.name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    assert page.all("html")[0].attributes["lang"] == "en"


@every_case
def test_nothing_is_loaded_and_nothing_runs(case: str) -> None:
    page = case_tree(case)
    names = {one.name for one in page.walk()}
    assert not names & LOADING
    for one in page.walk():
        assert not [
            key for key in one.attributes if key.startswith("on") or key in ("src", "style")
        ]
        assert (one.attributes.get("href") or "#").startswith("#")
    (sheet,) = page.all("style")
    assert not re.search(r"url\(|@import|@font-face|//", sheet.text)


@every_case
def test_tables_have_captions_and_drawings_have_names(case: str) -> None:
    page = case_tree(case)
    for one in page.all("table"):
        assert one.children[0].name == "caption"
        assert one.children[0].text
    for one in page.all("svg"):
        inside = {child.name for child in one.children}
        if one.attributes.get("role") == "img":
            assert "title" in inside
        elif "lines" not in (one.attributes.get("class") or ""):
            assert one.attributes["aria-hidden"] == "true"


def test_the_same_facts_give_the_same_bytes() -> None:
    def made() -> Facts:
        facts = with_trouble(some_facts())
        return replace(facts, comparison=compared(facts, 0.1))

    assert report(made()) == report(made())


def test_what_members_wrote_is_text_and_never_markup() -> None:
    page = report(hostile())["report.html"].decode()
    assert "<script" not in page and "<img" not in page
    assert "\u202e" not in page and "\x00" not in page
    shown = tree(hostile())
    assert shown.all("h1")[0].text.startswith("</style><script>alert(1)</script>")


# --- what it shows is what the facts say --------------------------------------------------------------


def test_every_member_has_a_tile_and_its_data_and_its_compute() -> None:
    page = tree(some_facts())
    for part in ("members", "data"):
        assert tuple(one.text for one in page.by_id(part).all("h3")) == NAMES
    rows = page.by_id("compute").all("tbody")[0].all("tr")
    assert tuple(row.all("th")[0].text for row in rows) == NAMES
    given = [cell.text for cell in rows[0].all("td")]
    assert given == ["400", "6,400", "819,200", "0.086", "8.62\xa0Wh"]


def test_refused_late_absent_and_void_are_told_with_their_reasons() -> None:
    page = tree(with_trouble(some_facts()))
    rows = page.by_id("rounds").all("tbody")[0].all("tr")
    said = {tuple(cell.words().strip() for cell in row.children) for row in rows}
    late = "The reply came after its batch had closed, and did not count."
    assert ("void", "all", "1 of 4 replies counted, and the quorum is 3", "5") in said
    assert (
        "refused",
        "basel",
        "M106: the array layers.0.weight holds NaN or infinity",
        "3",
    ) in said
    assert ("late", "geneva", late, "3") in said
    assert ("absent", "geneva", "No reply came in time.", "3, 5") in said
    assert "Round 5 was void" in page.all("header")[0].words()
    marks = [one.words().strip() for one in page.by_id("loss").all("line", "void")]
    assert marks == ["", "round 5: void"]  # the legend's, and the plot's


@pytest.mark.parametrize(
    ("better", "said"), [(-0.1, "Together won."), (0.1, "Together did not win.")]
)
def test_it_says_plainly_whether_together_won(better: float, said: str) -> None:
    facts = some_facts()
    page = tree(replace(facts, comparison=compared(facts, better)))
    assert [one.text for one in page.by_id("together").all("strong")] == [said]


def test_a_simulation_is_called_one() -> None:
    assert SIMULATED == simulate.FEDERATION
    assert "Simulated." in tree(replace(some_facts(), federation="sim")).all("header")[0].words()
    assert "Simulated." not in tree(some_facts()).all("header")[0].words()


@pytest.mark.parametrize("mode", ["open", "auditors", "sealed"])
def test_an_audit_is_offered_where_there_is_something_to_audit(mode: str) -> None:
    commands = tree(replace(some_facts(), contributions=mode)).by_id("checking").all("code")
    audit = ["barnraise audit stdlib-release"] if mode != "sealed" else []
    assert [one.text for one in commands] == ["barnraise verify stdlib-release", *audit]


def test_a_text_model_that_does_not_say_looks_back_as_far_as_its_task_does() -> None:
    charter = Charter.parse(
        'name="a"\n[task]\nname="causal-lm"\n[training]\nsteps=1\n[rounds]\ncount=1'
    )
    assert getattr(load_task(charter.task), "context") == story.CONTEXT  # noqa: B009


# --- plots ------------------------------------------------------------------------------------------


def path_points(path: Node) -> list[tuple[float, float]]:
    found = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path.attributes["d"] or "")
    return [(float(x), float(y)) for x, y in found]


@pytest.mark.parametrize("facts", [some_facts(), with_trouble(some_facts(rounds=17))])
def test_the_plotted_points_are_the_measured_ones(facts: Facts) -> None:
    told_by = Story(facts)
    x, y, _ = axes(told_by)
    (line,) = tree(facts).by_id("loss").all("path", "together")
    read = [
        (x.low + px / 1000 * (x.high - x.low), y.low + (1 - py / 1000) * (y.high - y.low))
        for px, py in path_points(line)
    ]
    expected = [(one.number, one.after["loss"]) for one in facts.rounds if one.members]
    assert len(read) == len(expected)
    for (at, value), (number, loss) in zip(read, expected, strict=True):
        assert at == pytest.approx(number, abs=0.001 * (x.high - x.low))
        assert value == pytest.approx(loss, abs=0.001 * (y.high - y.low))


def test_the_bars_are_the_bytes() -> None:
    facts = some_facts()
    plot = tree(facts).by_id("bytes")
    heights = {
        kind: [
            float((one.attributes["height"] or "").rstrip("%")) for one in plot.all("rect", kind)
        ]
        for kind in ("received", "sent")
    }
    swatch = 10.0
    received, sent = (heights[kind][1:] for kind in ("received", "sent"))
    assert heights["received"][0] == heights["sent"][0] == swatch
    unit = sent[1] / facts.sent[1]
    assert received == pytest.approx([one.received * unit for one in facts.rounds], abs=0.002)
    assert sent == pytest.approx([facts.sent[one.number] * unit for one in facts.rounds], abs=0.002)


def test_ticks_are_where_they_say() -> None:
    page = tree(some_facts()).by_id("loss")
    _, y, _ = axes(Story(some_facts()))
    labels = page.all("text", "y")
    assert len(labels) >= 3
    for one in labels:
        part = float((one.attributes["y"] or "").rstrip("%")) / 100
        assert y.low + (1 - part) * (y.high - y.low) == pytest.approx(float(one.text), abs=1e-4)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300), st.integers(2, 40))
@settings(deadline=None, max_examples=60)
def test_thinned_lines_keep_their_ends_and_say_how_far_off_they_are(
    values: list[float], most: int
) -> None:
    points = list(enumerate(values))
    drawn = thinned(points, most)
    assert drawn[0] == points[0] and drawn[-1] == points[-1]
    assert set(drawn) <= set(points) and len(drawn) <= max(most, 2)
    worst = off(points, drawn)
    for (a, low), (b, high) in pairwise(drawn):
        for at in range(a, b + 1):
            on_line = low + (high - low) * (at - a) / (b - a)
            assert abs(values[at] - on_line) <= worst + 1e-6


@given(st.floats(-1e5, 1e5), st.floats(0, 1e5))
@settings(deadline=None, max_examples=60)
def test_an_axis_holds_its_values_and_few_ticks(low: float, span: float) -> None:
    axis = scale.of_values(low, low + span, "")
    assert 0 <= axis.part(low) <= axis.part(low + span) <= 1
    assert all(axis.low <= value <= axis.high for value, _ in axis.ticks)
    assert len(axis.ticks) <= 8


@given(st.floats(0, 1e15))
@settings(deadline=None, max_examples=60)
def test_an_axis_of_amounts_starts_at_zero_and_reaches_them(most: float) -> None:
    axis = scale.of_amounts(most, scale.BYTES)
    assert axis.low == 0 and axis.high >= most * (1 - 1e-9)
    assert axis.ticks[0] == (0, axis.ticks[0][1]) and 2 <= len(axis.ticks) <= 7


# --- size, colour, words ------------------------------------------------------------------------------


def test_a_thousand_rounds_of_32_members_stay_one_moderate_page() -> None:
    names = [f"site-{n:02}" for n in range(31)] + ["z" * 63]
    facts = with_trouble(some_facts(names, 1000))
    facts = replace(facts, comparison=compared(facts, -0.1))
    began = time.process_time()
    page = report(facts)["report.html"]
    assert time.process_time() - began < 3
    assert len(page) < 700_000
    assert len(report(with_trouble(some_facts()))["report.html"]) < 70_000
    assert all(name.encode() in page for name in names)


@pytest.mark.parametrize("palette", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_text_and_drawings_stand_out_from_their_ground(palette: dict[str, str]) -> None:
    for ground in style.GROUNDS:
        for name in style.TEXT:
            assert contrast(palette[name], palette[ground]) >= 4.5, (name, ground)
    for name in style.DRAWN:
        for ground in ("paper", "card"):
            assert contrast(palette[name], palette[ground]) >= 3, (name, ground)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's ratio."""
    a, b = sorted((luminance(one), luminance(other)))
    return (b + 0.05) / (a + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_and_class_of_the_page_is_in_the_sheet() -> None:
    sheet = style.sheet()
    assert set(re.findall(r"var\(--(\w+)\)", sheet)) == set(style.LIGHT) == set(style.DARK)
    used = {
        kind
        for case in CASES
        for one in case_tree(case).walk()
        for kind in (one.attributes.get("class") or "").split()
    }
    assert {kind for kind in used if not re.search(rf"\.{kind}\b", sheet)} == set()


def test_numbers_read_as_people_write_them() -> None:
    assert numbers.ranges([9, 5, 6, 7, 3, 3]) == "3, 5–7, 9"
    assert numbers.ranges(range(0, 100, 2), most=2) == "0, 2 and 48 more"
    assert numbers.large(1_234_567) == "1.23 million" and numbers.large(83_456) == "83,456"
    evening, after = "2026-11-24T23:59:00Z", "2026-11-25T00:01:00+01:00"
    assert numbers.span(evening, after) == "on 24\xa0November 2026"
    assert numbers.day("not a time") == "not a time"
    assert [numbers.size(n) for n in (0, 999, 17_800_000)] == ["0\xa0B", "999\xa0B", "17.8\xa0MB"]
    assert numbers.moved(-0.0241) == "−0.024"


def test_a_loss_that_is_no_number_leaves_a_gap_and_no_error() -> None:
    facts = some_facts()
    rounds = list(facts.rounds)
    rounds[4] = told(4, NAMES, after={"loss": None}, members={NAMES[0]: {"loss": "nan"}})
    page = tree(replace(facts, rounds=tuple(rounds)))
    (line,) = page.by_id("loss").all("path", "together")
    assert len(path_points(line)) == len(facts.rounds) - 1
