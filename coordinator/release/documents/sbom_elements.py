"""The elements of an SPDX 3.0.1 document, made with SPDX's own library. Pure.

Each has a name within the document; its IRI is `base` and that name. What a name already has is not made
again, so that a licence that two packages have is one element.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any
from urllib.parse import quote

from barnraise.coordinator.release.documents.markup import plain
from barnraise.protocols.values import is_licence

ENUMERATED: Mapping[str, str] = {
    "ai_autonomyType": "PresenceType",
    "ai_useSensitivePersonalInformation": "PresenceType",
    "completeness": "RelationshipCompleteness",
    "dataset_confidentialityLevel": "dataset_ConfidentialityLevelType",
    "dataset_datasetAvailability": "dataset_DatasetAvailabilityType",
    "dataset_datasetType": "dataset_DatasetType",
    "dataset_hasSensitivePersonalInformation": "PresenceType",
    "profileConformance": "ProfileIdentifierType",
    "relationshipType": "RelationshipType",
    "software_primaryPurpose": "software_SoftwarePurpose",
    "software_sbomType": "software_SbomType",
}
"""Properties whose values SPDX lists, and the list's name."""


class Elements:
    """The objects of one document, all made by `creator` at `created` (RFC 3339) with `tool`."""

    def __init__(self, spdx: ModuleType, base: str, created: str, creator: str, tool: str) -> None:
        self._spdx, self._base = spdx, base
        self._made: dict[str, Any] = {}
        self._info = spdx.CreationInfo(
            created=moment(created),
            createdBy=[self.iri(creator)],
            createdUsing=[self.iri(tool)],
            specVersion="3.0.1",
        )

    def objects(self) -> list[Any]:
        """All there are, in the order in which they were made."""
        return [self._info, *self._made.values()]

    def names(self) -> list[str]:
        """The IRIs of all elements so far."""
        return list(self._made)

    def iri(self, name: str) -> str:
        return self._base + quote(name, "")

    def add(self, kind: str, name: str, /, **fields: Any) -> str:
        """Make an element, unless there is one of this name; returns its IRI. What is empty is left out."""
        iri = self.iri(name)
        if iri not in self._made:
            said = {
                key: self._value(key, v) for key, v in fields.items() if v not in (None, "", [], ())
            }
            self._made[iri] = getattr(self._spdx, kind)(spdxId=iri, creationInfo=self._info, **said)
        return iri

    def _value(self, key: str, value: Any) -> Any:
        if (listed := ENUMERATED.get(key)) is None:
            return value
        values = getattr(self._spdx, listed).NAMED_INDIVIDUALS
        return values[value] if isinstance(value, str) else [values[one] for one in value]

    def relate(self, kind: str, source: str, targets: list[str], /, **more: Any) -> None:
        """`source` is `kind` all of `targets`; nothing if there are none."""
        if targets:
            name = f"{kind}-{source.removeprefix(self._base)}"
            self.add("Relationship", name, from_=source, relationshipType=kind, to=targets, **more)

    def licensed(self, element: str, licence: str) -> None:
        """Declared and concluded: nobody looked further than the declaration."""
        for kind in ("hasDeclaredLicense", "hasConcludedLicense"):
            self.relate(kind, element, [licence])

    def licence(self, licence: str | None, whose: str) -> str:
        """The element of an SPDX expression, or of the terms that somebody gave instead."""
        kind, licence = "simplelicensing_LicenseExpression", licence or "NOASSERTION"
        if is_licence(licence):
            return self.add(kind, f"licence-{licence}", simplelicensing_licenseExpression=licence)
        terms = "simplelicensing_SimpleLicensingText"
        text = self.add(terms, f"terms-{whose}", simplelicensing_licenseText=plain(licence))
        named = f"LicenseRef-terms-{whose.encode().hex()}"
        return self.add(
            kind,
            f"licence-of-{whose}",
            simplelicensing_licenseExpression=named,
            simplelicensing_customIdToUri=[self._spdx.DictionaryEntry(key=named, value=text)],
        )

    def hash(self, digest: str) -> Any:
        """Of a SHA-256, as a digest or in hex."""
        value = digest.removeprefix("sha256:")
        listed = self._spdx.HashAlgorithm.NAMED_INDIVIDUALS
        return self._spdx.Hash(algorithm=listed["sha256"], hashValue=value)

    def entries(self, pairs: Iterable[tuple[str, Any]]) -> list[Any]:
        """A dictionary, in the order of its keys."""
        return [
            self._spdx.DictionaryEntry(key=plain(key, 100), value=plain(value, 400))
            for key, value in sorted(pairs, key=lambda pair: pair[0])
        ]


def moment(time: str) -> datetime:
    """A time as SPDX has it: UTC, in whole seconds."""
    return datetime.fromisoformat(time).astimezone(UTC).replace(microsecond=0)
