"""A plan held against the run that a directory has on record.

What differs is told by key: D101 where a command asks for another run, D106 where the plan was made from
what the directory itself keeps, which is then damaged.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import damaged

_LONG = 60  # letters of a value that are shown
Difference = tuple[str, Any, Any]
"""A key, what is recorded under it, what stands there now."""


def hold(
    recorded: Mapping[str, Any],
    now: Mapping[str, Any],
    root: Path,
    seeds: tuple[object, object],
    *,
    again: bool,
) -> None:
    """Raise D101 (with `again` D106) unless both `run.opened` bodies are of one run.

    `seeds` are the numbers behind the two commitments, as far as they are known.
    """
    found = [
        f"{key}: the directory has {_short(held)}, {'now' if again else 'this command'} {_short(new)}"
        for key, held, new in _differences(recorded, now, seeds)
    ]
    if recorded["seed"] == now["seed"]:
        others = _others(recorded.get("data", {}), now.get("data", {}))
        found += [f"data of {member}: not those with which the run began" for member in others]
    if not found:
        return
    if again:
        raise damaged(f"{root} does not keep what its run was started with", "\n".join(found))
    raise BarnraiseError(
        "D101",
        f"{root} belongs to another run",
        "\n".join(found),
        next="give another --dir, or the app, options and data with which this one was started",
    )


def _differences(
    recorded: Mapping[str, Any], now: Mapping[str, Any], seeds: tuple[object, object]
) -> Iterator[Difference]:
    config = list(_of_config(json.loads(recorded["config"]), json.loads(now["config"])))
    charter = any(key.startswith("charter") for key, _, _ in config)
    same_name = recorded["app"]["name"] == now["app"]["name"]
    if recorded["app"] != now["app"] and not (charter and same_name):
        yield "app", _app(recorded), _app(now)
    yield from config
    if (names := _names(recorded)) != _names(now):
        yield "members", _listed(names), _listed(_names(now))
    if recorded["policy"] != now["policy"] and not charter:
        yield from _of_keys("rounds.", recorded["policy"], now["policy"])
    if recorded["seed"] != now["seed"]:
        known = None not in seeds and seeds[0] != seeds[1]
        held, new = seeds if known else ("another", "one that does not fit")
        yield "seed", held, new


def _of_config(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """By key; a charter's text by the charter's own keys."""
    for key, held, new in _of_keys("", recorded, now):
        if key == "charter" and isinstance(held, str) and isinstance(new, str):
            found = list(_of_keys("charter: ", _flat(held), _flat(new)))
            yield from found or [("charter", "other comments or spacing", "none of a key")]
        else:
            yield f"config {key}", held, new


def _of_keys(
    prefix: str, recorded: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[Difference]:
    for key in sorted(recorded.keys() | now.keys()):
        if (held := recorded.get(key)) != (new := now.get(key)):
            yield prefix + key, held, new


def _others(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Whose data are others. A plan that knows no data, as a replay's, is not held to any."""
    return [m for m in sorted(recorded.keys() & now.keys()) if recorded[m] != now[m]]


def _flat(text: str) -> dict[str, Any]:
    """A charter's keys in full; nothing for a text that is not TOML."""
    found: dict[str, Any] = {}

    def walk(prefix: str, table: Mapping[str, Any]) -> None:
        for key, value in table.items():
            if isinstance(value, dict):
                walk(f"{prefix}{key}.", value)
            else:
                found[prefix + key] = value

    try:
        walk("", tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        return {}
    return found


def _app(body: Mapping[str, Any]) -> str:
    return f"{body['app']['name']} {body['app']['digest']}"


def _names(body: Mapping[str, Any]) -> list[str]:
    return [name for name, _ in body["members"]]


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} members ({', '.join(names[:8])}{', …' if len(names) > 8 else ''})"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value)
    room = 2 * _LONG if text.count(" sha256:") else _LONG
    return text if len(text) <= room else f"{text[: room - 1]}…"
