"""What the tests of strategies share: grids as Flower has them, members that train, rounds by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from barnraise.protocols import flower
from barnraise.strategies import ExactStrategy

Handler = Callable[[Message], Message]
NODES = (70, 20, 90, 10, 50)
INITIAL: dict[str, NDArray[Any]] = {
    "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "b": np.zeros(3, np.float64),
    "h": np.ones(5, np.float16),
    "seen": np.array(4, np.int64),
}


class PlainGrid(Grid):
    """What Flower's own grids are to a strategy: in memory, no names, replies in any order."""

    def __init__(
        self,
        nodes: Sequence[int] = NODES,
        handler: Handler | None = None,
        order: Callable[[list[Message]], list[Message]] = list,
    ) -> None:
        flower.become_server(1)
        self.nodes, self.handler, self.order = list(nodes), handler or trained, order
        self.sent: list[Message] = []

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        self.sent += sent
        return self.order([self.handler(m) for m in sent])


class NamedGrid(PlainGrid):
    """A grid that knows its members' names, as ours does."""

    def __init__(self, names: Mapping[int, str], **kwargs: Any) -> None:
        super().__init__(list(names), **kwargs)
        self.name_of = names.__getitem__


def local(model: Mapping[str, NDArray[Any]], who: int, turn: int) -> dict[str, NDArray[Any]]:
    """What member `who` makes of the model in this round; of widely different sizes."""
    rng = np.random.default_rng([who, turn])
    return {
        name: np.asarray(a + (rng.standard_normal(a.shape) * 10.0 ** (who % 5 - 2)), a.dtype)
        for name, a in model.items()
    }


def trained(order: Message) -> Message:
    who = order.metadata.dst_node_id
    if order.metadata.message_type == "evaluate":
        metrics = MetricRecord({"loss": who / 7, "num-examples": who})
        return Message(RecordDict({"metrics": metrics}), reply_to=order)
    turn = order.content.config_records["config"]["server-round"]
    assert isinstance(turn, int)
    return reply(order, local(numpy_of(order.content.array_records["arrays"]), who, turn))


def reply(
    order: Message, model: Mapping[str, NDArray[Any]], metrics: Mapping[str, Any] | None = None
) -> Message:
    who = order.metadata.dst_node_id
    steps = 1 + who % 7
    usual = {"num-examples": weight_of(who), "loss": who / 3, "steps": steps}
    found = usual if metrics is None else metrics
    records = {"arrays": record_of(model), "metrics": MetricRecord(dict(found))}
    return Message(RecordDict(records), reply_to=order)  # type: ignore[arg-type]


def weight_of(who: int) -> int:
    return who * who + 1


def record_of(model: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(a) for name, a in model.items()})


def numpy_of(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {name: array.numpy() for name, array in record.items()}


def bytes_of(record: ArrayRecord | None) -> list[tuple[str, str, bytes]]:
    assert record is not None
    return [(name, array.dtype, array.data) for name, array in record.items()]


def play(
    strategy: ExactStrategy,
    rounds: int,
    model: ArrayRecord | None = None,
    *,
    first: int = 1,
    grid: PlainGrid | None = None,
) -> ArrayRecord:
    """Rounds `first` to `rounds`, by hand."""
    grid = grid or PlainGrid()
    model = model if model is not None else record_of(INITIAL)
    for turn in range(first, rounds + 1):
        replies = grid.send_and_receive(strategy.configure_train(turn, model, ConfigRecord(), grid))
        found, _ = strategy.aggregate_train(turn, replies)
        model = found if found is not None else model
    return model
