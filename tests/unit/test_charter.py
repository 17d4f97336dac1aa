"""The charter: what is valid is taken as it stands, what is not is refused by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from barnraise.protocols.charter import Charter, meanings
from barnraise.protocols.errors import BarnraiseError

VALID = """
name = "hospitals"
licence = "Apache-2.0"
[task]
name = "causal-lm"
context = 64
[training]
steps = 40
betas = [0.9, 0.99]
[strategy]
name = "diloco"
lr = 1
[rounds]
count = 10
quorum = 3
deadline = 60
"""


def refusal(text: str) -> BarnraiseError:
    with pytest.raises(BarnraiseError) as caught:
        Charter.parse(text, "charter.toml")
    return caught.value


def test_a_valid_charter_says_what_was_written_and_defaults_for_the_rest() -> None:
    charter = Charter.parse(VALID)
    assert charter.task.name == "causal-lm"
    assert charter.task.options == {"context": 64}
    assert charter.strategy.options == {"lr": 1}
    assert charter.training.betas == (0.9, 0.99)
    assert (charter.training.steps, charter.training.minutes) == (40, None)
    assert (charter.rounds.quorum, charter.rounds.deadline, charter.rounds.grace) == (3, 60, None)


def test_a_task_of_ones_own_is_a_module_and_a_class() -> None:
    charter = Charter.parse(VALID.replace('"causal-lm"', '"words.task:Words"'))
    assert charter.task.own == ("words.task", "Words")
    assert Charter.parse(VALID).task.own is None


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("steps = 40", "stepz = 40", "C103", "training.stepz"),
        ("[training]", "[trainning]\nsteps = 1\n[training]", "C103", "trainning"),
        ("steps = 40", 'steps = "forty"', "C104", "training.steps"),
        ("steps = 40", "steps = 4.5", "C104", "training.steps"),
        ("steps = 40", "steps = 0", "C104", "training.steps"),
        ("steps = 40", "steps = true", "C104", "training.steps"),
        ("steps = 40", "steps = 40\nminutes = 1.5", "C104", "either steps or minutes"),
        ("steps = 40", "", "C104", "either steps or minutes"),
        ("steps = 40", "steps = 40\nlr = nan", "C104", "training.lr"),
        ("steps = 40", "steps = 40\nlr = inf", "C104", "training.lr"),
        ("[0.9, 0.99]", "[0.9]", "C104", "training.betas"),
        ("[0.9, 0.99]", "[0.9, 1.0]", "C104", "training.betas"),
        ("count = 10", "", "C104", "rounds.count"),
        ("quorum = 3", "quorum = 0", "C104", "rounds.quorum"),
        ("deadline = 60", "deadline = -1", "C104", "rounds.deadline"),
        ('name = "hospitals"', 'name = "Hospitals"', "C104", "name"),
        ("[task]", "[task", "C102", "line"),
        ("count = 10", f"count = {'1' * 5000}", "C102", "thousands of digits"),
        ("count = 10", f"count = 10\nx = {'[' * 5000}{']' * 5000}", "C102", "too deeply"),
        ("count = 10", f"count = 10\n{'x.' * 5000}y = 1", "C102", "too deeply"),
        ("steps = 40", "steps = 40\nbatch = 1_000_000_000_000", "C104", "cannot be meant"),
    ],
)
def test_a_wrong_charter_is_refused_by_its_key(old: str, new: str, code: str, said: str) -> None:
    assert old in VALID
    error = refusal(VALID.replace(old, new, 1))
    assert error.code == code
    assert said in str(error)
    assert error.next


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            '[task]\nname = "causal-lm"\ncontext = 64',
            "task = 3",
            "task is wrong\n  it must be a table",
        ),
        ("[0.9, 0.99]", "0.9", "training.betas is wrong\n  it must be an array; it is 0.9"),
        ("[0.9, 0.99]", "[0.9]", "training.betas is wrong\n  it has too few values"),
        ("[0.9, 0.99]", "[0, 0, 0]", "2 values at most, and has 3; it is [0, 0, 0]"),
        ("[0.9, 0.99]", '["x", 0]', "training.betas is wrong\n  it must be a number; it is 'x'"),
        ("steps = 40", "steps = 4.5", "it must be a whole number; it is 4.5"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(old: str, new: str, said: str) -> None:
    assert old in VALID
    assert said in str(refusal(VALID.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new"),
    [("hospitals", "A" * 5000), ("steps = 40", f"{'a' * 5000} = 1"), ("Apache-2.0", "A B" * 5000)],
)
def test_no_message_repeats_a_page(old: str, new: str) -> None:
    assert len(str(refusal(VALID.replace(old, new, 1)))) < 1500


@pytest.mark.parametrize(
    "licence",
    [
        "Apache-2.0",
        "GPL-2.0+",
        "MIT OR (CC-BY-4.0 AND 0BSD)",
        "GPL-2.0-only WITH Classpath-exception-2.0",
    ],
)
def test_a_licence_is_an_spdx_expression(licence: str) -> None:
    assert Charter.parse(VALID.replace("Apache-2.0", licence)).licence == licence


@pytest.mark.parametrize(
    "licence",
    ["bananas licence", "", "MIT OR", "(MIT", "MIT)", "AND", "MIT and 0BSD", "MIT, 0BSD", "()"],
)
def test_what_is_no_spdx_expression_is_no_licence(licence: str) -> None:
    error = refusal(VALID.replace("Apache-2.0", licence))
    assert (error.code, "licence is wrong" in error.what) == ("C104", True)
    assert "SPDX" in error.evidence


def test_an_unknown_key_is_answered_with_the_keys_there_are_and_their_meaning() -> None:
    error = refusal(VALID.replace("steps = 40", "stepz = 40"))
    assert "steps: optimizer steps a round" in error.evidence


def test_a_wrong_value_is_answered_with_what_the_key_means() -> None:
    error = refusal(VALID.replace("quorum = 3", "quorum = 0"))
    assert "accepted replies without which a round is void" in error.evidence


def test_a_charter_that_is_not_there_or_not_text_is_c101(tmp_path: Path) -> None:
    with pytest.raises(BarnraiseError) as missing:
        Charter.read(tmp_path / "charter.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BarnraiseError) as binary:
        Charter.read(tmp_path / "binary.toml")
    assert (missing.value.code, binary.value.code) == ("C101", "C101")


def test_every_key_has_a_meaning() -> None:
    assert all(meaning for _, meaning in meanings())
    assert {"training.steps", "rounds.quorum", "model.init"} <= {key for key, _ in meanings()}


def test_every_key_stands_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "charter.md").read_text()
    for key, _ in meanings():
        section, _, name = key.rpartition(".")
        assert f"`{name}`" in page, key
        assert f"[{section}]" in page or not section, key
