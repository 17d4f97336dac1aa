"""A grid of Flower's in this process: its own messages, through its own bytes, to ClientApps that forget.

`Nodes` is what outlives a Flower run: which nodes there are, and which of them are connected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run

CHARTER = """
name = "wards"
licence = "Apache-2.0"
[task]
name = "classification"
features = 4
classes = 2
[training]
steps = 2
warmup = {warmup}
optimizer = "{optimizer}"
[rounds]
count = {rounds}
"""


def charter(folder: Path, rounds: int = 2, optimizer: str = "sgd", warmup: int = 0) -> Path:
    """By default one whose members keep nothing between rounds."""
    path = folder / "charter.toml"
    path.write_text(CHARTER.format(rounds=rounds, optimizer=optimizer, warmup=warmup))
    return path


def data(folder: Path, members: int, rows: int = 12, same: bool = False) -> Path:
    """A sub-directory for each member. `same`: all its rows are one, so that no draw matters."""
    for number in range(members):
        rng = np.random.default_rng(number)
        x = rng.standard_normal((rows, 4), np.float32)
        y = (x[:, 0] > 0).astype(np.int64)
        if same:
            x, y = np.repeat(x[:1], rows, 0), np.repeat(y[:1], rows)
        place = folder / f"site-{number:02d}"
        place.mkdir(parents=True)
        np.savez(place / "rows.npz", x=x, y=y)
    return folder


@dataclass
class Nodes:
    """`connected` may change while a run goes on. Node ids are large and not in the order of partitions."""

    app: ClientApp
    count: int
    config: Mapping[str, Any] = field(default_factory=dict)
    connected: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ids = [(1 << 63) + 1000 * n for n in range(self.count)]
        self.connected = self.connected or set(self.ids)


class FlowerGrid(Grid):
    """One Flower run: its nodes begin with an empty state. `before` is called with each message."""

    def __init__(self, nodes: Nodes, before: Callable[[Message], None] = lambda message: None):
        self.nodes, self.before = nodes, before
        self.asked: list[Message] = []
        self.answers: dict[str, Message] = {}
        self.contexts = {
            node: Context(
                1, node, {"partition-id": n, "num-partitions": nodes.count}, RecordDict(), {}
            )
            for n, node in enumerate(nodes.ids)
        }
        for context in self.contexts.values():
            context.run_config = dict(nodes.config)

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.nodes.connected, reverse=True)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            self.before(message)
            self.asked.append(message)
            ids.append(f"flower-{len(self.asked)}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            node = message.metadata.dst_node_id
            if node in self.nodes.connected:
                reply = self.nodes.app(through_bytes(message, ids[-1]), self.contexts[node])
                self.answers[ids[-1]] = through_bytes(reply, "")
            else:
                self.answers[ids[-1]] = Message(Error(5, "Node Unavailable"), reply_to=message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = sorted(self.answers.keys() & set(message_ids), reverse=True)
        return [self.answers.pop(i) for i in ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError


def through_bytes(message: Message, known_as: str) -> Message:
    """The message as the other side gets it."""
    objects = {key: one.deflate() for key, one in get_all_nested_objects(message).items()}
    made = inflate_object_from_contents(message.object_id, objects)
    assert isinstance(made, Message)
    made.metadata.__dict__["_message_id"] = known_as
    return made
