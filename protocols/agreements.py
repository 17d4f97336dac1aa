"""What members sign before a run opens: an agreement, and the charter text that it names.

An agreement binds the federation and its log, the charter's text, the app's code, the members with their
keys, and how many of them must sign. Its canonical JSON's digest is what a member signs (DSSE, kind
"charter"). Everything that a node needs to run the app follows from what was signed: `Work.of`.

A charter text is either a charter (`protocols.charter`), for the built-in app, or, with an `[app]` table,
what a Flower app runs with: its name, its ClientApp, its rounds and its whole configuration.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from barnraise.protocols import canonical, statements
from barnraise.protocols.apps import BUILT_IN
from barnraise.protocols.charter import NO_TERMS, Charter, ReleaseSection, terms
from barnraise.protocols.identity import Member, is_name

Value = bool | int | float | str
MAX_AGREEMENT = 1 << 20
"""Bytes of the longest agreement that is read."""


class AgreementError(ValueError):
    """An agreement, or the text of a charter, that is not what it should be."""


@dataclass(frozen=True)
class Agreement:
    """`Agreement.decode(a.encode()) == a`. `charter` and `app` are digests, `members` maps names to keys
    (hex of the raw Ed25519 key), `log` is the log's verifier key, `quorum` how many members must sign."""

    federation: str
    log: str
    charter: str
    app: str
    members: Mapping[str, str]
    quorum: int

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical.canonical(asdict(self) | {"members": dict(self.members)})

    @property
    def digest(self) -> str:
        """What names the agreement, and what members sign."""
        return canonical.digest(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Agreement:
        """Strict: exactly what `encode` writes. Raises `AgreementError`."""
        if len(data) > MAX_AGREEMENT:
            raise AgreementError(f"an agreement of {len(data)} bytes")
        try:
            value = canonical.parse(data)
        except canonical.NotCanonical as error:
            raise AgreementError(str(error)) from None
        if not isinstance(value, dict) or set(value) != set(cls.__dataclass_fields__):
            raise AgreementError("an agreement has exactly the fields that DESIGN names")
        _check(value)
        return cls(**value)

    def member(self, name: str) -> Member:
        """The member of this name, with its key; `AgreementError` if the agreement has none."""
        if (key := self.members.get(name)) is None:
            raise AgreementError(f"{name} is no member of this agreement")
        return Member(name, bytes.fromhex(key))

    def payload(self) -> dict[str, str]:
        """What a member signs, as DSSE kind "charter"."""
        return {"federation": self.federation, "agreement": self.digest}

    def check_signature(self, name: str, statement: Any) -> None:
        """`AgreementError` unless the statement is this member's signature under this agreement."""
        member = self.member(name)
        try:
            payload = statements.verify(member.public_key, name, "charter", statement)
        except statements.StatementError as error:
            raise AgreementError(str(error)) from None
        if payload != self.payload():
            raise AgreementError("it signs another agreement")


def _check(value: Mapping[str, Any]) -> None:
    for name in ("federation", "log", "charter", "app"):
        if not isinstance(value[name], str):
            raise AgreementError(f"{name} is not text")
    for name in ("charter", "app"):
        if not canonical.is_digest(value[name]):
            raise AgreementError(f"{name} is no digest")
    members, quorum = value["members"], value["quorum"]
    if not isinstance(members, dict) or not members:
        raise AgreementError("it has no members")
    for name, key in members.items():
        if not is_name(name) or not _is_key(key):
            raise AgreementError(f"{name!r} is no member with a key")
    if not isinstance(quorum, int) or isinstance(quorum, bool):
        raise AgreementError("its quorum is no number")
    if not 0 < quorum <= len(members):
        raise AgreementError(f"its quorum is {quorum} of {len(members)} members")


def _is_key(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) == 64 and bytes.fromhex(value).hex() == value
    except ValueError:
        return False


# --- the charter's text --------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What a charter text has a node run: `component` is "builtin", or `module:object` of a ClientApp.

    `quorum`, `grace` and `deadline` are those of the charter's `[rounds]`, `release` its `[release]`.
    """

    name: str
    component: str
    config: Mapping[str, Value]
    quorum: int | None = None
    grace: float | None = None
    deadline: float | None = None
    release: ReleaseSection = NO_TERMS

    @classmethod
    def of(cls, text: str) -> Work:
        """Raises C102 to C104 for a text that is no charter, `AgreementError` for a wrong `[app]`."""
        try:
            table = tomllib.loads(text)
        except (ValueError, RecursionError):
            table = {}
        if "app" in table:
            return _of_app(table)
        charter = Charter.parse(text)
        rounds = charter.rounds
        config = {"charter": text}
        return cls(
            charter.name,
            BUILT_IN,
            config,
            rounds.quorum,
            rounds.grace,
            rounds.deadline,
            charter.release,
        )

    def text(self) -> str:
        """The charter text of a Flower app; `Work.of(w.text()) == w`."""
        rounds = {"quorum": self.quorum, "grace": self.grace, "deadline": self.deadline}
        lines = [
            "# What a Flower app runs with. Its code is named by the agreement's app digest.",
            *_table("app", {"name": self.name, "component": self.component}),
            *_table("rounds", {k: v for k, v in rounds.items() if v is not None}),
            *_table("config", self.config),
            *(_table("release", said) if (said := _said(self.release)) else []),
        ]
        return "\n".join(lines) + "\n"


def _said(terms: ReleaseSection) -> dict[str, Any]:
    """What a release's terms say besides the defaults."""
    return {k: v for k, v in terms.model_dump().items() if v is not None and v != ()}


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    return ["", f"[{name}]", *(f"{_toml(key)} = {_toml(value)}" for key, value in values.items())]


def _toml(value: Any) -> str:
    """TOML's basic strings are JSON's, but for DEL, which TOML wants escaped too."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _of_app(table: Mapping[str, Any]) -> Work:
    parts = {name: table.get(name, {}) for name in ("app", "rounds", "config", "release")}
    if set(table) - set(parts) or not all(isinstance(part, dict) for part in parts.values()):
        tables = "[app], [rounds], [config] and [release]"
        raise AgreementError(f"it must have the tables {tables}, and no other")
    app, rounds, config, release = parts.values()
    if set(app) != {"name", "component"} or not all(isinstance(v, str) for v in app.values()):
        raise AgreementError("[app] must have exactly name and component")
    if app["component"] == BUILT_IN:
        raise AgreementError("[app] names the built-in app, which a charter describes")
    if not all(isinstance(value, bool | int | float | str) for value in config.values()):
        raise AgreementError("[config] has a value that is no text, number or truth value")
    quorum, limits = rounds.get("quorum"), [rounds.get("grace"), rounds.get("deadline")]
    if set(rounds) - {"quorum", "grace", "deadline"} or not (
        quorum is None or (type(quorum) is int and quorum > 0)
    ):
        raise AgreementError("[rounds] has a wrong key, or a wrong quorum")
    if not all(v is None or (type(v) in (int, float) and v > 0) for v in limits):
        raise AgreementError("[rounds] grace and deadline are positive numbers of seconds")
    grace, deadline = limits
    said = terms(release)
    return Work(app["name"], app["component"], config, quorum, grace, deadline, said)
