"""`docs/data.md`, as it stands: stated, signed, opened, checked; at a site whose node does not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stated_kit import DOCUMENTS, site_at
from walkthrough_kit import File, Typed, Walk, steps

from barnraise.client.data import kept
from barnraise.client.node.sent import FILE, listed

PAGE = Path(__file__).resolve().parents[2] / "docs/data.md"


def test_the_page_is_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    walk = Walk(tmp_path, ["basel", "auditor"])
    home = walk.home("basel")
    site_at(home / "node", home / "data")
    for step in steps(PAGE.read_text()):
        if isinstance(step, File):
            (home / step.path).write_text(step.text)
            continue
        assert isinstance(step, Typed)
        walk.type(step)
        mailed(walk)
    (row,) = listed(home / "node" / FILE)
    standing = kept.current(home / "node")
    assert standing is not None
    assert (row.kind, row.what, row.digest) == (
        "opening",
        "records 0, 2",
        standing.statement.digest,
    )
    refused_if_changed(walk)


def mailed(walk: Walk) -> None:
    """What the auditor has by now: the release's statement, and the opening."""
    home, auditor = walk.home("basel"), walk.home("auditor")
    for path in (home / "node" / kept.FOLDER).glob("*/croissant.json"):
        shutil.copyfile(path, auditor / "basel.croissant.json")
    if (home / "opening.json").exists():
        shutil.copyfile(home / "opening.json", auditor / "opening.json")


def refused_if_changed(walk: Walk) -> None:
    path = walk.home("auditor") / "opening.json"
    said = json.loads(path.read_bytes())
    text = path.read_bytes().decode()
    record = said["records"][0]["record"]
    path.write_text(text.replace(record, said["records"][1]["record"]))
    words = "barnraise node data check opening.json --statement basel.croissant.json --json"
    code, out, _ = walk.once("auditor", words)
    assert (code, json.loads(out)["error"]) == (1, "S110")
    name = next(iter(DOCUMENTS))
    (walk.home("basel") / "data" / name).write_text("other words altogether")
    words = "barnraise node data open 0 --output other.json --dir node --json"
    code, out, _ = walk.once("basel", words)
    assert (code, json.loads(out)["error"]) == (1, "S109")
    assert not (walk.home("basel") / "other.json").exists()
