"""A charter's values: what is wrong with one, in plain words, and what an SPDX expression looks like.

Pydantic finds what is wrong; its own messages are for programmers, and it quotes whatever it was given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LONGEST = 60  # characters of a value or key that a message repeats

_WORDS = {
    "string_type": "it must be a string",
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "int_parsing_size": "it must be a whole number",
    "float_type": "it must be a number",
    "finite_number": "it must be a finite number",
    "bool_type": "it must be true or false",
    "list_type": "it must be an array",
    "tuple_type": "it must be an array",
    "dict_type": "it must be a table",
    "model_type": "it must be a table",
    "greater_than": "it must be more than {gt}",
    "greater_than_equal": "it must be {ge} or more",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be {le} or less",
    "literal_error": "it must be {expected}",
    "too_long": "it must have {max_length} values at most, and has {actual_length}",
    "too_short": "it must have {min_length} values at least, and has {actual_length}",
}
_OPERATORS = ("AND", "OR", "WITH")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*\+?")


def fault(error: Mapping[str, Any]) -> str:
    """What is wrong, from one of `ValidationError.errors()`, and what the value is."""
    context = error.get("ctx") or {}
    words = _WORDS.get(error["type"])
    said = words.format(**context) if words else error["msg"].removeprefix("Value error, ")
    quiet = error["type"] in ("missing", "extra_forbidden") or isinstance(error["input"], dict)
    return said if quiet else f"{said}; it is {shortened(error['input'])}"


def key_of(path: tuple[int | str, ...]) -> str:
    """The key at a `loc` as a person writes it; a place within an array is the array's key."""
    return cut(".".join(str(part) for part in path if isinstance(part, str)))


def shortened(value: object) -> str:
    """The value as it was written, but no page of it."""
    return cut(repr(list(value) if isinstance(value, tuple) else value))


def cut(text: str) -> str:
    """The text's beginning, if it is long."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"


def is_licence(text: str) -> bool:
    """Whether the text has the form of an SPDX licence expression (SPDX 2.3, annex D).

    Identifiers joined by AND, OR and WITH, with parentheses. Which identifiers there are is for SPDX's
    list to say.
    """
    depth, wanted = 0, True
    for token in re.findall(r"[()]|[^\s()]+", text):
        if wanted and token == "(":
            depth += 1
        elif wanted:
            if token in _OPERATORS or not _IDENTIFIER.fullmatch(token):
                return False
            wanted = False
        elif token == ")" and depth > 0:
            depth -= 1
        elif token in _OPERATORS:
            wanted = True
        else:
            return False
    return depth == 0 and not wanted
