"""The documents of a release: each a pure function of the facts, the same bytes for the same facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from barnraise.coordinator.release.documents.card import card
from barnraise.coordinator.release.documents.eu import eu_summary
from barnraise.coordinator.release.documents.mof import mof
from barnraise.coordinator.release.documents.report import report
from barnraise.coordinator.release.documents.sbom import sbom
from barnraise.coordinator.release.facts import Facts

Document = Callable[[Facts], Mapping[str, bytes]]
"""Files by their path in the release."""

DOCUMENTS: tuple[Document, ...] = (card, report, sbom, mof, eu_summary)
