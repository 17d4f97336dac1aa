"""Bad input through the real command: a code, a remedy, no traceback, and the others unharmed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

AppMaker = Callable[..., Path]
Command = Callable[..., Any]


def assert_told(ran: Any, code: str, *words: str, exit_code: int = 1) -> None:
    """The error is `code`, says these words, and has a next step; there is no traceback."""
    assert f"error[{code}]" in ran.err, ran.err
    for word in words:
        assert word in ran.err, ran.err
    assert "\nnext: " in ran.err
    assert "Traceback" not in ran.err + ran.out
    assert ran.code == exit_code


# --- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sim", "run", "app"], ["--sites", "next: barnraise sim run app --sites 4"]),
        (
            ["sim", "run", "app", "--sites", "3", "--data", "d"],
            ["--data", "next: barnraise sim run app --sites 3"],
        ),
        (
            ["sim", "run", "c.toml", "--sites", "3"],
            ["charter", "next: barnraise sim run c.toml --data DIR"],
        ),
        (
            ["sim", "run", "app/pyproject.toml", "--sites", "3"],
            ["describes the app", "next: barnraise sim run app --sites 3"],
        ),
        (["sim", "run", "app", "--sites", "three"], ["'three'", "next: barnraise sim run --help"]),
        (["sim", "run", "app", "--sites", "0"], ["0 sites"]),
        (["sim", "fly"], ["'fly'", "next: barnraise sim --help"]),
        (["sim", "run", "app", "--sites", "2", "-c", "rounds"], ["-c 'rounds'", "key=value"]),
    ],
)
def test_wrong_usage_says_the_right_command(
    barnraise: Command, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "pyproject.toml").touch()
    (tmp_path / "c.toml").touch()
    assert_told(barnraise(*arguments), "X102", *words, exit_code=2)


@pytest.mark.parametrize("options", [[], ["--data", "d"], ["--data", "d", "--sites", "2"]])
def test_what_is_not_there_is_called_neither_app_nor_charter(
    barnraise: Command, options: list[str]
) -> None:
    ran = barnraise("sim", "run", "A-typo", *options)
    assert_told(ran, "A101", "there is no A-typo")
    assert "is an app" not in ran.err


def test_json_errors_are_one_object_with_the_same_facts(barnraise: Command) -> None:
    ran = barnraise("sim", "run", "nowhere", "--sites", "2", "--json")
    error = ran.object
    assert (ran.code, error["ok"], error["error"]) == (1, False, "A101")
    assert "nowhere" in error["what"]
    assert error["next"]
    wrong = barnraise("sim", "run", "--json", "--frobnicate")
    assert (wrong.code, wrong.object["error"]) == (2, "X102")


def test_verbose_shows_the_traceback(barnraise: Command, make_app: AppMaker) -> None:
    app = make_app(server="raise ValueError('at import')\n")
    assert_told(barnraise("sim", "run", app, "--sites", "2"), "A103", "ValueError: at import")
    assert "Traceback" in barnraise("sim", "run", app, "--sites", "2", "-v").err


# --- the app --------------------------------------------------------------------------------------


def test_a_directory_that_is_no_app(barnraise: Command, make_app: AppMaker) -> None:
    assert_told(barnraise("sim", "run", "no", "--sites", "2"), "A101", "no such directory")
    bare = make_app("bare", project='[project]\nname = "{name}"\nversion = "1"\n')
    assert_told(barnraise("sim", "run", bare, "--sites", "2"), "A101", "components")


def test_apps_that_this_engine_does_not_carry(barnraise: Command, make_app: AppMaker) -> None:
    old_server = make_app(
        "oldserver",
        server="from flwr.server import ServerApp, ServerAppComponents\n"
        "app = ServerApp(server_fn=lambda context: ServerAppComponents())\n",
    )
    assert_told(
        barnraise("sim", "run", old_server, "--sites", "2"), "A104", "server_fn", "@app.main"
    )
    old_client = make_app(
        "oldclient",
        client="from flwr.client import ClientApp\napp = ClientApp(client_fn=lambda context: None)\n",
    )
    assert_told(
        barnraise("sim", "run", old_client, "--sites", "2"), "A104", "client_fn", "@app.train"
    )


def test_an_agent_app(barnraise: Command, make_app: AppMaker) -> None:
    project = """
