"""`data.toml`: what only a person can say of a site's data. Drafted, read, and held against its blanks.

Everything in it gets into the statement as it was written, which everybody may read.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from barnraise.protocols import files
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.stating import Told
from barnraise.protocols.values import fault, is_licence, key_of

FILE = "data.toml"
LARGEST = 1 << 18  # bytes of an answers file
SOURCES = ("public", "third-party", "own", "crawled", "users", "synthetic", "other")
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")

_TEMPLATE = """\
# What only a person can say of this site's data. Everybody may read it: it becomes the data statement, as
# it is written here. Fill it in, then run `barnraise node data state` again. "" and [] are blanks.

title = ""            # what the data are called
description = ""      # what they are, in a few sentences
organisation = ""     # whose they are
licence = ""          # an SPDX expression such as "CC-BY-4.0", or the address (https://…) of the terms
url = ""              # where people read about them, or whom to ask (https://…)
version = "1.0.0"
published = ""        # optional: the date of this version, as 2026-03-31

collected = ""        # how, where and by whom
since = ""            # optional: the first date of collection
until = ""            # optional: the last one
source = ""           # "public", "third-party", "own", "crawled", "users", "synthetic" or "other"
languages = []        # optional: of texts, as ["en", "de-CH"]

sensitive = []        # which personal or sensitive information; ["none"] where there is none
biases = []           # what they represent too much, or too little
limitations = []      # what they are not fit for
use_cases = []        # what they are fit for
preprocessing = []    # what was done to them; ["none"]
legal_basis = ""      # the consent or other legal basis on which they are used
access = ""           # optional: under which conditions others may have them
reservations = ""     # optional: how reservations of rights (text and data mining) were respected
illegal_content = ""  # optional: how illegal content was kept out

processing_code = []  # files and folders beside this one: the code that prepared the data; may stay empty
"""
_OPEN = """
[open]                # each file is stated with its address and SHA-256; the processing code is published
address = ""          # as "https://example.org/data/{path}"
# files = { "notes/one.txt" = "https://example.org/one" }   # of those that lie elsewhere
"""


class _Open(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    address: str = ""
    files: dict[str, str] = Field(default_factory=dict)


class Answers(BaseModel):
    """The file's keys; "" and [] where nothing was said. `open`: the data are published."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: str = ""
    description: str = ""
    organisation: str = ""
    licence: str = ""
    url: str = ""
    version: str = "1.0.0"
    published: str = ""
    collected: str = ""
    since: str = ""
    until: str = ""
    source: Literal[
        "", "public", "third-party", "own", "crawled", "users", "synthetic", "other"
    ] = ""
    languages: list[str] = Field(default_factory=list)
    sensitive: list[str] = Field(default_factory=list)
    biases: list[str] = Field(default_factory=list)
    limitations: list[str] = Field(default_factory=list)
    use_cases: list[str] = Field(default_factory=list)
    preprocessing: list[str] = Field(default_factory=list)
    legal_basis: str = ""
    access: str = ""
    reservations: str = ""
    illegal_content: str = ""
    processing_code: list[str] = Field(default_factory=list)
    open: _Open | None = None

    def faults(self) -> list[str]:
        """What is blank and must not be, and what has no right form; a line for each."""
        found = [f"{key} is blank" for key in _NEEDED if not _said(getattr(self, key))]
        if self.licence and not is_licence(self.licence) and not _is_url(self.licence):
            found.append("licence must be an SPDX expression or an address")
        if self.url and not _is_url(self.url):
            found.append("url must be an address: https://…")
        for key in ("published", "since", "until"):
            if (date := getattr(self, key)) and not _DATE.fullmatch(date):
                found.append(f"{key} must be a date, as 2026-03-31")
        if self.open is not None and not (self.open.address or self.open.files):
            found.append("open.address is blank")
        if self.open is not None and self.open.address and "{path}" not in self.open.address:
            found.append("open.address must have {path} in it")
        return found

    def told(self) -> Told:
        return Told(
            name=self.title,
            **{key: getattr(self, key) for key in Told.__dataclass_fields__ if key != "name"},
        )

    def prose(self) -> dict[str, str]:
        """What was written freely of the data, by key."""
        said = {key: getattr(self, key) for key in _PROSE}
        return {k: v if isinstance(v, str) else "\n".join(v) for k, v in said.items()}


_NEEDED = (
    "title",
    "description",
    "organisation",
    "licence",
    "url",
    "version",
    "collected",
    "source",
    "sensitive",
    "biases",
    "limitations",
    "use_cases",
    "preprocessing",
    "legal_basis",
)
_PROSE = (
    "title",
    "description",
    "organisation",
    "url",
    "version",
    "languages",
    "collected",
    "sensitive",
    "biases",
    "limitations",
    "use_cases",
    "preprocessing",
    "legal_basis",
    "access",
    "reservations",
    "illegal_content",
)


def _said(value: str | list[str]) -> bool:
    return bool(value.strip()) if isinstance(value, str) else bool(value) and all(map(_said, value))


def _is_url(text: str) -> bool:
    return re.fullmatch(r"https?://[^\s<>\"]+", text) is not None


def template(*, open_: bool) -> str:
    """A draft, with every question."""
    return _TEMPLATE + (_OPEN if open_ else "")


def draft(path: Path, *, open_: bool) -> None:
    """Write a draft, unless there is a file. Raises D104, D105."""
    with files.disk_errors(path):
        files.keep(path, template(open_=open_).encode())


def read(path: Path) -> Answers:
    """The answers in this file. Raises S102 for a file that is none, S103 where something is blank."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        answers = Answers.model_validate(tomllib.loads(data.decode()))
    except ValidationError as error:
        raise _unusable(path, _explained(error)) from None
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise _unusable(path, str(error)) from None
    if faults := answers.faults():
        raise BarnraiseError(
            "S103",
            f"{path} is not filled in",
            "\n".join(faults),
            "nothing was signed or sent",
            next=f"fill in {path}, then give the same command again",
        )
    return answers


def _explained(error: ValidationError) -> str:
    first = error.errors()[0]
    key = key_of(first["loc"])
    if first["type"] == "extra_forbidden":
        return f"there is no key {key}; the keys are {', '.join(Answers.model_fields)}"
    return f"{key}: {fault(first)}"


def _unusable(path: Path, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "S102", f"{path} cannot be used", evidence, "nothing was signed or sent", f"correct {path}"
    )
