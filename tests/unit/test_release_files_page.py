"""docs/release-files.md: its commands work on a release, and it names every file that a release has."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import release_kit

from barnraise.coordinator.release import signing
from barnraise.coordinator.release.documents import DOCUMENTS
from barnraise.coordinator.release.documents.mof import CLASSES, COMPONENTS
from barnraise.protocols import release

PAGE = (Path(__file__).parents[2] / "docs/release-files.md").read_text()
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
NEEDED = (*signing.EXTRA, "huggingface_hub", "spdx_python_model")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A release of made-up facts: documents, model, manifest and signature."""
    facts, made = release_kit.private(), tmp_path / "release"
    made.mkdir()
    files = {"model.safetensors": bytes(8), "log/checkpoint": b"a\n", "empty": b""}
    for document in DOCUMENTS:
        files |= document(facts)
    for path, data in files.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_bytes(data)
    covered = {
        path: (len(data), hashlib.sha256(data).hexdigest())
        for path, data in files.items()
        if release.is_covered(path)
    }
    manifest = release.Manifest(
        *("hospitals", facts.log, facts.run, "", facts.model, facts.contributions),
        signing.signer(tmp_path),
        covered,
    )
    (made / "manifest.json").write_bytes(manifest.encode())
    assert signing.sign(made, tmp_path) is not None
    return made


def run(command: str, root: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=root,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_commands_work(root: Path) -> None:
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl command here")
    done = [run(command, root) for command in COMMANDS]
    assert all(one.returncode == 0 for one in done), [one.stderr for one in done]
    said = "\n".join(one.stdout for one in done)
    for expected in ("model.safetensors", "Verification succeeded", "Verified OK", "apache-2.0"):
        assert expected in said
    (root / "README.md").write_bytes(b"")
    (checked,) = (one for one in COMMANDS if one.startswith("model_signing"))
    assert run(checked, root).returncode != 0


def test_it_names_every_file() -> None:
    constants = {name: value for name, value in vars(release).items() if name.isupper()}
    names = {value for value in constants.values() if isinstance(value, str)}
    files = {one for one in names if re.fullmatch(r"[a-z/-]+(\.[a-z]+|/)", one)}
    for document in DOCUMENTS:
        files |= set(document(release_kit.private()))
    assert {"manifest.json", "model.sig", "contributions/", "mof.yml"} <= files
    for one in files - {"log/checkpoint", "log/blobs/"}:
        assert f"`{one}" in PAGE, one


def test_it_has_the_frameworks_classes_as_they_are_computed() -> None:
    rows = re.findall(r"^\| (III?|I), (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    for row, number in zip(rows, (3, 2, 1), strict=True):
        numeral, name, components = row
        assert CLASSES[number] == f"Class {numeral} - {name}"
        own = {n for n, one in COMPONENTS.items() if one.required and one.of_class == number}
        assert set(re.split(r", (?![^(]*\))", components)) == own
