"""The federation's own entries in the journal: who is a member, what was agreed on, which runs there were.

What they amount to (`Standing`) is a fold over the entries, kept up while entries are written. It knows
nothing of ports or of how members are asked.
"""

from __future__ import annotations

import datetime
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from barnraise.coordinator.authority import Authority
from barnraise.coordinator.journal import Journal
from barnraise.protocols.canonical import digest
from barnraise.protocols.entries import Entry

MEMBER, REVOKED, LEFT = "member", "revoked", "left"


def utc() -> str:
    """Now, as entries have it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class Known:
    """A member on record: `status` is "member", "revoked" or "left", since a moment (RFC 3339)."""

    name: str
    key: str
    organisation: str
    status: str
    since: str


@dataclass
class Adopted:
    """An agreement on record, and who signed it when (RFC 3339), in the sequence of signing."""

    agreement: str
    charter: str
    since: str
    signed: dict[str, str] = field(default_factory=dict)


@dataclass
class Standing:
    """What the entries amount to. `runs` maps a run's id to when it was opened; `closed` likewise; `data` a
    member to the digest of its last data statement, `stated` to how many it has made."""

    federation: str = ""
    log: str = ""
    members: dict[str, Known] = field(default_factory=dict)
    agreements: dict[str, Adopted] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    stated: Counter[str] = field(default_factory=Counter)

    def see(self, entry: Entry) -> None:
        """Take one more entry into account."""
        body = entry.body
        match entry.type:
            case "federation.founded":
                self.federation, self.log = body["federation"], body["log"]
            case "member.enrolled":
                self.members[body["member"]] = Known(
                    body["member"], body["key"], body["organisation"], MEMBER, entry.time
                )
                self.data.pop(body["member"], None)
            case "member.revoked" | "member.left":
                self._end(body, REVOKED if entry.type == "member.revoked" else LEFT, entry.time)
            case "charter.adopted":
                self.agreements.setdefault(
                    body["agreement"], Adopted(body["agreement"], body["charter"], entry.time)
                )
            case "charter.signed":
                self.agreements[body["agreement"]].signed.setdefault(body["member"], entry.time)
            case "data.stated":
                self.data[body["member"]] = body["document"]
                self.stated[body["member"]] += 1
            case "run.opened":
                self.runs[body["run"]] = entry.time
            case "run.closed":
                self.closed[body["run"]] = entry.time

    def _end(self, body: Mapping[str, Any], status: str, time: str) -> None:
        known = self.members.get(body["member"])
        if known is not None and known.key == body["key"]:
            known.status, known.since = status, time

    def active(self) -> dict[str, str]:
        """Name and key (hex) of everybody who is a member now, in canonical order."""
        return {n: m.key for n, m in sorted(self.members.items()) if m.status == MEMBER}


class Ledger:
    """May be used by any thread; `_lock` guards the standing."""

    def __init__(self, journal: Journal, clock: Callable[[], str] = utc) -> None:
        self._journal, self._clock = journal, clock
        self._lock = threading.RLock()
        self._standing = Standing()
        for _, entry in journal.entries():
            self._standing.see(entry)

    def read(self) -> Standing:
        """The standing of this moment; do not change it."""
        with self._lock:
            return self._standing

    def write(self, type_: str, body: Mapping[str, Any]) -> str:
        """Append an entry; returns its digest. Durable on return."""
        with self._lock:
            entry = Entry(type_, self._clock(), dict(body))
            data = entry.encode()
            self._journal.append([data])
            self._standing.see(entry)
            return digest(data)

    def found(self, name: str, authority: Authority) -> None:
        """`federation.founded`, once."""
        if not self._standing.federation:
            body = {"federation": name, "log": authority.vkey}
            self.write(
                "federation.founded",
                body | {"authority": digest(authority.certificate_der).removeprefix("sha256:")},
            )

    def catch_up(self, authority: Authority) -> None:
        """Put on record what the registry knows and the journal does not: a command was killed between."""
        with self._lock:
            for record in authority.records():
                key = record.identity_key.hex()
                known = self._standing.members.get(record.name)
                same = known is not None and known.key == key
                if record.confirmed and not record.revoked and not same:
                    self.enrolled(record.name, key, record.organisation)
                if record.revoked and same and known is not None and known.status == MEMBER:
                    self.revoked(record.name, "revoked")
                if same and known is not None and known.status == LEFT and not record.revoked:
                    authority.revoke(record.name)

    def enrolled(self, name: str, key: str, organisation: str) -> None:
        with self._lock:
            known = self._standing.members.get(name)
            if known is None or known.key != key or known.status != MEMBER:
                body = {"member": name, "key": key, "organisation": organisation}
                self.write("member.enrolled", body)

    def revoked(self, name: str, reason: str) -> None:
        with self._lock:
            known = self._standing.members.get(name)
            if known is not None and known.status == MEMBER:
                self.write("member.revoked", {"member": name, "key": known.key, "reason": reason})

    def left(self, name: str, statement: Mapping[str, Any]) -> None:
        with self._lock:
            known = self._standing.members[name]
            if known.status == MEMBER:
                body = {"member": name, "key": known.key, "statement": dict(statement)}
                self.write("member.left", body)

    def adopted(self, agreement: str, charter: str) -> None:
        with self._lock:
            if agreement not in self._standing.agreements:
                self.write("charter.adopted", {"agreement": agreement, "charter": charter})

    def signed(self, agreement: str, member: str, statement: Mapping[str, Any]) -> None:
        """A signature that was verified; a second one of the same member leaves no entry."""
        with self._lock:
            if member not in self._standing.agreements[agreement].signed:
                body = {"agreement": agreement, "member": member, "statement": dict(statement)}
                self.write("charter.signed", body)

    def stated(self, member: str, document: str, open_: bool, statement: Mapping[str, Any]) -> None:
        """A data statement that was verified; the one that stands leaves no entry again."""
        with self._lock:
            known = self._standing.members.get(member)
            if (
                known is None
                or known.status != MEMBER
                or self._standing.data.get(member) == document
            ):
                return
            body = {"member": member, "document": document, "open": open_}
            self.write("data.stated", body | {"statement": dict(statement)})
