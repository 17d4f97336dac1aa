"""The model card: as the Hugging Face Hub's library reads it, and as a Markdown parser does."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import release_kit
import yaml
from markdown_it import MarkdownIt

from barnraise.coordinator.release.documents.card import card
from barnraise.coordinator.release.documents.card_body import INTO_A_MODEL
from barnraise.coordinator.release.documents.licences import hub, is_open, spdx
from barnraise.coordinator.release.documents.markup import markdown, plain, table
from barnraise.coordinator.release.facts import Facts

KEYS = {
    *("license", "license_name", "license_link", "language", "library_name", "tags", "datasets"),
    *("metrics", "pipeline_tag", "model-index"),
}
"""Of https://github.com/huggingface/hub-docs/blob/main/modelcard.md."""
LICENCES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 afl-3.0
artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0
cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0
gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl apple-ascl mpl-2.0 odc-by odbl osl-3.0
postgresql ofl-1.1 ncsa unlicense zlib pddl unknown other
"""
"""Of https://huggingface.co/docs/hub/repositories-licenses."""
each = pytest.mark.parametrize("facts", release_kit.ALL, ids=lambda made: made.__name__)


def parts(facts: Facts) -> tuple[dict[str, object], str]:
    text = card(facts)["README.md"].decode()
    found = re.fullmatch(r"---\n(.*?)\n---\n\n(.*)", text, re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1]), found[2]


@each
def test_the_hubs_own_library_reads_it_and_writes_it_again(
    facts: Callable[[], Facts], tmp_path: Path
) -> None:
    hub_library = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    path = tmp_path / "README.md"
    path.write_bytes(card(facts())["README.md"])
    read = hub_library.ModelCard.load(path)
    header, body = parts(facts())
    assert read.data.to_dict() == header and read.text.strip() == body.strip()
    for one in read.data.eval_results or ():
        assert isinstance(one.metric_value, int | float) and one.dataset_type


@each
def test_its_header_has_the_hubs_keys_and_values_only(facts: Callable[[], Facts]) -> None:
    header, _ = parts(facts())
    assert set(header) <= KEYS
    assert header["license"] in LICENCES.split()
    assert ("license_name" in header) == (header["license"] == "other")
    languages = header.get("language", [])
    assert isinstance(languages, list)
    assert all(re.fullmatch(r"[a-z]{2,3}", one) for one in languages)


@each
def test_what_members_wrote_is_neither_html_nor_markdown(facts: Callable[[], Facts]) -> None:
    _, body = parts(facts())
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    inline = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inline)}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open", "hr"}
    heads = [b.content for a, b in itertools.pairwise(tokens) if a.type == "heading_open"]
    assert all("A heading" not in one or "<script>" in one for one in heads[1:])
    assert len(heads) in (8, 9)
    rows = [n for n, token in enumerate(tokens) if token.type == "tr_open"]
    assert len(rows) > 10


