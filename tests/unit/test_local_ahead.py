"""In process a reply is hashed and written while the next handler runs; nobody can tell."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from barnraise.protocols.blobs import BlobStore
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_full
from barnraise.testing import Federation

SHARED = RecordDict()


def client() -> ClientApp:
    """Sends one RecordDict again and again, changed by each handler."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        calls = context.state.metric_records.setdefault("calls", MetricRecord({"n": 0}))
        calls["n"] = int(calls["n"]) + 1  # type: ignore[call-overload]
        SHARED["arrays"] = ArrayRecord([np.full(1000, number, np.float32)])
        SHARED["metrics"] = MetricRecord({"n": int(calls["n"]), "who": number})  # type: ignore[call-overload]
        return Message(SHARED, reply_to=message)

    return app


def server(seen: list[Any], each: int = 1) -> ServerApp:
    """Asks every member `each` times in one batch."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        orders = [
            grid.create_message(RecordDict(), "train", node, str(n))
            for node in grid.get_node_ids()
            for n in range(each)
        ]
        for reply in grid.send_and_receive(orders):
            metrics = reply.content.metric_records["metrics"]
            (array,) = reply.content.array_records["arrays"].to_numpy_ndarrays()
            seen.append((metrics["who"], metrics["n"], set(array.tolist())))

    return app


def test_each_reply_is_as_its_handler_left_it() -> None:
    seen: list[Any] = []
    Federation(5).run(server(seen), client())
    assert seen == [(n, 1, {n}) for n in range(5)]


def test_a_member_has_its_state_before_its_next_order() -> None:
    seen: list[Any] = []
    Federation(2).run(server(seen, each=3), client())
    assert [n for _, n, _ in seen] == [1, 2, 3, 1, 2, 3]


def test_what_a_blob_cannot_be_written_for_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    put = BlobStore.put

    def full(self: BlobStore, pieces: Iterable[memoryview | bytes]) -> str:
        if threading.current_thread() is not threading.main_thread():
            raise disk_full(self.root)
        return put(self, pieces)

    monkeypatch.setattr(BlobStore, "put", full)
    with pytest.raises(BarnraiseError) as caught:
        Federation(3).run(server([]), client())
    assert caught.value.code == "D104"


def test_the_thread_ends_with_the_run() -> None:
    before = threading.active_count()
    Federation(3).run(server([]), client())
    assert threading.active_count() == before


def test_the_same_bytes_put_by_several_threads_are_one_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, durable=False)
    found: list[str] = []
    together = threading.Barrier(4)

    def put() -> None:
        together.wait()
        for n in range(50):
            found.append(store.put([b"%d" % n * 5000]))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.sync()
    assert len(found) == 200
    assert sorted(set(found)) == sorted(store.all())
