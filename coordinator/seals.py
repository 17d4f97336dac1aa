"""The engine's recorder: seals in the journal, and the way back to the last one.

A seal is an operation like a batch: replayed, it must be the same seal; live, it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from barnraise.coordinator import events
from barnraise.coordinator.intake import Demands, Weight
from barnraise.coordinator.recorder import Seal
from barnraise.protocols import flower
from barnraise.protocols.content import Arrays, Envelope
from barnraise.protocols.randomness import derive

if TYPE_CHECKING:
    from barnraise.coordinator.grid import DurableGrid

MODEL, STATE = "model", "state/"


@dataclass(frozen=True)
class Final:
    """What a run amounts to. `model` is the SHA-256 of the final safetensors file."""

    model: str
    report: Mapping[str, Any]


class EngineRecorder:
    """`recorder(grid)` of a DurableGrid. `secret` is the server's share of the run seed.

    `resumable` is False where the whole app is to run again, as in `sim replay`.
    """

    def __init__(self, grid: DurableGrid, secret: bytes, *, resumable: bool) -> None:
        self._grid, self._secret, self._resumable = grid, secret, resumable
        self.final: Final | None = None

    def resume(self) -> Seal | None:
        """The last seal on record; the replay goes on behind it, in constant time."""
        if not self._resumable or (found := self._grid.last_seal()) is None:
            return None
        index, body = found
        self._grid.jump(index, body)
        seal = self._seal_of(body)
        self._reseed(seal.round)
        return seal

    def rule(self, strategy: Strategy) -> None:
        """What this strategy demands of train replies: the weight that it names, and how they are coded."""
        self._grid.demands = Demands(weight_of(strategy), getattr(strategy, "intake_codec", None))

    def seed(self, label: str) -> int:
        return int.from_bytes(derive(self._secret, "seed", label)[:8], "big") >> 1

    def seal(
        self, round: int, model: ArrayRecord, state: RecordDict, report: Mapping[str, Any]
    ) -> None:
        records = RecordDict({MODEL: model})
        for name, record in state.items():
            records[STATE + name] = record
        envelope, content = self._grid.store(records)
        blob = cast(Arrays, dict(envelope.records)[MODEL]).blob
        body = {"round": round, "model": blob, "content": content, "report": dict(report)}
        replayed = self._grid.seal(body)
        self._reseed(round)
        self._grid.tell(events.Sealed(round, blob, report, replayed))

    def finish(self, model: ArrayRecord, report: Mapping[str, Any]) -> None:
        envelope, _ = self._grid.store(RecordDict({MODEL: model}))
        blob = cast(Arrays, dict(envelope.records)[MODEL]).blob
        self.final = Final(blob, dict(report))

    def _seal_of(self, body: Mapping[str, Any]) -> Seal:
        """What was sealed, held against its digests: nothing else would notice a damaged seal."""
        blobs = self._grid.blobs
        blobs.check(body["content"])
        for blob in Envelope.decode(blobs.read(body["content"])).blobs():
            blobs.check(blob)
        records = flower.decode(Envelope.decode(blobs.read(body["content"])), blobs)
        state = RecordDict()
        for name, record in records.items():
            if name.startswith(STATE):
                state[name.removeprefix(STATE)] = record
        model = cast(ArrayRecord, records[MODEL])
        return Seal(body["round"], model, state, body["report"])

    def _reseed(self, round: int) -> None:
        flower.seed_generators(derive(self._secret, "seal", str(round)))


def weight_of(strategy: Strategy) -> Weight | None:
    """The weight that a strategy names: ours as `intake_weight`, Flower's as `weighted_by_key`, which its
    wrappers leave to the strategy inside them."""
    if (ours := getattr(strategy, "intake_weight", None)) is not None:
        return Weight(ours, whole=True)
    inner = getattr(strategy, "strategy", strategy)
    key = getattr(inner, "weighted_by_key", None)
    return Weight(key, whole=False) if isinstance(key, str) else None
