"""What a command and the process that holds a directory say to each other: JSON in `control.proto`.

A question is `{"verb": …}` with its arguments; an answer is `{"ok": true, …}`, or a `BarnraiseError` as its
`as_dict` has it, with `"ok": false`. Pure: the socket is the business of whoever serves or asks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from barnraise.protocols.errors import CODES, BarnraiseError

SOCKET = {"serve": "serve.sock", "node": "node.sock"}
"""The socket's name in the directory of a federation, and of a node."""
Answer = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""(verb, arguments) → the result."""


def written(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def answered(result: Mapping[str, Any]) -> bytes:
    """A result as an answer."""
    return written({"ok": True, **result})


def failed(error: BarnraiseError) -> bytes:
    """An error as an answer."""
    return written({"ok": False, **error.as_dict()})


def question(data: bytes) -> tuple[str, dict[str, Any]]:
    """The verb and its arguments; `ValueError` for what is no question."""
    value = json.loads(data)
    if not isinstance(value, dict) or not isinstance(value.get("verb"), str):
        raise ValueError("a question is an object with a verb")
    return value.pop("verb"), value


def replied(data: bytes, answer: Answer) -> bytes:
    """What `answer` gives to the question in `data`, or why there is none, as an answer."""
    try:
        verb, given = question(data)
        return answered(answer(verb, given))
    except BarnraiseError as error:
        return failed(error)
    except (ValueError, TypeError) as error:
        return failed(BarnraiseError("X102", "the question makes no sense", str(error)))


def answer(data: bytes) -> dict[str, Any]:
    """The result in an answer; raises the `BarnraiseError` that it holds instead."""
    value: dict[str, Any] = json.loads(data)
    if value.get("ok"):
        return value
    code = value.get("error", "X101")
    raise BarnraiseError(
        code if code in CODES else "X101",
        value.get("what", "it failed"),
        value.get("evidence", ""),
        value.get("changed", ""),
        value.get("next", ""),
    )
