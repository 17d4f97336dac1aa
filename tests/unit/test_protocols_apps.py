"""App directories: what is read from them, what is refused and how, and an app's digest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from barnraise.protocols import flower
from barnraise.protocols.apps import app_digest, code_files
from barnraise.protocols.errors import CODES, BarnraiseError

PYPROJECT = """
[project]
name = "small"
version = "1.0.0"

[tool.flwr.app]
publisher = "someone"

[tool.flwr.app.components]
serverapp = "small_server:app"
clientapp = "small_client:app"

[tool.flwr.app.config]
rounds = 3
lr = 0.5
[tool.flwr.app.config.model]
width = 8
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    return tmp_path


def refused(
    directory: Path, code: str, overrides: flower.UserConfig | None = None
) -> BarnraiseError:
    with pytest.raises(BarnraiseError) as caught:
        flower.project(directory, overrides or {})
    error = caught.value
    assert error.code == code
    assert error.evidence
    assert error.next
    assert error.changed == "nothing was changed"
    return error


def test_a_project_is_its_components_and_its_config(app: Path) -> None:
    project = flower.project(app, {"rounds": 5})
    assert (project.name, project.server, project.client) == (
        "small",
        "small_server:app",
        "small_client:app",
    )
    assert project.config == {"rounds": 5, "lr": 0.5, "model.width": 8}
    assert project.mixed_replies is False


def test_mixed_replies_is_a_switch_and_nothing_else(app: Path) -> None:
    (app / "pyproject.toml").write_text(PYPROJECT + "[tool.barnraise]\nmixed-replies = true\n")
    assert flower.project(app, {}).mixed_replies is True
    (app / "pyproject.toml").write_text(PYPROJECT + '[tool.barnraise]\nmixed-replies = "no"\n')
    assert "'no'" in refused(app, "A102").evidence
    (app / "pyproject.toml").write_text(
        PYPROJECT.replace("[project]", "[tool]\nbarnraise = true\n[project]")
    )
    assert "barnraise" in refused(app, "A102").what


def test_no_directory_and_no_pyproject_are_told_apart(tmp_path: Path) -> None:
    assert refused(tmp_path, "A101").evidence == "it holds no pyproject.toml"
    assert refused(tmp_path / "none", "A101").evidence == "there is no such directory"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[project]\nname = 'x'\n",
        "project = 3\n",
        "tool = 3\n",
        PYPROJECT.replace("[tool.flwr.app.components]", "[tool.flwr.app.other]"),
        PYPROJECT.replace("serverapp =", "server ="),
        PYPROJECT.replace("clientapp =", "client ="),
        PYPROJECT.replace('publisher = "someone"', ""),
    ],
)
def test_a_pyproject_of_something_else_is_no_app(app: Path, text: str) -> None:
    (app / "pyproject.toml").write_text(text)
    refused(app, "A101")


@pytest.mark.parametrize(
    "data",
    [
        b"[project",
        b"\xff\xfe",
        PYPROJECT.replace("rounds = 3", "rounds = [1, 2]").encode(),
        PYPROJECT.replace("rounds = 3", "rounds = 2026-03-01").encode(),
    ],
)
def test_a_malformed_configuration(app: Path, data: bytes) -> None:
    (app / "pyproject.toml").write_bytes(data)
    assert "pyproject.toml" in refused(app, "A102").next


def test_an_override_that_the_app_does_not_know_is_named(app: Path) -> None:
    assert "'round'" in refused(app, "A102", {"round": 5}).evidence


def test_an_agent_app_is_not_carried(app: Path) -> None:
    text = PYPROJECT.replace("serverapp =", "agentapp =").replace(
        'clientapp = "small_client:app"', ""
    )
    (app / "pyproject.toml").write_text(text)
    assert "AgentApp" in refused(app, "A104").what


# --- importing --------------------------------------------------------------------------------


