"""A question before an act: answered, declined, or asked where nobody is."""

from __future__ import annotations

import io

import click
import pytest

from barnraise.cli import site
from barnraise.protocols.errors import BarnraiseError


def asked(monkeypatch: pytest.MonkeyPatch, answer: str, *, yes: bool = False) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    site.confirm("leave for good?", yes=yes)


def test_a_yes_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch, "y\n")
    asked(monkeypatch, "", yes=True)


def test_a_no_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(click.Abort):
        asked(monkeypatch, "n\n")


def test_where_nobody_answers_yes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BarnraiseError) as caught:
        asked(monkeypatch, "")
    assert caught.value.code == "X102" and "--yes" in caught.value.next
