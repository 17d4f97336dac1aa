"""What the documents of a release are made of. Values only; `gather` finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from barnraise.protocols.agreements import Agreement
from barnraise.protocols.charter import Charter, ReleaseSection
from barnraise.protocols.identity import SIMULATED
from barnraise.protocols.telling import RoundTold

SIMULATION = (
    "This run was a simulation: one person stood for all members, on one machine, with data that was all in "
    "one place."
)


@dataclass(frozen=True)
class DataFacts:
    """What a member states of its data: the Croissant document, its digest, and whether the data are open."""

    digest: str
    open: bool
    document: Mapping[str, Any]


@dataclass(frozen=True)
class MemberFacts:
    """`key` is hex, `node_id` Flower's, in digits. `steps` and `examples` are the optimizer steps and the
    training examples that it reported in accepted train replies, 0 where nothing is known; `seconds` from
    its train orders to their verdicts, summed."""

    name: str
    organisation: str
    key: str
    node_id: str
    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    data: DataFacts | None = None


@dataclass(frozen=True)
class Facts:
    """`charter` is None for a Flower app, `agreement` where nothing was agreed on. `name` is the charter's
    or the app's, `signed` who signed. `opened` is `run.opened`'s body; times are RFC 3339. `tensors` are
    (name, dtype, shape) of the model. `sent` maps a round to the bytes that its orders carried, where they
    are known. `code` maps paths below `code/app/` to SHA-256 in hex. `comparison` is together against
    alone, in the shape of the demo's `metrics.json`. `clause` is the command that verifies."""

    federation: str
    log: str
    run: str
    name: str
    charter: Charter | None
    charter_text: str
    terms: ReleaseSection
    licence: str | None
    agreement: Agreement | None
    signed: tuple[str, ...]
    members: tuple[MemberFacts, ...]
    opened: Mapping[str, Any]
    opened_at: str
    closed_at: str
    model: str
    model_bytes: int
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    parameters: int
    rounds: tuple[RoundTold, ...]
    sent: Mapping[int, int]
    final: Mapping[str, Any]
    contributions: str
    code: Mapping[str, str]
    versions: Mapping[str, str]
    comparison: Mapping[str, Any] | None = None
    clause: str = "barnraise verify DIR"

    @property
    def simulated(self) -> bool:
        """Whether one person stood for all members, on one machine."""
        return self.federation == SIMULATED

    @property
    def title(self) -> str:
        return self.terms.title or self.name