@pytest.fixture
def code(app: Path) -> Iterator[Path]:
    """An app directory whose modules, and place on the path, are forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    yield app
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith("small_"):
            del sys.modules[name]


SERVER = "from flwr.serverapp import ServerApp\napp = ServerApp()\n"
CLIENT = "from flwr.clientapp import ClientApp\napp = ClientApp()\n"


def test_the_apps_are_imported_from_their_directory(code: Path) -> None:
    (code / "small_server.py").write_text(SERVER + "@app.main()\ndef main(grid, context): ...\n")
    (code / "small_client.py").write_text(CLIENT)
    assert isinstance(flower.load_server_app("small_server:app", code), ServerApp)
    assert isinstance(flower.load_client_app("small_client:app", code), ClientApp)


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        (
            "import no_such_module_anywhere\n",
            "No module named 'no_such_module_anywhere' (small_client.py:1)",
        ),
        ("x = 1\nraise ValueError('why')\n", "ValueError: why (small_client.py:2)"),
        ("import json\njson.loads('x')\n", "(small_client.py:2)"),
        ("def broken(:\n", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (small_client.py:2)"),
        ("other = 1\n", "Unable to load attribute app"),
        ("app = 3\n", "it is a int"),
    ],
)
def test_an_app_that_cannot_be_imported_says_where(code: Path, text: str, evidence: str) -> None:
    (code / "small_client.py").write_text(text)
    with pytest.raises(BarnraiseError) as caught:
        flower.load_client_app("small_client:app", code)
    assert caught.value.code == "A103"
    assert evidence in caught.value.evidence
    assert caught.value.next


@pytest.mark.parametrize("reference", ["small_none:app", "small_client", ":app", ""])
def test_a_reference_to_nothing(code: Path, reference: str) -> None:
    (code / "small_client.py").write_text(CLIENT)
    with pytest.raises(BarnraiseError) as caught:
        flower.load_client_app(reference, code)
    assert caught.value.code == "A103"


def test_the_command_that_an_import_error_names_shows_the_same_error(code: Path) -> None:
    (code / "small_server.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(BarnraiseError) as caught:
        flower.load_server_app("small_server:app", code)
    assert f"`python -c 'import small_server'` work in {code}" in caught.value.next
    command = [sys.executable, "-c", "import small_server"]
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, check=False)
    assert "no_such_module_anywhere" in done.stderr


def test_the_old_apis_are_refused_with_the_remedy(code: Path) -> None:
    (code / "small_server.py").write_text(SERVER)
    (code / "small_client.py").write_text(
        "from flwr.clientapp import ClientApp\napp = ClientApp(client_fn=lambda context: None)\n"
    )
    with pytest.raises(BarnraiseError, match="server_fn") as server:
        flower.load_server_app("small_server:app", code)
    with pytest.raises(BarnraiseError, match="client_fn") as client:
        flower.load_client_app("small_client:app", code)
    for caught in (server, client):
        assert caught.value.code == "A104"
        assert "message API" in caught.value.next


# --- digests ----------------------------------------------------------------------------------


def digest(directory: Path) -> str:
    return app_digest(code_files(directory))


def test_an_apps_digest_is_its_code_and_not_where_or_how_it_lies(app: Path, tmp_path: Path) -> None:
    (app / "pkg").mkdir()
    (app / "pkg/client.py").write_text("x = 1\n")
    first = digest(app)
    for ignored in (
        ".hidden.py",
        ".venv/x.py",
        "pkg/__pycache__/client.py",
        "build/x.py",
        "small.egg-info/x.py",
        "run/journal.db",
        "run/x.py",
        "model.safetensors",
        "results.json",
    ):
        (app / ignored).parent.mkdir(exist_ok=True)
        (app / ignored).write_text("anything")
    (app / "link.py").symlink_to(app / "pkg/client.py")
    (app / "linked").symlink_to(app / "pkg")
    assert digest(app) == first
    copied = shutil.copytree(app, tmp_path / "elsewhere", symlinks=True)
    assert digest(copied) == first


@pytest.mark.parametrize("change", ["edited", "renamed", "added", "moved", "configured"])
def test_any_change_of_code_is_another_app(app: Path, change: str) -> None:
    (app / "a.py").write_text("x = 1\n")
    first = digest(app)
    if change == "edited":
        (app / "a.py").write_text("x = 2\n")
    elif change == "renamed":
        (app / "a.py").rename(app / "b.py")
    elif change == "added":
        (app / "b.py").write_text("")
    elif change == "moved":
        (app / "sub").mkdir()
        (app / "a.py").rename(app / "sub/a.py")
    else:
        (app / "pyproject.toml").write_text(PYPROJECT.replace("rounds = 3", "rounds = 4"))
    assert digest(app) != first


# --- errors -----------------------------------------------------------------------------------


def test_an_error_says_code_evidence_change_and_next_step() -> None:
    error = BarnraiseError("A101", "no app here", "one\ntwo", next="give another")
    assert str(error) == (
        "error[A101] no app here\n  one\n  two\n  nothing was changed\nnext: give another"
    )
    assert error.as_dict() == {
        "error": "A101",
        "meaning": CODES["A101"],
        "what": "no app here",
        "evidence": "one\ntwo",
        "changed": "nothing was changed",
        "next": "give another",
    }


def test_an_unregistered_code_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="unregistered error code A999"):
        BarnraiseError("A999", "what")
