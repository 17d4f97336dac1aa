"""`run_handler`, the messages around it, the carry, and the watch over `Strategy.start`."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from barnraise.protocols import flower, progress
from barnraise.protocols.content import Failure
from barnraise.protocols.flower import Handled, Header, run_handler

SEED = bytes(range(32))
HEADER = Header(7, "sha256:order", 99, "train", "3", 60.0, 1000.0)
Handler = Callable[[Message, Context], Any]


@pytest.fixture(autouse=True)
def server() -> None:
    flower.become_server(7)


def context(state: RecordDict | None = None) -> Context:
    return flower.new_context(7, 99, {"partition-id": 0}, state or RecordDict(), {"lr": 0.1})


def order() -> Message:
    return flower.instruction(HEADER, RecordDict({"c": ConfigRecord({"x": 1})}))


def run(handler: Handler, carry: RecordDict | None = None, seed: bytes = SEED) -> Handled:
    app = ClientApp()
    app.train()(handler)
    return run_handler(app, order(), context(), carry or RecordDict(), seed)


def answer(message: Message, **metrics: float) -> Message:
    return Message(RecordDict({"m": MetricRecord(dict(metrics))}), reply_to=message)


def test_a_reply_is_handed_over_with_state_and_carry() -> None:
    def handler(message: Message, context: Context) -> Message:
        context.state["seen"] = ConfigRecord({"n": 1})
        carry = flower.load_carry(context)
        carry["c"] = ConfigRecord({"n": int(carry["c"]["n"]) + 1})  # type: ignore[call-overload,arg-type]
        flower.save_carry(context, carry)
        return answer(message, loss=0.5)

    handled = run(handler, RecordDict({"c": ConfigRecord({"n": 4})}))
    assert handled.failure is None
    assert handled.reply == RecordDict({"m": MetricRecord({"loss": 0.5})})
    assert handled.state == RecordDict({"seen": ConfigRecord({"n": 1})})
    assert handled.carry == RecordDict({"c": ConfigRecord({"n": 5})})


def test_the_handler_sees_the_order_as_flower_sends_it() -> None:
    def handler(message: Message, context: Context) -> Message:
        meta = message.metadata
        assert (meta.run_id, meta.message_id, meta.dst_node_id) == (7, "sha256:order", 99)
        assert (meta.src_node_id, meta.group_id, meta.message_type) == (1, "3", "train")
        assert (meta.ttl, meta.created_at, meta.reply_to_message_id) == (60.0, 1000.0, "")
        assert (context.run_id, context.node_id) == (7, 99)
        assert context.run_config == {"lr": 0.1}
        return answer(message)

    assert run(handler).failure is None


def draws(message: Message, context: Context) -> Message:
    return answer(message, a=random.random(), b=np.random.random(), c=random.getrandbits(50))


def test_the_seed_decides_every_generator() -> None:
    random.seed(1)
    first = run(draws)
    random.seed(2)
    np.random.seed(2)
    assert run(draws).reply == first.reply
    assert run(draws, seed=bytes(32)).reply != first.reply


def test_torch_is_seeded_if_it_is_there_and_not_imported_if_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []
    fake = type(sys)("torch")
    fake.manual_seed = seeds.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", fake)
    flower.seed_generators(SEED)
    flower.seed_generators(b"\xff" * 32)
    assert seeds[0] != seeds[1]
    assert all(0 <= s < 2**63 for s in seeds)
    monkeypatch.delitem(sys.modules, "torch")
    flower.seed_generators(SEED)
    assert "torch" not in sys.modules


def test_generators_outside_go_on_as_if_nothing_had_happened() -> None:
    import torch

    def three() -> tuple[float, ...]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    flower.seed_generators(SEED)
    expected = [three(), three()]
    flower.seed_generators(SEED)
    got = [three()]
    with pytest.raises(RuntimeError), flower.generators_kept():
        run(draws)
        raise RuntimeError
    assert [*got, three()] == expected


# --- failures ---------------------------------------------------------------------------------

SECRET = "patient 4711"


def raises(message: Message, context: Context) -> Message:
    raise ValueError(SECRET)


def raises_in_the_standard_library(message: Message, context: Context) -> Message:
    Path(SECRET).read_text()
    return answer(message)


def raises_in_a_library(message: Message, context: Context) -> Message:
    np.load(SECRET)
    return answer(message)


def exits(message: Message, context: Context) -> Message:
    sys.exit(SECRET)


def raises_from_another(message: Message, context: Context) -> Message:
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        raise ValueError(SECRET) from error


def keeps_and_raises(message: Message, context: Context) -> Message:
    context.state["seen"] = ConfigRecord({"n": 1})
    flower.save_carry(context, RecordDict({"c": ConfigRecord({"n": 1})}))
    raise ValueError(SECRET)


@pytest.mark.parametrize(
    ("handler", "kind", "line"),
    [
        (raises, "ValueError", 1),
        (raises_in_the_standard_library, "FileNotFoundError", 1),
        (raises_in_a_library, "FileNotFoundError", 1),
        (exits, "SystemExit", 1),
        (raises_from_another, "ValueError", 4),
        (keeps_and_raises, "ValueError", 3),
    ],
)
def test_an_exception_is_its_class_and_its_place_and_not_its_text(
    handler: Handler, kind: str, line: int
) -> None:
    handled = run(handler)
    place = f"{__file__.rpartition('/')[2]}:{handler.__code__.co_firstlineno + line}"
    assert handled.failure == Failure(flower.RAISED, f"{kind} at {place}")
    assert (handled.reply, handled.state, handled.carry) == (None, None, None)
    assert SECRET not in handled.failure.reason
    assert SECRET in handled.log
    assert "Traceback" in handled.log


@pytest.mark.parametrize("value", [None, 1, RecordDict(), Message], ids=repr)
def test_a_handler_that_returns_no_message_has_failed(value: object) -> None:
    handled = run(lambda message, context: value)
    assert handled.failure is not None
    assert handled.failure.reason.startswith("the handler returned ")
    assert (handled.reply, handled.state, handled.carry) == (None, None, None)


def test_a_message_without_content_is_a_failure() -> None:
    def handler(message: Message, context: Context) -> Message:
        reply = answer(message)
        reply.__dict__["_content"] = None
        return reply

    handled = run(handler)
    assert handled.failure == Failure(
        flower.RAISED, "the handler returned a Message without content"
    )


def test_an_error_that_the_handler_chose_is_a_failure_and_is_committed() -> None:
    def handler(message: Message, context: Context) -> Message:
        context.state["seen"] = ConfigRecord({"n": 1})
        return Message(Error(17, "no data today"), reply_to=message)

    handled = run(handler)
    assert handled.failure == Failure(17, "no data today")
    assert handled.reply is None
    assert handled.state == RecordDict({"seen": ConfigRecord({"n": 1})})
    assert handled.carry == RecordDict()


def test_an_error_without_a_reason_has_an_empty_one() -> None:
    handled = run(lambda message, context: Message(Error(17), reply_to=message))
    assert handled.failure == Failure(17, "")


def test_an_order_without_a_handler_is_a_failure() -> None:
    handled = run_handler(ClientApp(), order(), context(), RecordDict(), SEED)
    assert handled.failure is not None
    assert handled.failure.reason.startswith("ValueError at ")
    assert "No train function" in handled.log


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_an_interrupt_passes_through(error: type[BaseException]) -> None:
    def handler(message: Message, context: Context) -> Message:
        raise error

    with pytest.raises(error):
        run(handler)


def test_after_a_failure_no_carry_is_left_behind() -> None:
    run(raises, RecordDict({"c": ConfigRecord({"n": 1})}))
    assert flower.load_carry(context()) == RecordDict()


# --- carry ------------------------------------------------------------------------------------


def test_where_no_carry_file_is_known_the_carry_lives_in_the_state() -> None:
    elsewhere = context(RecordDict({"own": ConfigRecord({"n": 1})}))
    assert flower.load_carry(elsewhere) == RecordDict()
    flower.save_carry(elsewhere, RecordDict({"a": ConfigRecord({"n": 2}), "b": ConfigRecord()}))
    assert flower.load_carry(elsewhere) == RecordDict(
        {"a": ConfigRecord({"n": 2}), "b": ConfigRecord()}
    )
    flower.save_carry(elsewhere, RecordDict({"a": ConfigRecord({"n": 3})}))
    assert flower.load_carry(elsewhere) == RecordDict({"a": ConfigRecord({"n": 3})})
    assert elsewhere.state["own"] == ConfigRecord({"n": 1})


def test_inside_a_handler_the_state_is_left_alone() -> None:
    def handler(message: Message, context: Context) -> Message:
        flower.save_carry(context, RecordDict({"a": ConfigRecord({"n": 2})}))
        assert flower.load_carry(context) == RecordDict({"a": ConfigRecord({"n": 2})})
        return answer(message)

    handled = run(handler)
    assert handled.failure is None
    assert handled.state == RecordDict()


# --- messages ---------------------------------------------------------------------------------


def test_a_reply_answers_its_order() -> None:
    for reply in (
        flower.reply_to_order(HEADER, RecordDict()),
        flower.failed(HEADER, Failure(3, "why")),
    ):
        meta = reply.metadata
        assert (meta.src_node_id, meta.dst_node_id) == (99, flower.SERVER_NODE_ID)
        assert meta.reply_to_message_id == HEADER.message_id != meta.message_id
        assert (meta.run_id, meta.group_id, meta.message_type) == (7, "3", "train")
    assert (reply.error.code, reply.error.reason) == (3, "why")
    assert not reply.has_content()


def test_a_new_instruction_belongs_to_the_run() -> None:
    message = flower.new_instruction(RecordDict(), "query.ask", 99, "g", None)
    meta = message.metadata
    assert (meta.run_id, meta.src_node_id, meta.dst_node_id) == (7, flower.SERVER_NODE_ID, 99)
    assert (meta.message_type, meta.group_id, meta.message_id) == ("query.ask", "g", "")
    assert meta.ttl > 0


# --- progress ---------------------------------------------------------------------------------


def test_progress_reaches_who_listens_and_nobody_else() -> None:
    heard: list[tuple[str, int, int]] = []
    progress.report("training", 0, 9)
    with progress.listening(lambda *said: heard.append(said)):
        progress.report("training", 1, 9)
        with progress.listening(None):
            progress.report("training", 2, 9)
        progress.report("training", 3, 9)
    progress.report("training", 4, 9)
    assert heard == [("training", 1, 9), ("training", 3, 9)]


# --- strategies -------------------------------------------------------------------------------


class EchoGrid(Grid):
    """A grid with one node, which sends back what it gets."""

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return [99]

    def push_messages(self, messages: Any) -> list[str]:
        return []

    def pull_messages(self, message_ids: Any) -> list[Message]:
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        return [self.echo(m) for m in messages]

    def echo(self, message: Message) -> Message:
        records = RecordDict({"m": MetricRecord({"num-examples": 1})})
        if message.metadata.message_type == "train":
            records["arrays"] = message.content["arrays"]
        header = Header(7, "id", 99, message.metadata.message_type, "", 1.0, 0.0)
        return flower.reply_to_order(header, records)


ARRAYS = ArrayRecord([np.arange(3.0)])


def rule() -> FedAvg:
    return FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)


@pytest.fixture
def heard() -> list[Any]:
    return []


@pytest.fixture
def watched(heard: list[Any]) -> Iterator[EchoGrid]:
    grid = EchoGrid()
    with flower.strategy_start_watched(
        grid, lambda s: heard.append(s), lambda s, arrays: heard.append((s, arrays))
    ):
        yield grid


@pytest.mark.parametrize("named", [True, False])
def test_a_start_on_the_watched_grid_is_told_with_its_arrays(
    watched: EchoGrid, heard: list[Any], named: bool
) -> None:
    strategy = rule()
    if named:
        result = strategy.start(grid=watched, initial_arrays=ARRAYS, num_rounds=1)
    else:
        result = strategy.start(watched, ARRAYS, 1)
    assert heard == [strategy, (strategy, result.arrays)]
    assert list(heard[1][1].to_numpy_ndarrays()[0]) == [0.0, 1.0, 2.0]


def test_a_start_on_another_grid_is_not_told(watched: EchoGrid, heard: list[Any]) -> None:
    rule().start(EchoGrid(), ARRAYS, num_rounds=1)
    assert heard == []


def test_a_start_without_a_grid_is_the_type_error_that_it_is_elsewhere(watched: EchoGrid) -> None:
    with pytest.raises(TypeError, match="grid"):
        rule().start(initial_arrays=ARRAYS)  # type: ignore[call-arg]


def test_strategy_start_is_restored() -> None:
    original = Strategy.start
    for error in (None, RuntimeError, KeyboardInterrupt):
        try:
            with flower.strategy_start_watched(EchoGrid(), lambda s: None, lambda s, a: None):
                assert Strategy.start is not original
                if error is not None:
                    raise error
        except (RuntimeError, KeyboardInterrupt):
            pass
        assert Strategy.start is original
