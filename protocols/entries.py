"""Journal entries: canonical JSON, `{"type", "time", "body"}`, at most 65,535 bytes.

Tensors never enter the log; their digests do. What is larger than an entry is a blob named by digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from barnraise.protocols import canonical

MAX_ENTRY = 65_535
TYPES = frozenset(
    {
        "federation.founded",
        "charter.adopted",
        "charter.signed",
        "member.enrolled",
        "member.revoked",
        "member.left",
        "data.stated",
        "run.opened",
        "roster.seen",
        "batch.sent",
        "batch.pulled",
        "reply.accepted",
        "reply.refused",
        "reply.late",
        "batch.closed",
        "round.sealed",
        "run.closed",
        "release.published",
    }
)


class EntryError(ValueError):
    """Bytes that are no journal entry, or a body that none can hold."""


class TooLarge(EntryError):
    """A body that is too large for an entry; it belongs into a blob."""


@dataclass(frozen=True)
class Entry:
    """`Entry.decode(e.encode()) == e`. `time` is RFC 3339 in UTC; nothing is ever decided by it."""

    type: str
    time: str
    body: dict[str, Any]

    def encode(self) -> bytes:
        if self.type not in TYPES:
            raise EntryError(f"unknown type of entry {self.type!r}")
        try:
            data = canonical.canonical({"type": self.type, "time": self.time, "body": self.body})
        except canonical.NotCanonical as error:
            raise EntryError(str(error)) from None
        if len(data) > MAX_ENTRY:
            raise TooLarge(f"an entry of {len(data)} bytes; the limit is {MAX_ENTRY}")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        if len(data) > MAX_ENTRY:
            raise EntryError(f"an entry of {len(data)} bytes; the limit is {MAX_ENTRY}")
        try:
            value = canonical.parse(data)
        except canonical.NotCanonical as error:
            raise EntryError(str(error)) from None
        if not isinstance(value, dict) or set(value) != {"type", "time", "body"}:
            raise EntryError("an entry has other fields than type, time and body")
        if not isinstance(value["type"], str) or value["type"] not in TYPES:
            raise EntryError(f"unknown type of entry {value['type']!r}")
        if not isinstance(value["time"], str):
            raise EntryError("an entry's time is not text")
        if not isinstance(value["body"], dict):
            raise EntryError("an entry's body is not an object")
        return cls(value["type"], value["time"], value["body"])
