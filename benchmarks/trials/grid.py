"""What a strategy needs of a grid, for trials whose members live in the same arrays: the node ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from barnraise.protocols import flower


class Roster(Grid):
    """Members by number. It sends nothing: the trial answers the orders itself."""

    def __init__(self, node_ids: Iterable[int]) -> None:
        flower.become_server(1)
        self._node_ids = list(node_ids)

    def name_of(self, node_id: int) -> str:
        return f"site-{node_id:03d}"

    def get_node_ids(self) -> Iterable[int]:
        return list(self._node_ids)

    def set_run(self, run: Any) -> None:
        """Nothing."""

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], **_: Any) -> Iterable[Message]:
        raise NotImplementedError
