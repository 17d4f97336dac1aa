"""What a log's entries say of one run, and of the federation around it. Pure: good entries in, facts out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barnraise.protocols.entries import Entry

_NOTHING: Mapping[str, Any] = {}


class Story:
    """Give it every entry that the rules found good, with its whole body, in order.

    `contents` are the digests that the run ordered, accepted and sealed, `models` what it sealed as models,
    in order. As of when the run was closed, `data` maps a member to its last `data.stated`,
    `organisations` to what it was enrolled as, `signed` to its statement under the run's agreement.
    `published` maps the manifests that the log names for this run to the body that does. `needed` is what
    entries cannot be read without.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.signed: Mapping[str, Any] = {}
        self.organisations: Mapping[str, str] = {}
        self.opened: Mapping[str, Any] = _NOTHING
        self.closed: Mapping[str, Any] = _NOTHING
        self.contents: set[str] = set()
        self.models: list[str] = []
        self.data: Mapping[str, Mapping[str, Any]] = {}
        self.published: dict[str, Mapping[str, Any]] = {}
        self.needed: set[str] = set()
        self._enrolled: dict[str, str] = {}
        self._signed: dict[str, dict[str, Any]] = {}
        self._stated: dict[str, Mapping[str, Any]] = {}

    @property
    def members(self) -> dict[str, str]:
        """The members of the run: name → key in hex."""
        return dict(self.opened.get("members", ()))

    @property
    def agreement(self) -> str:
        """The digest of the agreement that the run was opened under, or ""."""
        return str(self.opened.get("agreement", ""))

    def see(self, entry: Entry, body_blob: str = "") -> None:
        """Take the next entry into account; `body_blob` is the digest by which its body was named, or ""."""
        if body_blob:
            self.needed.add(body_blob)
        body = entry.body
        match entry.type:
            case "charter.adopted":
                self.needed |= {body["agreement"], body["charter"]}
            case "charter.signed":
                signed = self._signed.setdefault(body["agreement"], {})
                signed[body["member"]] = body["statement"]
            case "member.enrolled":
                self._enrolled[body["member"]] = body["organisation"]
                self._stated.pop(body["member"], None)
            case "data.stated":
                self._stated[body["member"]] = body
            case _ if body.get("run") == self.run:
                self._of_run(entry.type, body)

    def _of_run(self, type_: str, body: Mapping[str, Any]) -> None:
        match type_:
            case "run.opened":
                self.opened = body
            case "batch.sent":
                self.contents |= {group["content"] for group in body["orders"]}
            case "batch.closed":
                self.contents |= set(body["accepted"].values())
            case "round.sealed":
                self.contents.add(body["content"])
                self.models.append(body["model"])
            case "run.closed":
                members = self.members
                self.closed, self.organisations = body, dict(self._enrolled)
                self.signed = dict(self._signed.get(self.agreement, {}))
                self.data = {m: held for m, held in self._stated.items() if m in members}
            case "release.published":
                self.published[body["manifest"]] = body
