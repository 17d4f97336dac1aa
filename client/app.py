"""The built-in ClientApp: trains and evaluates the charter's task on a member's own data.

An ordinary Flower app. `run_config` holds the charter's text, `node_config` the directory of the
member's data (`data`) and how many threads torch may use (`threads`, 1 if not given). It answers
`query.model` (the initial weights), `train` and `evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor, nn

from barnraise.client.environment import ENVIRONMENT, environment
from barnraise.client.partners import Variates
from barnraise.client.ranks import joined
from barnraise.client.tasks import Split, Task, load_task
from barnraise.client.training import MOMENTS, Inner, evaluate, train
from barnraise.client.updates import update
from barnraise.protocols.charter import Charter, TrainingSection
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.flower import array_of, load_carry, save_carry

ARRAYS, CONFIG, METRICS, WEIGHT = "arrays", "config", "metrics", "num-examples"
CONTROL = "control"  # the record in which SCAFFOLD's strategy sends c and takes c_i+ - c_i
VARIATE, RESIDUAL = "variate", "residual"  # in the carry file: c_i, and what coding still owes
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
        """One round's local work; what it leaves for the next is kept in the carry file."""
        here = site(context)
        asked, carry = message.content.array_records, load_carry(context)
        model, inner = here.model(asked[ARRAYS]), load_inner(carry)
        plan, rounds = here.charter.training, here.charter.rounds.count
        number = _round(message)
        span = ((number - 1) / rounds, number / rounds)
        variates = _variates(asked, carry, here.device)
        partners = [variates] if variates is not None else []
        worked = train(
            here.task, model, here.data.train, plan, inner, span, partners=partners, ranks=joined()
        )
        records, kept = RecordDict(), save_inner(inner)
        records[ARRAYS] = _sent(plan, model, asked[ARRAYS], carry, kept)
        if variates is not None:
            records[CONTROL] = _control(asked[CONTROL], variates, carry, kept)
        records[ENVIRONMENT] = environment(here.device)
        save_carry(context, kept)
        metrics = {
            WEIGHT: min(here.data.sizes()[0], MAX_WEIGHT),
            "steps": worked.steps,
            "loss": worked.loss,
        }
        return _reply(message, records, metrics)

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


# --- what is sent, and what is kept for the next round -----------------------------------------------


def _sent(
    plan: TrainingSection,
    model: nn.Module,
    base: ArrayRecord,
    carry: RecordDict,
    kept: RecordDict,
) -> ArrayRecord:
    """The trained model or its update, as the charter says; what the coding owes is kept."""
    if plan.codec is None and plan.update_norm is None:
        return record_of(model)
    trained = {name: t.detach().cpu().numpy() for name, t in model.state_dict().items()}
    before = {name: array.numpy() for name, array in base.items()}
    owed = carry.array_records.get(RESIDUAL, ArrayRecord())
    sent, residual = update(plan, trained, before, {name: a.numpy() for name, a in owed.items()})
    if residual:
        kept[RESIDUAL] = _record_of_arrays(residual)
    return _record_of_arrays(sent)


def _variates(
    asked: Mapping[str, ArrayRecord], carry: RecordDict, device: torch.device
) -> Variates | None:
    """SCAFFOLD's correction, if the order carries the federation's variate."""
    if CONTROL not in asked:
        return None
    own = carry.array_records.get(VARIATE, ArrayRecord())
    return Variates(
        *({k: _tensor(a.numpy()).to(device) for k, a in r.items()} for r in (asked[CONTROL], own))
    )


def _control(
    asked: ArrayRecord, variates: Variates, carry: RecordDict, kept: RecordDict
) -> ArrayRecord:
    """How the member's variate moved, in the form of the federation's; the new one is kept."""
    after = {name: t.cpu().numpy() for name, t in variates.own().items()}
    before = carry.array_records.get(VARIATE, ArrayRecord())
    kept[VARIATE] = _record_of_arrays(after)
    moved = {}
    for name, array in asked.items():
        here = after[name] if name in after else np.zeros(array.shape)
        moved[name] = here - (before[name].numpy() if name in before else 0.0)
    return _record_of_arrays({n: m.astype(asked[n].dtype) for n, m in moved.items()})


# --- tensors and records ----------------------------------------------------------------------------


def record_of(model: nn.Module) -> ArrayRecord:
    """The model's weights and buffers under their own names."""
    return _record({name: t.detach() for name, t in model.state_dict().items()})


def _record(tensors: dict[str, Tensor]) -> ArrayRecord:
    return _record_of_arrays({name: tensor.cpu().numpy() for name, tensor in tensors.items()})


def _record_of_arrays(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = array_of(array)
    return record


def _tensor(array: object) -> Tensor:
    return torch.as_tensor(array)


def load_inner(carry: RecordDict) -> Inner:
    """AdamW's state as `save_inner` put it away; a fresh one from an empty carry."""
    inner = Inner()
    if "steps" in carry:
        inner.steps = int(cast(int, carry.config_records["steps"]["n"]))
    for moment in MOMENTS:
        for name, array in carry.array_records.get(moment, ArrayRecord()).items():
            inner.moments.setdefault(name, {})[moment] = _tensor(array.numpy())
    return inner


def save_inner(inner: Inner) -> RecordDict:
    """A record of the steps taken, and one of arrays for each moment."""
    records = RecordDict({"steps": ConfigRecord({"n": inner.steps})})
    for moment in sorted({m for held in inner.moments.values() for m in held}):
        records[moment] = _record({name: held[moment] for name, held in inner.moments.items()})
    return records
