"""The built-in ClientApp: trains and evaluates the charter's task on a member's own data.

An ordinary Flower app. `run_config` holds the charter's text, `node_config` the directory of the
member's data (`data`) and how many threads torch may use (`threads`, 1 if not given). It answers
`query.model` (the initial weights), `train` and `evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from barnraise.client.tasks import Split, Task, load_task
from barnraise.client.training import Inner, evaluate, train
from barnraise.protocols.charter import Charter
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.flower import array_of, load_carry, save_carry

ARRAYS, CONFIG, METRICS, WEIGHT = "arrays", "config", "metrics", "num-examples"
MAX_WEIGHT = 2**31 - 1


class Site:
    """One member's side of the charter: its task and its data. Kept for as long as the process lives."""

    def __init__(self, charter: Charter, directory: Path, home: Path | None) -> None:
        self.charter = charter
        self.task: Task = load_task(charter.task, home)
        self.data: Split = self.task.data(directory)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def model(self, arrays: ArrayRecord | None) -> nn.Module:
        """The task's model with these weights, or with those that the charter's seed gives."""
        torch_state = torch.get_rng_state()
        torch.manual_seed(self.charter.model.seed)
        model = self.task.model()
        torch.set_rng_state(torch_state)
        if arrays is not None:
            model.load_state_dict({k: _tensor(a.numpy()) for k, a in arrays.items()})
        return model.to(self.device)


def client_app(home: Path | None = None) -> ClientApp:
    """The built-in ClientApp; `home` is the directory that holds the code of a task of one's own."""
    app = ClientApp()

    @lru_cache(maxsize=256)
    def site_of(charter: str, directory: str) -> Site:
        return Site(Charter.parse(charter), Path(directory), home)

    def site(context: Context) -> Site:
        torch.set_num_threads(int(context.node_config.get("threads", 1)))
        return site_of(str(context.run_config["charter"]), _directory(context))

    _register(app, site)
    return app


def _register(app: ClientApp, site: Callable[[Context], Site]) -> None:
    @app.query("model")
    def initial_model(message: Message, context: Context) -> Message:
        """The weights from which the run starts."""
        records = RecordDict({ARRAYS: record_of(site(context).model(None))})
        return Message(records, reply_to=message)

    @app.train()
    def train_round(message: Message, context: Context) -> Message:
        """One round's local work, AdamW's state kept in the carry file."""
        here = site(context)
        model = here.model(message.content.array_records[ARRAYS])
        inner = load_inner(load_carry(context))
        plan, rounds = here.charter.training, here.charter.rounds.count
        number = _round(message)
        span = ((number - 1) / rounds, number / rounds)
        worked = train(here.task, model, here.data.train, plan, inner, span)
        save_carry(context, save_inner(inner))
        metrics = {
            WEIGHT: min(here.data.sizes()[0], MAX_WEIGHT),
            "steps": worked.steps,
            "loss": worked.loss,
        }
        return _reply(message, RecordDict({ARRAYS: record_of(model)}), metrics)

    @app.evaluate()
    def evaluate_model(message: Message, context: Context) -> Message:
        """Mean loss and metrics on the member's held-out data."""
        here = site(context)
        model = here.model(message.content.array_records[ARRAYS])
        means = evaluate(here.task, model, here.data.held_out)
        weight = min(here.data.sizes()[1], MAX_WEIGHT)
        return _reply(message, RecordDict(), {WEIGHT: weight, **means})


def _reply(message: Message, records: RecordDict, metrics: Mapping[str, int | float]) -> Message:
    records[METRICS] = MetricRecord(dict(metrics))
    return Message(records, reply_to=message)


def _directory(context: Context) -> str:
    if "data" not in context.node_config:
        raise BarnraiseError(
            "D201",
            "this node names no data",
            "its node config has no `data`",
            next='start the node with data="/path/to/its/data" in its node config',
        )
    return str(context.node_config["data"])


def _round(message: Message) -> int:
    config = message.content.config_records.get(CONFIG, ConfigRecord())
    return int(cast(int, config.get("server-round", 1)))


# --- tensors and records ----------------------------------------------------------------------------


def record_of(model: nn.Module) -> ArrayRecord:
    """The model's weights and buffers under their own names."""
    return _record({name: t.detach() for name, t in model.state_dict().items()})


def _record(tensors: dict[str, Tensor]) -> ArrayRecord:
    record = ArrayRecord()
    for name, tensor in tensors.items():
        record[name] = array_of(tensor.cpu().numpy())
    return record


def _tensor(array: object) -> Tensor:
    return torch.as_tensor(array)


def load_inner(carry: RecordDict) -> Inner:
    """AdamW's state as `save_inner` put it away; a fresh one from an empty carry."""
    inner = Inner()
    if "steps" in carry:
        inner.steps = int(cast(int, carry.config_records["steps"]["n"]))
    for moment, record in carry.array_records.items():
        for name, array in record.items():
            inner.moments.setdefault(name, {})[moment] = _tensor(array.numpy())
    return inner


def save_inner(inner: Inner) -> RecordDict:
    """A record of the steps taken, and one of arrays for each moment."""
    records = RecordDict({"steps": ConfigRecord({"n": inner.steps})})
    for moment in sorted({m for held in inner.moments.values() for m in held}):
        records[moment] = _record({name: held[moment] for name, held in inner.moments.items()})
    return records
