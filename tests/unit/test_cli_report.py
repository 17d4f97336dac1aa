"""How a command ends: exit codes, one JSON object, and a next step whatever happened."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.__main__ import needs_hash_seed
from barnraise.cli import main
from barnraise.cli.config import directory, overrides, words_quoted
from barnraise.cli.report import Report, explained
from barnraise.protocols.errors import BarnraiseError


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (BarnraiseError("A101", "no app", next="give one"), "A101", 1),
        (BarnraiseError("X102", "wrong", next="right"), "X102", 2),
        (KeyboardInterrupt(), "X103", 130),
        (ZeroDivisionError("ours"), "X101", 1),
    ],
)
def test_every_end_has_a_code_and_a_next_step(
    error: BaseException, code: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Report.of([], io.StringIO()).fail(error) == exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"error[{code}] ")
    assert "\nnext: " in said
    assert "Traceback" not in said

    out = io.StringIO()
    assert Report.of(["--json"], out).fail(error) == exit_code
    told = json.loads(out.getvalue())
    assert (told["ok"], told["error"]) == (False, code)
    assert told["next"]
    assert out.getvalue().count("\n") == 1
    assert capsys.readouterr().err == ""


def test_a_traceback_only_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ZeroDivisionError("ours")
    except ZeroDivisionError as error:
        Report.of(["-v"], io.StringIO()).fail(error)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.index("Traceback") < said.index("error[X101]")


def test_a_fault_of_ours_says_what_it_was() -> None:
    told = explained(ZeroDivisionError("division by zero"))
    assert (told.code, told.evidence) == ("X101", "ZeroDivisionError: division by zero")
    assert "-v" in told.next


def test_a_result_is_one_object_only_if_asked() -> None:
    for argv, expected in ((["--json"], '{"ok": true}\n'), ([], "")):
        out = io.StringIO()
        assert Report.of(argv, out).succeed({"ok": True}) == 0
        assert out.getvalue() == expected


@pytest.mark.parametrize(
    "argv", [["nonsense"], ["--nonsense"], ["sim", "replay"], ["sim", "run", "--x"]]
)
def test_wrong_usage_has_the_form_of_every_error(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main.run(argv, io.StringIO())
    said = capsys.readouterr().err
    if argv == ["sim", "replay"]:
        assert code == 2, "without arguments a verb shows its help, and has not done what it is for"
        return
    assert code == 2
    assert said.startswith("error[X102] ")
    assert said.splitlines()[-1].endswith("--help")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ZeroDivisionError])
def test_whatever_a_verb_raises_is_told(
    failure: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*arguments: object) -> None:
        raise failure("x")

    monkeypatch.setattr("barnraise.cli.sim._check_use", broken)
    code = main.run(["sim", "run", "app"], io.StringIO())
    expected = {KeyboardInterrupt: (130, "X103"), ZeroDivisionError: (1, "X101")}[failure]
    assert (code, capsys.readouterr().err[6:10]) == expected


def test_only_verbs_that_run_an_app_need_the_hash_seed() -> None:
    assert needs_hash_seed(["sim", "run", "x"], {})
    assert needs_hash_seed(["demo", "--json"], {"PYTHONHASHSEED": "random"})
    assert not needs_hash_seed(["sim", "run", "x"], {"PYTHONHASHSEED": "0"})
    for argv in ([], ["--help"], ["--version"], ["verify", "sim"]):
        assert not needs_hash_seed(argv, {})


# --- -c ---------------------------------------------------------------------------------------------


def test_every_form_of_a_configuration() -> None:
    assert overrides(["rounds=3", "lr=0.5", "fast=true", "name=FedAvg", 'title="two words"']) == {
        "rounds": 3,
        "lr": 0.5,
        "fast": True,
        "name": "FedAvg",
        "title": "two words",
    }
    assert overrides(["a=1 b='x y' c.d=2", "c.e=3", "a=4"]) == {
        "a": 4,
        "b": "x y",
        "c.d": 2,
        "c.e": 3,
    }
    assert overrides(["name=é☃", "b=Müller c=x"]) == {"name": "é☃", "b": "Müller", "c": "x"}
    assert overrides(["data=./x/y", "home=~/z"]) == {"data": "./x/y", "home": "~/z"}


@pytest.mark.parametrize(
    "text", ["rounds", "rounds=", "=3", "rounds 3", "", "a=1 b", "a=1.2.3", "a=[1]", "missing.toml"]
)
def test_a_malformed_configuration_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(BarnraiseError) as caught:
        overrides([text])
    assert caught.value.code == "X102"
    assert repr(text) in caught.value.what
    assert caught.value.evidence == "it is empty" if text == "" else caught.value.evidence


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True),
        st.one_of(
            st.integers(-(2**63), 2**63 - 1),
            st.booleans(),
            st.floats(allow_nan=False, allow_infinity=False, width=32),
            st.from_regex(r"[A-Za-z_][A-Za-z0-9_./-]{0,8}", fullmatch=True).filter(
                lambda s: s not in ("true", "false", "inf", "nan")
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None, max_examples=100)
def test_any_configuration_reads_back_as_it_was_written(config: dict[str, object]) -> None:
    def written(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    one_each = [f"{key}={written(value)}" for key, value in config.items()]
    assert overrides(one_each) == config
    assert overrides([" ".join(one_each)]) == config


def test_quoting_leaves_numbers_and_quoted_strings_alone() -> None:
    assert words_quoted("a=1 b=1e-3 c='d' e=true f=word") == "a=1 b=1e-3 c='d' e=true f=\"word\""


# --- --dir ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["demo"], ["demo", "--dir", "d"]])
def test_the_demo_has_its_directory_by_default_or_as_given(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def stop(home: Path, rounds: int | None) -> None:
        seen.append(home)
        raise KeyboardInterrupt

    monkeypatch.setattr("barnraise.demo.federation.prepare", stop)
    assert main.run(command, io.StringIO()) == 130
    assert seen == [Path(command[-1] if len(command) > 1 else "barnraise-demo")]


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_directory_is_refused(text: str) -> None:
    with pytest.raises(BarnraiseError) as told:
        directory(text)
    assert told.value.code == "X102"
