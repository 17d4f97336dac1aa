"""`barnraise verify` on releases of real runs: others' parts put in, and what the page for auditors types."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyrage
import pytest
from release_runs import MEMBERS, files, released, run

from barnraise.cli.main import run as barnraise
from barnraise.coordinator.founding import simulated_log_key
from barnraise.coordinator.log import Log
from barnraise.coordinator.release.bundle import Bundle
from barnraise.coordinator.verify.run import verify
from barnraise.protocols import notes, release, tiles
from barnraise.protocols.entries import Entry
from barnraise.protocols.identity import simulated_key
from barnraise.protocols.notes import Checkpoint
from barnraise.protocols.randomness import simulation_secret

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open release, with its run beside it."""
    home = tmp_path_factory.mktemp("honest")
    return released(run(home, 'contributions = "open"'), home / "release").root


@pytest.fixture
def copy(honest: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(honest, tmp_path / "release"))


def codes(root: Path) -> set[str]:
    return {fault.code for fault in verify(root).faults}


def places(root: Path) -> set[str]:
    return {fault.where for fault in verify(root).faults}


def test_l8_an_honest_release_of_a_run_holds(honest: Path) -> None:
    done = verify(honest)
    assert done.faults == [] and done.cosigned == list(MEMBERS)


def test_l8_the_weights_of_another_round_are_not_the_runs(copy: Path) -> None:
    bundle = Bundle(copy)
    seals = [Entry.decode(e).body for e in bundle.entries() if b'"round.sealed"' in e]
    assert seals[1]["model"] != seals[2]["model"]
    other = bundle.contribution(seals[1]["model"])
    assert other is not None
    shutil.copyfile(other, copy / release.MODEL)
    assert release.MODEL in places(copy)


def test_l8_a_log_rolled_back_to_an_older_checkpoint_of_its_own(copy: Path, honest: Path) -> None:
    """Genuinely signed and cosigned, over the log before the release was published."""
    secret = simulation_secret(0)
    with closing(Log(honest.parent / "run" / "journal.db")) as log:
        size = log.size() - 1
        checkpoint = Checkpoint(log.origin, size, log.root(size))
        note = notes.sign_checkpoint(simulated_log_key(secret), checkpoint)
        lines = [notes.cosign(simulated_key(secret, m), m, checkpoint, 1) for m in MEMBERS]
        shutil.rmtree(copy / "log" / "tile")
        for tile in tiles.tiles_of(size):
            write(copy / "log" / tile.path, tile.hashes(log.node))
        for bundle in tiles.bundles_of(size):
            held = [e for _, e in log.entries(bundle.first, bundle.first + bundle.width)]
            write(copy / "log" / bundle.path, tiles.pack_entries(held))
    (copy / release.CHECKPOINT).write_bytes(notes.with_lines(note, lines))
    assert "V112" in codes(copy), verify(copy).faults


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_l8_any_byte_of_the_signature_counts(copy: Path) -> None:
    path = copy / release.SIGNATURE
    if not path.exists():
        pytest.skip("the extra `release` is not installed: there is no model.sig")
    whole = path.read_bytes()
    for at in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert codes(copy), at
    path.write_bytes(whole + b"\n")
    assert release.SIGNATURE in places(copy)


def test_l8_two_genuine_releases_do_not_mix(copy: Path, tmp_path: Path) -> None:
    other = released(run(tmp_path / "other", 'title = "other"'), tmp_path / "theirs").root
    assert codes(other) == set()
    for path in (release.CHECKPOINT, release.MANIFEST, release.CHARTER, "signatures/basel.json"):
        kept = (copy / path).read_bytes()
        shutil.copyfile(other / path, copy / path)
        assert codes(copy), path
        (copy / path).write_bytes(kept)
    assert codes(copy) == set()


def test_what_is_for_auditors_holds_and_loses_nothing_unseen(tmp_path: Path) -> None:
    key = pyrage.x25519.Identity.generate()
    terms = f'contributions = "auditors"\nauditors = ["{key.to_public()}"]'
    root = released(run(tmp_path, terms), tmp_path / "release").root
    assert codes(root) == set()
    path = next(p for p in files(root) if p.endswith(release.ENCRYPTED))
    (root / path).unlink()
    assert path in places(root)


# --- the page ---------------------------------------------------------------------------------------


def typed() -> Iterator[list[str]]:
    """The commands of docs/verify.md."""
    for block in re.findall(
        r"^```console\n(.*?)^```", (DOCS / "verify.md").read_text(), re.M | re.S
    ):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield shlex.split(line[2:])


def policy(home: Path, change: Callable[[str], str] = str) -> None:
    """`trust.toml` as the page has it, with the keys of this release."""
    (text,) = re.findall(r"^```toml\n(.*?)^```", (DOCS / "verify.md").read_text(), re.M | re.S)
    bundle = Bundle(home / "release")
    member = bundle.read("members/basel.json").decode()
    text = re.sub(r'^key = ".*?"', f'key = "{bundle.manifest.log}"', text, flags=re.M)
    key = re.search(r'"key":"([0-9a-f]{64})"', member)
    assert key is not None
    text = re.sub(r'^basel = ".*?"', f'basel = "{key[1]}"', text, flags=re.M)
    text = re.sub(r"^min_members = \d+", f"min_members = {len(MEMBERS)}", text, flags=re.M)
    text = text.replace("sha256:…", bundle.manifest.model)
    (home / "trust.toml").write_text(change(text))


def test_the_pages_commands_run(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    shutil.copyfile(DOCS / "verify_release.py", copy.parent / "verify_release.py")
    policy(copy.parent)
    commands = list(typed())
    assert [words[0] for words in commands] == ["barnraise", "barnraise", "python"]
    for words in commands:
        if words[0] == "python":
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "cosigned by basel, geneva, zurich" in done.stdout
        else:
            assert said(words[1:])[0] == 0


def said(words: list[str]) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = barnraise(words, sys.stdout)
    return code, out.getvalue() + err.getvalue()


def test_a_genuine_release_of_another_log_fails_by_name(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.parent)
    pinned = notes.verifier_key("sim/log", b"\x01" * 32)
    policy(copy.parent, lambda text: re.sub(r'^key = ".*?"', f'key = "{pinned}"', text, flags=re.M))
    code, words = said(["verify", "release", "--policy", "trust.toml"])
    assert code == 1 and "error[V106]" in words, words