def test_odd_names_are_shown_as_they_are() -> None:
    shown = MarkdownIt("commonmark").enable("table").render(parts(release_kit.odd())[1])
    text = re.sub(r"<[^>]+>", "", shown)
    for name in release_kit.ODD.values():
        escaped = plain(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert escaped.replace('"', "&quot;") in text


@pytest.mark.parametrize(
    "text", ["1. one", "- one", "+ one", "= x", "2024 was", "# h", "> q", "a\n\nb"]
)
def test_a_text_stays_one_paragraph(text: str) -> None:
    shown = MarkdownIt("commonmark").render(markdown(text))
    assert shown == f"<p>{plain(text).replace('>', '&gt;')}</p>\n"


def test_control_and_direction_characters_are_not_shown() -> None:
    assert plain("a\u202eb\x00c\u200bd\n\te") == "a b c d e"
    assert len(plain("x" * 5000)) == 2000


def test_rounds_that_failed_are_told_by_name_and_reason() -> None:
    _, body = parts(release_kit.private())
    assert "| 2 | 4 | 2 | 1 | 1 | 0 |" in body
    assert (
        "the reply of `basel` was refused (M106: the array layers.0.weight is not finite)" in body
    )
    assert "the reply of `geneva` came too late" in body
    assert "the reply of `zurich` did not come" in body
    assert "Round 3 was void: 1 accepted reply, and the charter's quorum is 3." in body


def test_of_many_rounds_the_plain_ones_in_the_middle_are_left_out() -> None:
    names = release_kit.NAMES
    told = tuple(
        release_kit.one_round(n, names, 3.0, void=n == 50, why="none came") for n in range(101)
    )
    _, body = parts(dataclasses.replace(release_kit.private(), rounds=told))
    shown = [int(n) for n in re.findall(r"^\| (\d+) \| 4 ", body, re.MULTILINE)]
    assert shown == [1, 2, 3, 4, 50, *range(81, 101)]
    assert "75 rounds like their neighbours are in `metrics.json` only." in body


def test_together_and_alone_stands_there_only_if_somebody_compared() -> None:
    assert "## Together and alone" not in parts(release_kit.private())[1]
    body = parts(release_kit.opened())[1]
    assert "Together the loss is **2.75**; the best that a member reached alone is 3.2" in body
    other = dataclasses.replace(release_kit.opened(), comparison={"alone": 1})
    assert "`comparison.json` holds the comparison" in parts(other)[1]


def test_a_measure_that_is_no_number_is_no_result() -> None:
    header, body = parts(release_kit.flower_app())
    assert header["metrics"] == ["f1"] and "| accuracy | nan |" in body
    assert header["license"] == "unknown" and "**none was stated**" in body


def test_data_on_the_hub_are_named_as_there() -> None:
    facts = release_kit.opened()
    data = facts.members[0].data
    assert data is not None
    document = {**data.document, "url": "https://huggingface.co/datasets/lab/letters/tree/main"}
    first = dataclasses.replace(facts.members[0], data=dataclasses.replace(data, document=document))
    there = dataclasses.replace(facts, members=(first, *facts.members[1:]))
    assert parts(there)[0]["datasets"] == ["lab/letters"]
    assert "datasets" not in parts(facts)[0]


def test_how_to_load_it_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from barnraise.client.tasks import load_task

    facts = release_kit.private()
    assert facts.charter is not None
    (tmp_path / "charter.toml").write_text(facts.charter_text)
    made = load_task(facts.charter.task).model()
    save_file(made.state_dict(), tmp_path / "model.safetensors")
    blocks = re.findall(r"```python\n(.*?)```", parts(facts)[1], re.DOTALL)
    assert len(blocks) == 2 and blocks[1] == INTO_A_MODEL
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        scope: dict[str, object] = {}
        exec(block, scope)
    model = scope["model"]
    assert isinstance(model, torch.nn.Module)
    held = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("ODbL-1.0", {"license": "odbl"}),
        (None, {"license": "unknown"}),
        (
            "MIT OR CC0-1.0",
            {
                "license": "other",
                "license_name": "mit-or-cc0-1.0",
                "license_link": "https://spdx.org/licenses/",
            },
        ),
    ],
)
def test_licences_as_the_hub_spells_them(licence: str | None, said: dict[str, str]) -> None:
    assert hub(licence) == said


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", True),
        ("MIT AND LicenseRef-x", False),
        ("MIT OR LicenseRef-x", True),
        ("LicenseRef-x OR (MIT AND CC0-1.0)", True),
        ("(MIT OR LicenseRef-x) AND LicenseRef-y", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("CC-BY-NC-4.0", False),
        ("https://example.org/terms", False),
        ("(" * 5000 + "MIT" + ")" * 5000, False),
        ("", False),
        (None, False),
    ],
)
def test_what_an_open_licence_is(licence: str | None, expected: bool) -> None:
    assert is_open(licence) is expected


def test_addresses_of_known_licences_are_read() -> None:
    assert spdx("https://creativecommons.org/licenses/by-sa/4.0/deed.de") == "CC-BY-SA-4.0"
    assert spdx("https://creativecommons.org/publicdomain/zero/1.0/") == "CC0-1.0"
    assert spdx("https://spdx.org/licenses/MIT.html") == "MIT"
    assert spdx("https://example.org/terms") is None


def test_a_table_is_a_table() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_a_simulation_does_not_claim_hardware_of_its_members() -> None:
    text = card(dataclasses.replace(release_kit.private(), federation="sim"))["README.md"].decode()
    assert "was a simulation" in text
    assert "own hardware" not in text
    assert "own hardware" in card(release_kit.private())["README.md"].decode()
