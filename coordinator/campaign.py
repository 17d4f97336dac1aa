"""The built-in ServerApp: one campaign under one charter. Rounds, evaluation at the members, seals.

An ordinary Flower app: `run_config` holds the charter's text. On our grid it seals each round and goes
on from the last seal; on Flower's own grids the same code runs without. It never imports torch: the
initial weights come from a member, or from the charter's own file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from safetensors import SafetensorError, safe_open

from barnraise.coordinator.recorder import Recorder, Seal, recorder
from barnraise.protocols import flower
from barnraise.protocols.charter import Charter
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.values import shortened
from barnraise.strategies import ExactStrategy, make
from barnraise.strategies.replies import nonfinite

ARRAYS = "arrays"


def server_app(init: Path | None = None, trainers: Collection[str] | None = None) -> ServerApp:
    """The campaign as a ServerApp. `init`: a safetensors file with the initial weights.

    `trainers`: only these members train, while all evaluate: how a member would fare alone.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        charter = Charter.parse(str(context.run_config["charter"]))
        Campaign(charter, grid, init, trainers).run()

    return app


@dataclass
class _Standing:
    """Where a campaign is: rounds done, the model after them, its last evaluation."""

    round: int
    model: ArrayRecord
    metrics: Mapping[str, Any] = field(default_factory=dict)


class Campaign:
    """One run of a charter on a grid."""

    def __init__(
        self, charter: Charter, grid: Grid, init: Path | None, trainers: Collection[str] | None
    ) -> None:
        self.charter, self.grid, self.init, self.trainers = charter, grid, init, trainers
        self.trained = False  # whether any round, of those seen here or before, could use a reply
        self.failures: dict[str, str] = {}
        self.recorder: Recorder = recorder(grid)
        self.rule: ExactStrategy = make(
            charter.strategy.name,
            charter.strategy.options,
            self.recorder.seed("sampling"),
            codec=charter.training.codec,
        )

    def run(self) -> None:
        """From the last seal, or from the start, to the last round."""
        self.recorder.rule(self.rule)
        seal = self.recorder.resume()
        standing = self._start() if seal is None else self._continue(seal)
        while standing.round < self.charter.rounds.count:
            standing = self._round(standing)
        if self.failures and not self.trained:
            raise _nobody_trained(self.failures)
        self.recorder.finish(standing.model, {"metrics": dict(standing.metrics)})

    def _start(self) -> _Standing:
        model = self._initial()
        metrics, members = self._evaluate(0, model)
        self._seal(0, model, {"after": metrics, "members": members})
        return _Standing(0, model, metrics)

    def _continue(self, seal: Seal) -> _Standing:
        self.rule.load(seal.state)
        self.trained = seal.round > 0
        return _Standing(seal.round, seal.model, seal.report["after"])

    def _round(self, before: _Standing) -> _Standing:
        """Train, aggregate, evaluate, seal."""
        number = before.round + 1
        orders = self.rule.configure_train(number, before.model, ConfigRecord(), self.grid)
        replies = list(self.grid.send_and_receive(self._trained_by(orders)))
        self._note(replies)
        arrays, trained = self.rule.aggregate_train(number, replies)
        model = arrays if arrays is not None else before.model
        metrics: Mapping[str, Any] = before.metrics
        members: Mapping[str, Any] = {}
        if number % self.charter.rounds.evaluate_every == 0 or number == self.charter.rounds.count:
            metrics, members = self._evaluate(number, model)
        report = {
            "before": before.metrics,
            "after": metrics,
            "train": plain(trained or {}),
            "members": members,
            "void": arrays is None,
            "decision": self.rule.decision(),
            **({"why": self.rule.stayed} if self.rule.stayed else {}),
        }
        self._seal(number, model, report)
        return _Standing(number, model, metrics)

    def _note(self, replies: Iterable[Message]) -> None:
        for reply in replies:
            if reply.has_error():
                self.failures[self._name(reply.metadata.src_node_id)] = str(reply.error.reason)
            else:
                self.trained = True

    def _trained_by(self, orders: Iterable[Message]) -> list[Message]:
        if self.trainers is None:
            return list(orders)
        return [o for o in orders if self._name(o.metadata.dst_node_id) in self.trainers]

    def _evaluate(self, number: int, model: ArrayRecord) -> tuple[dict[str, Any], dict[str, Any]]:
        """The federation's mean metrics, and each member's."""
        orders = self.rule.configure_evaluate(number, model, ConfigRecord(), self.grid)
        replies = list(self.grid.send_and_receive(list(orders)))
        metrics = self.rule.aggregate_evaluate(number, replies)
        members = {
            self._name(reply.metadata.src_node_id): plain(record)
            for reply in replies
            if reply.has_content()
            for record in reply.content.metric_records.values()
        }
        return plain(metrics or {}), members

    def _seal(self, number: int, model: ArrayRecord, report: Mapping[str, Any]) -> None:
        whole = {"rounds": self.charter.rounds.count, **report}
        self.recorder.seal(number, model, self.rule.state(), whole)

    def _name(self, node_id: int) -> str:
        name_of = getattr(self.grid, "name_of", str)
        return str(name_of(node_id))

    # --- the initial model ------------------------------------------------------------------------

    def _initial(self) -> ArrayRecord:
        if self.init is not None:
            return read_model(self.init)
        failures = []
        for node_id in self.grid.get_node_ids():
            order = Message(RecordDict(), node_id, "query.model")
            for reply in self.grid.send_and_receive([order]):
                if (why := _no_model(reply)) is None:
                    return reply.content.array_records[ARRAYS]
                failures.append(f"{self._name(node_id)}: {why}")
        raise BarnraiseError(
            "A204",
            "no member could make the initial model",
            "\n".join(failures) or "there are no members",
            next=_remedy(failures),
        )


