"""`barnraise release` of simulations: what it holds, that it is the same again, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from release_runs import entries, files, released, run
from safetensors.numpy import load_file

from barnraise.coordinator.plans import app_plan
from barnraise.coordinator.release import source as sources
from barnraise.coordinator.release.make import make
from barnraise.coordinator.release.publish import in_simulation
from barnraise.coordinator.simulate import execute
from barnraise.protocols import release
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.release import Manifest


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield run(tmp_path_factory.mktemp("open"), 'contributions = "open"')


@pytest.fixture(scope="module")
def out(ran: Path) -> Path:
    return released(ran, ran.parent / "out").root


def test_the_manifest_covers_all_but_itself_the_log_and_the_signature(out: Path) -> None:
    manifest = Manifest.decode((out / release.MANIFEST).read_bytes())
    apart = {path for path in files(out) if not release.is_covered(path)}
    assert set(manifest.files) == set(files(out)) - apart
    assert {release.MANIFEST, release.CHECKPOINT} <= apart
    assert all(p in (release.MANIFEST, release.SIGNATURE) or p.startswith("log/") for p in apart)


def test_the_model_is_plain_safetensors(out: Path, ran: Path) -> None:
    held = load_file(out / release.MODEL)
    assert sum(array.size for array in held.values()) > 0
    assert (out / release.MODEL).read_bytes() == (ran / "model.safetensors").read_bytes()


def test_the_same_run_gives_the_same_bytes(out: Path, ran: Path) -> None:
    again = released(ran, ran.parent / "again").root
    assert files(again) == files(out)


def test_it_is_published_once(out: Path, ran: Path) -> None:
    released(ran, ran.parent / "third")
    with sources.opened(ran, None) as source:
        found = [entry for entry in entries(source) if entry.type == "release.published"]
    assert len(found) == 1
    assert found[0].body["manifest"] == Manifest.decode((out / "manifest.json").read_bytes()).digest


def test_open_contributions_are_all_that_the_run_names(out: Path, ran: Path) -> None:
    held = {
        release.digest_at(path.removeprefix(release.CONTRIBUTIONS))
        for path in files(out)
        if path.startswith(release.CONTRIBUTIONS)
    }
    with sources.opened(ran, None) as source:
        for entry in entries(source):
            assert named(entry) <= held, entry.type


def named(entry: Entry) -> set[str]:
    body = entry.body
    match entry.type:
        case "batch.sent":
            return {group["content"] for group in body["orders"]}
        case "batch.closed":
            return set(body["accepted"].values())
        case "round.sealed":
            return {body["content"], body["model"]}
    return set()


def test_nothing_names_where_it_was_made(out: Path, ran: Path) -> None:
    for path, data in files(out).items():
        assert os.fsencode(ran.parent) not in data, path


def test_without_a_word_of_the_charter_contributions_stay_sealed(tmp_path: Path) -> None:
    made = released(run(tmp_path), tmp_path / "out")
    assert made.manifest.contributions == release.SEALED
    assert not (made.root / "contributions").exists()


def test_auditors_alone_can_read_what_is_for_them(tmp_path: Path) -> None:
    key, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    terms = f'contributions = "auditors"\nauditors = ["{key.to_public()}"]'
    directory = run(tmp_path, terms)
    made = released(directory, tmp_path / "out")
    path = next(p for p in files(made.root) if p.startswith(release.CONTRIBUTIONS))
    assert path.endswith(release.ENCRYPTED)
    data = (made.root / path).read_bytes()
    digest = release.digest_at(path.removeprefix(release.CONTRIBUTIONS).removesuffix(".age"))
    from barnraise.protocols.canonical import digest as digest_of

    assert digest_of(pyrage.decrypt(data, [key])) == digest
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(data, [other])
    assert files(released(directory, tmp_path / "again").root) == files(made.root)


# --- what is refused --------------------------------------------------------------------------------


def code_of(directory: Path, out: Path, name: str | None = None) -> str:
    with pytest.raises(BarnraiseError) as caught, sources.opened(directory, name) as source:
        make(source, out, lambda opened: in_simulation(source, opened))
    return caught.value.code


def test_a_place_that_is_taken_is_left_alone(out: Path, ran: Path) -> None:
    before = files(out)
    assert code_of(ran, out) == "D101"
    assert files(out) == before


def test_a_run_of_another_name_is_refused(ran: Path, tmp_path: Path) -> None:
    assert code_of(ran, tmp_path / "out", "other") == "F113"
    assert not (tmp_path / "out").exists()


def test_a_missing_contribution_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    directory = run(tmp_path, 'contributions = "open"')
    with sources.opened(directory, None) as source:
        body = next(e.body for e in entries(source) if e.type == "round.sealed")
        lost = source.shelf.path(body["model"])
    lost.unlink()
    assert code_of(directory, tmp_path / "out") == "G103"
    assert not list(tmp_path.glob("out*"))


def test_a_damaged_contribution_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    directory = run(tmp_path, 'contributions = "open"')
    with sources.opened(directory, None) as source:
        body = next(e.body for e in entries(source) if e.type == "round.sealed")
        damaged = source.shelf.path(body["model"])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    assert code_of(directory, tmp_path / "out") == "D106"
    assert not list(tmp_path.glob("out*"))


def test_an_app_that_names_no_model_has_no_release(tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "bare").mkdir(parents=True)
    (app / "pyproject.toml").write_text(BARE)
    (app / "bare" / "__init__.py").write_text(NO_STRATEGY)
    execute(app_plan(app, ["site-00", "site-01"], {}, 0), tmp_path / "run")
    assert code_of(tmp_path / "run", tmp_path / "out") == "G102"


BARE = """
[project]
name = "bare"
version = "1.0.0"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "bare:server"
clientapp = "bare:client"
"""
NO_STRATEGY = """
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server, client = ServerApp(), ClientApp()

@server.main()
def main(grid, context):
    for node in grid.get_node_ids():
        grid.send_and_receive([Message(RecordDict(), node, "query.hello")])

@client.query("hello")
def hello(message, context):
    return Message(RecordDict(), reply_to=message)
"""


def test_a_comparison_is_bound_by_the_manifest(tmp_path: Path) -> None:
    directory = run(tmp_path)
    told = {"together": {"loss": 1.0, "own": {}}, "alone": {"basel": {"loss": 2.0, "own": 2.0}}}
    with sources.opened(directory, None) as source:
        made = make(
            source,
            tmp_path / "out",
            lambda opened: in_simulation(source, opened),
            comparison=told,
        )
    assert json.loads((made.root / release.COMPARISON).read_bytes()) == told
    assert release.COMPARISON in made.manifest.files
