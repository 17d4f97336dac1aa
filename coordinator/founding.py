"""What stands in a simulation's log before its run: its federation, its members, what they agreed on, and
what they state of their data.

In a simulation whoever starts it stands for all members, so all sign at once, with keys that follow from
the seed; so does the log's own key. It knows neither where members are nor what they run on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.coordinator.local import LocalMember
from barnraise.protocols import notes, statements, stating
from barnraise.protocols.agreements import Agreement
from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.canonical import digest
from barnraise.protocols.croissant import Statement
from barnraise.protocols.invite import log_name
from barnraise.protocols.randomness import derive

Fact = tuple[str, Mapping[str, Any]]


def simulated_log_key(secret: bytes) -> Ed25519PrivateKey:
    """The key of a simulated federation's log; follows from the seed."""
    return Ed25519PrivateKey.from_private_bytes(derive(secret, "log"))


@dataclass(frozen=True)
class Stating:
    """What a member states of its data, and the processing code of open data."""

    statement: Statement
    code: Mapping[str, bytes]


@dataclass(frozen=True)
class Founding:
    """A simulated federation. `app` is the code's digest; `charter` is None for an app that has none.
    `data` is what members state, by name."""

    federation: str
    secret: bytes
    members: Sequence[LocalMember]
    app: str
    charter: str | None
    data: Mapping[str, Stating] = field(default_factory=dict)

    @cached_property
    def log(self) -> str:
        """The verifier key of its log."""
        public = simulated_log_key(self.secret).public_key().public_bytes_raw()
        return notes.verifier_key(log_name(self.federation), public)

    @cached_property
    def agreement(self) -> Agreement | None:
        """What all members sign."""
        if self.charter is None:
            return None
        return Agreement(
            self.federation,
            self.log,
            digest(self.charter.encode()),
            self.app,
            {m.member.name: m.member.public_key.hex() for m in self._members},
            len(self.members),
        )

    @property
    def agreed(self) -> str:
        """The agreement's digest, or nothing."""
        return self.agreement.digest if self.agreement is not None else ""

    @property
    def _members(self) -> list[LocalMember]:
        return sorted(self.members, key=lambda m: m.member)

    def keep(self, blobs: BlobStore) -> None:
        """Put what the entries name into the store, durably."""
        if self.agreement is not None and self.charter is not None:
            blobs.put([self.charter.encode()])
            blobs.put([self.agreement.encode()])
        for one in self.data.values():
            blobs.put([one.statement.data])
            for data in one.code.values():
                blobs.put([data])
        blobs.sync()

    def facts(self) -> list[Fact]:
        """The entries' types and bodies, in canonical order of members."""
        body = {"federation": self.federation, "log": self.log, "authority": ""}
        return [
            ("federation.founded", body),
            *map(_enrolled, self._members),
            *self._agreed(),
            *self._stated(),
        ]

    def _stated(self) -> list[Fact]:
        found = [(member, self.data.get(member.member.name)) for member in self._members]
        return [_stated(self.federation, m, one.statement) for m, one in found if one is not None]

    def _agreed(self) -> list[Fact]:
        if (agreement := self.agreement) is None:
            return []
        named = {"agreement": agreement.digest, "charter": agreement.charter}
        payload = agreement.payload()
        return [
            ("charter.adopted", named),
            *(_signed(member, payload, agreement.digest) for member in self._members),
        ]


def _enrolled(member: LocalMember) -> Fact:
    who = member.member
    body = {"member": who.name, "key": who.public_key.hex(), "organisation": ""}
    return "member.enrolled", body


def _signed(member: LocalMember, payload: Mapping[str, str], agreement: str) -> Fact:
    name = member.member.name
    statement = statements.sign(member.key, name, "charter", payload)
    return "charter.signed", {"agreement": agreement, "member": name, "statement": statement}


def _stated(federation: str, member: LocalMember, statement: Statement) -> Fact:
    name = member.member.name
    payload = stating.payload(federation, name, statement)
    signed = statements.sign(member.key, name, "data", payload)
    body = {"member": name, "document": statement.digest, "open": statement.open}
    return "data.stated", body | {"statement": signed}
