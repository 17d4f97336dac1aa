"""What a member states of its data, read from its Croissant document for documents of other formats. Pure.

The documents' fields were checked when they were signed (`protocols.croissant`); this reads whatever is
there and takes nothing for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barnraise.coordinator.release.documents.licences import spdx
from barnraise.coordinator.release.facts import DataFacts, MemberFacts


class Stated:
    """One member's statement. Every text is "" and every count None where the document says nothing."""

    def __init__(self, member: MemberFacts, data: DataFacts) -> None:
        self.member, self.digest, self.open = member.name, data.digest, data.open
        self._document: Mapping[str, Any] = data.document

    @property
    def name(self) -> str:
        return self.text("name") or self.member

    @property
    def licence(self) -> str:
        """As the member wrote it: an SPDX expression, or the address of its terms."""
        return self.text("license")

    @property
    def spdx(self) -> str | None:
        """The licence as an SPDX expression, where it is one."""
        return spdx(self.licence) if self.licence else None

    @property
    def records(self) -> int | None:
        return self._count("fed:recordCount")

    @property
    def bytes(self) -> int | None:
        return self._count("fed:byteCount")

    @property
    def sensitive(self) -> bool | None:
        """Whether the data hold sensitive personal information; None where the member does not say."""
        said = self._document.get("rai:personalSensitiveInformation")
        if said is None:
            return None
        words = [word.strip().lower() for word in self.texts("rai:personalSensitiveInformation")]
        return bool(words) and not all(word in ("", "none", "no") for word in words)

    @property
    def files(self) -> tuple[Mapping[str, Any], ...]:
        """The files of open data."""
        found = self._document.get("distribution")
        if not isinstance(found, list):
            return ()
        return tuple(one for one in found if isinstance(one, dict))

    def text(self, field: str) -> str:
        """The field as one text; several are joined."""
        return "; ".join(self.texts(field))

    def texts(self, field: str) -> tuple[str, ...]:
        """The field's texts, of one or of a list; the language map of a text counts as its values."""
        return tuple(_texts(self._document.get(field)))

    def _count(self, field: str) -> int | None:
        found = self._document.get(field)
        return found if type(found) is int and found >= 0 else None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value) if not key.startswith("@")]
    return [text for one in value for text in _texts(one)] if isinstance(value, list) else []


def stated(members: tuple[MemberFacts, ...]) -> tuple[Stated, ...]:
    """The statements that there are, in canonical order."""
    return tuple(Stated(one, one.data) for one in members if one.data is not None)


def data_are_open(members: tuple[MemberFacts, ...]) -> bool:
    """Whether every member's data are open, by its own statement."""
    return bool(members) and all(one.data is not None and one.data.open for one in members)