[project]
name = "{name}"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "us"
[tool.flwr.app.components]
agentapp = "{name}.server:app"
"""
    agent = make_app("agent", project=project)
    assert_told(barnraise("sim", "run", agent, "--sites", "2"), "A104", "AgentApp", "serverapp")


def test_a_key_that_the_app_does_not_have(barnraise: Command, make_app: AppMaker) -> None:
    ran = barnraise("sim", "run", make_app(), "--sites", "2", "-c", "speed=3")
    assert_told(ran, "A102", "speed", "pyproject.toml")


def test_a_server_app_that_raises_keeps_what_was_accepted(
    barnraise: Command, make_app: AppMaker
) -> None:
    server = (
        make_app("s").joinpath("s", "server.py").read_text() + "    raise RuntimeError('late')\n"
    )
    app = make_app("raising", server=server)
    ran = barnraise("sim", "run", app, "--sites", "2", "--dir", "d")
    assert_told(ran, "A201", "RuntimeError: late", "server.py:16", "no accepted reply is lost")


def test_an_app_that_waits_for_more_nodes_than_there_are(
    barnraise: Command, make_app: AppMaker
) -> None:
    server = make_app("s").joinpath("s", "server.py").read_text().replace("=nodes)", "=nodes + 1)")
    ran = barnraise("sim", "run", make_app("waiting", server=server), "--sites", "2", seconds=8)
    assert_told(ran, "A202", "site-00, site-01", "--sites")


def test_every_member_failing_ends_the_run(barnraise: Command, make_odd_app: AppMaker) -> None:
    app = make_odd_app("failing", dict.fromkeys(range(3), "raise KeyError('data')"))
    ran = barnraise("sim", "run", app, "--sites", "3")
    assert_told(ran, "A204", "site-00: M108", "site-02: M108", "KeyError at client.py:")


# --- one member -----------------------------------------------------------------------------------

DEEDS = {
    "raise RuntimeError('private')": "M108: RuntimeError at client.py:",
    "raise SystemExit(3)": "M108: SystemExit at client.py:",
    "return 'nothing'": "M108: the handler returned NoneType, not a Message",
    "arrays['extra'] = arrays.pop('w')": "M104: arrays lacks w and adds extra",
    "arrays['w'] = arrays['w'][:2]": "M105: arrays[w] is float32[2, 4]",
    "arrays['w'] = arrays['w'].astype(np.float64)": "M105: arrays[w] is float64[3, 4]",
    "arrays['b'][0] = np.nan": "M106: arrays[b] holds NaN or infinity",
    "metrics['other'] = metrics.pop('loss')": "M109: it sent arrays",
}


def test_bad_members_are_named_and_the_others_go_on(
    barnraise: Command, make_odd_app: AppMaker, tmp_path: Path
) -> None:
    app = make_odd_app("odd", dict(enumerate(DEEDS)))
    ran = barnraise("sim", "run", app, "--sites", "11", "--dir", "d", "--json")
    assert ran.code == 0, ran.err
    for member, reason in enumerate(DEEDS.values()):
        assert ran.err.count(f"site-{member:02} refused: {reason}") == 2, "in both rounds"
    assert ran.err.count("3/11 answered") == 2, "both rounds went on with the other three"
    assert len(ran.object["problems"]) == 2 * len(DEEDS)
    assert "Traceback" not in ran.err
    assert "private" not in ran.err + ran.out, "an exception's text stays at the site"
    assert "logs    d/logs" in ran.err
    assert "private" in (tmp_path / "d" / "logs" / "site-00.log").read_text()


def test_the_others_are_unharmed_by_a_bad_member(
    barnraise: Command, make_odd_app: AppMaker
) -> None:
    """Whatever the third does instead of training, the model is the one of the other two."""
    deeds = {"good": "pass", "infinite": "arrays['b'][0] = np.inf", "raising": "raise KeyError"}
    good, infinite, raising = (
        barnraise("sim", "run", make_odd_app(name, {2: deed}), "--sites", "3", "--json").object
        for name, deed in deeds.items()
    )
    assert infinite["model"] == raising["model"] != good["model"]


# --- the directory ----------------------------------------------------------------------------------


def test_a_directory_of_another_run(barnraise: Command, make_app: AppMaker) -> None:
    app, other = make_app("one"), make_app("two")
    assert barnraise("sim", "run", app, "--sites", "2", "--dir", "d").code == 0
    ran = barnraise("sim", "run", other, "--sites", "2", "--dir", "d")
    assert_told(ran, "D101", "app: the directory has one sha256:", "this command two sha256:")
    ran = barnraise("sim", "run", app, "--sites", "3", "--dir", "d")
    assert_told(ran, "D101", "2 members", "3 members")


def test_a_directory_in_use(barnraise: Command, make_app: AppMaker, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with (tmp_path / "d" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        ran = barnraise("sim", "run", make_app(), "--sites", "2", "--dir", "d")
    assert_told(ran, "D102", f"process {os.getpid()}")


def test_a_directory_that_cannot_be_made(
    barnraise: Command, make_app: AppMaker, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a directory")
    ran = barnraise("sim", "run", make_app(), "--sites", "2", "--dir", "file/d")
    assert_told(ran, "D105", "file")


def test_a_directory_of_another_seed(barnraise: Command, make_app: AppMaker) -> None:
    app = make_app()
    assert barnraise("sim", "run", app, "--sites", "2", "--dir", "d").code == 0
    ran = barnraise("sim", "run", app, "--sites", "2", "--dir", "d", "--seed", "1")
    assert_told(ran, "D101", "seed")


def test_an_app_that_is_mended_after_it_could_not_be_imported_uses_the_same_directory(
    barnraise: Command, make_app: AppMaker
) -> None:
    app = make_app()
    server = app / "tiny" / "server.py"
    good = server.read_text()
    server.write_text("import numpy\ndef main(:\n")
    command = ("sim", "run", app, "--sites", "2", "--dir", "d")
    assert_told(barnraise(*command), "A103", "SyntaxError", "(server.py:2)", "nothing was changed")
    server.write_text(good)
    assert barnraise(*command).code == 0


def test_replaying_what_is_no_run(barnraise: Command, tmp_path: Path) -> None:
    assert_told(barnraise("sim", "replay", "nowhere"), "D103", "no such directory")
    (tmp_path / "empty").mkdir()
    assert_told(barnraise("sim", "replay", "empty"), "D103", "source.json")
    assert list((tmp_path / "empty").iterdir()) == [], "looking at it changed nothing"
