"""`trust.toml`: the keys and facts that whoever verifies demands, because they know them from elsewhere.

    [log]        key = "federation/log+…"              the log's verifier key
    [members]    basel = "<64 hex>" or "basel+…"       a member's identity key; it must have signed
    [witnesses]  quorum = 3, min_members = 4           how many must have cosigned; of how many members
    [release]    model = "sha256:…"                    the weights

Every key may be left out; one that does not exist is an error. Pure: text in, reasons out.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from barnraise.coordinator.verify.findings import Check
from barnraise.protocols import notes
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.identity import is_name
from barnraise.protocols.release import MODEL, Manifest

_KEYS = {"log": {"key"}, "witnesses": {"quorum", "min_members"}, "release": {"model"}}


class PolicyError(ValueError):
    """A text that is no trust policy. The message names the key."""


@dataclass(frozen=True)
class Policy:
    """`log` is a verifier key or "", `members` maps names to keys in hex, `model` is a digest or ""."""

    log: str = ""
    members: Mapping[str, str] = field(default_factory=dict)
    quorum: int = 0
    min_members: int = 0
    model: str = ""

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Strict; raises `PolicyError`."""
        try:
            table = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise PolicyError(f"it is not TOML: {error}") from None
        _check_keys(table)
        log, members = table.get("log", {}), table.get("members", {})
        witnesses, release = table.get("witnesses", {}), table.get("release", {})
        return cls(
            _log_key(log.get("key")),
            {name: _member_key(name, key) for name, key in members.items()},
            _count("witnesses.quorum", witnesses.get("quorum", 0)),
            _count("witnesses.min_members", witnesses.get("min_members", 0)),
            _model(release.get("model")),
        )

    @property
    def pins_keys(self) -> bool:
        return bool(self.log or self.members)


def _check_keys(table: Mapping[str, Any]) -> None:
    for name, part in table.items():
        if name not in (*_KEYS, "members"):
            raise PolicyError(
                f"[{name}] does not exist; there are {', '.join((*_KEYS, 'members'))}"
            )
        if not isinstance(part, dict):
            raise PolicyError(f"{name} is no table: write [{name}]")
        if name in _KEYS and (unknown := sorted(set(part) - _KEYS[name])):
            known = ", ".join(sorted(_KEYS[name]))
            raise PolicyError(f"{name}.{unknown[0]} does not exist; there is {known}")


def _log_key(value: Any) -> str:
    if value is None:
        return ""
    try:
        notes.parse_verifier_key(_text(value))
    except ValueError as error:
        raise PolicyError(f"log.key is {error}") from None
    return str(value)


def _member_key(name: str, value: Any) -> str:
    """The key in hex, of hex or of the verifier key with which the member cosigns."""
    try:
        if not is_name(name):
            raise ValueError("no member's name")
        if "+" not in _text(value):
            if not re.fullmatch("[0-9a-f]{64}", value):
                raise ValueError("not 64 hex digits in lower case")
            return str(value)
        whose, key = notes.parse_cosigner_key(value)
        if whose != name:
            raise ValueError(f"the key of {whose}")
    except ValueError as error:
        raise PolicyError(f"members.{name} is {error}") from None
    return key.hex()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    return value


def _count(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise PolicyError(f"{name} is not a number of members")
    return value


def _model(value: Any) -> str:
    if value is not None and not is_digest(value):
        raise PolicyError("release.model is no digest: sha256: and 64 hex digits")
    return value or ""


# --- a release under a policy ---------------------------------------------------------------------


def check_pins(
    policy: Policy | None, manifest: Manifest, members: Mapping[str, str], signed: set[str]
) -> Check:
    """`members` are those whose keys bind this release (name → hex), `signed` who signed its agreement."""
    check = Check("keys", "V106", [f"the log's key is {manifest.log}"])
    for name, key in sorted(members.items()):
        check.saw(f"the key of {name} is {key}")
    if policy is None:
        check.saw("nothing was pinned: compare these keys with what you know from elsewhere")
        return check
    if policy.log and policy.log != manifest.log:
        check.wrong("log.key", f"the release is of the log {manifest.log}, pinned is {policy.log}")
    if policy.model and policy.model != manifest.model:
        check.wrong(MODEL, f"the weights are {manifest.model}, pinned are {policy.model}")
    if len(members) < policy.min_members:
        why = f"the release has {len(members)}, the policy demands {policy.min_members}"
        check.wrong("witnesses.min_members", why)
    for name, key in sorted(policy.members.items()):
        if (held := members.get(name)) is None:
            check.wrong(f"members.{name}", f"{name} is pinned, and no member of this release")
        elif held != key:
            check.wrong(f"members.{name}", f"{name} has the key {held}, pinned is {key}")
        elif name not in signed:
            check.wrong(f"members.{name}", f"{name} is pinned, and has not signed the agreement")
    check.saw(_pinned(policy, members))
    return check


def _pinned(policy: Policy, members: Mapping[str, str]) -> str:
    if not policy.pins_keys:
        return "the policy pins no key: compare these keys with what you know from elsewhere"
    log = "the log's key" if policy.log else "not the log's key"
    return f"pinned: {log}, {len(policy.members)} of {len(members)} members' keys"