def _remedy(failures: Sequence[str]) -> str:
    """What helps where no member made the initial model."""
    if failures and all(": M108: D20" in one for one in failures):
        return (
            "have the members mend their data: what is wrong stands in each one's logs/worker.log"
        )
    return "mend the task, or name a file as [model] init in the charter"


def _no_model(reply: Message) -> str | None:
    """Why this reply gives no initial model."""
    if reply.has_error():
        return str(reply.error.reason)
    if ARRAYS not in reply.content.array_records:
        return "a reply without arrays"
    try:
        name = _nonfinite(reply.content.array_records[ARRAYS])
    except TypeError as error:
        return str(error)
    return f"its model holds NaN or infinity in {name}" if name is not None else None


def read_model(path: Path, written: str | None = None) -> ArrayRecord:
    """The weights in a safetensors file. Raises C106 for one that cannot be read or is not finite.

    `written` is the path as the charter has it.
    """
    written = str(path) if written is None else written
    record = ArrayRecord()
    if not path.is_file():
        why = f"{path} is a directory" if path.is_dir() else f"there is no file {path}"
        raise _unusable(written, why)
    try:
        with safe_open(path, framework="np") as held:
            for name in held.keys():  # noqa: SIM118
                record[name] = flower.array_of(held.get_tensor(name))
    except (OSError, SafetensorError, TypeError, AttributeError) as error:
        raise _unusable(written, str(error)) from None
    bad = _nonfinite(record)
    if bad is not None or not record:
        raise _unusable(written, f"{bad} holds NaN or infinity" if bad else "it holds no tensors")
    return record


def _nonfinite(record: ArrayRecord) -> str | None:
    """The name of the first array that holds NaN or infinity."""
    return nonfinite({name: flower.tensor_of(array) for name, array in record.items()})


def _unusable(written: str, why: str) -> BarnraiseError:
    return BarnraiseError(
        "C106",
        f"the initial model {shortened(written)} cannot be used",
        why,
        next="correct [model] init in the charter",
    )


def _nobody_trained(failures: Mapping[str, str]) -> BarnraiseError:
    """Every reply of the whole run was refused: nothing was learned."""
    infinite = all(why.startswith("M106") for why in failures.values())
    remedy = "lower training.lr in the charter" if infinite else "mend the charter or its task"
    return BarnraiseError(
        "A204",
        "every member failed, in every round",
        "\n".join(f"{member}: {why}" for member, why in failures.items()),
        next=remedy,
    )


def plain(metrics: MetricRecord | Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as JSON can hold them: what is not finite becomes null."""
    return {key: _plain(value) for key, value in metrics.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value if math.isfinite(value) else None
