"""The one adapter onto flwr: everything that touches its internals, and nothing else does.

    records ⇄ content      `encode`, `decode`, lazily read arrays (all of `records`, which needs no internals)
    messages               `instruction`, `reply_to_order`, `failed`
    handlers               `run_handler`, the one function that runs a ClientApp handler
    apps                   `load_server_app`, `load_client_app`, `project`
    strategies             `strategy_start_watched`, which takes `Result.arrays`
    the command            `run_config`, `roster_is_final`

Facts about flwr that decide this file stand in DESIGN §11. Nothing in `protocols` imports it.
"""

from __future__ import annotations

import os
import random
import sys
import sysconfig
import tomllib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import click
import numpy as np
from flwr.app import ArrayRecord, Context, Error, Message, Metadata, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.common.config import (
    get_fused_config_from_dir,
    parse_config_args,
    validate_fields_in_config,
)
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result, Strategy, strategy_utils
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from barnraise.protocols.content import Failure
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.records import (
    BlobSink,
    BlobSource,
    Draft,
    LazyArray,
    array_of,
    decode,
    draft,
    encode,
    one_copy_arrays,
    shelve,
    tensor_of,
)

__all__ = [
    "BlobSink",
    "BlobSource",
    "Draft",
    "Grid",
    "LazyArray",
    "Run",
    "array_of",
    "decode",
    "draft",
    "encode",
    "one_copy_arrays",
    "shelve",
    "tensor_of",
]

SERVER_NODE_ID = 1
RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
CRASHED = ErrorCode.CLIENT_APP_CRASHED
NODE_UNAVAILABLE = ErrorCode.NODE_UNAVAILABLE
_CARRY = "barnraise.carry"
_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep


# --- messages -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What Flower's metadata says of an order, in our words."""

    run_id: int
    message_id: str
    node_id: int
    type: str
    group: str
    ttl: float
    created: float


def instruction(header: Header, records: RecordDict) -> Message:
    """The order as its ClientApp sees it."""
    return Message(records, metadata=_metadata(header, reply=False))  # type: ignore[call-overload,no-any-return]


def reply_to_order(header: Header, records: RecordDict) -> Message:
    """A member's reply as the ServerApp sees it: fresh, with lazily read arrays."""
    return Message(records, metadata=_metadata(header, reply=True))  # type: ignore[call-overload,no-any-return]


def failed(header: Header, failure: Failure) -> Message:
    """A refused or failed reply as the ServerApp sees it: `Message(error)`."""
    error = Error(failure.code, failure.reason)
    return Message(error, metadata=_metadata(header, reply=True))  # type: ignore[call-overload,no-any-return]


def _metadata(header: Header, reply: bool) -> Metadata:
    ends = (header.node_id, SERVER_NODE_ID) if reply else (SERVER_NODE_ID, header.node_id)
    return Metadata(
        run_id=header.run_id,
        message_id=f"{header.message_id}/reply" if reply else header.message_id,
        src_node_id=ends[0],
        dst_node_id=ends[1],
        reply_to_message_id=header.message_id if reply else "",
        group_id=header.group,
        created_at=header.created,
        ttl=header.ttl,
        message_type=header.type,
    )


def new_instruction(
    content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None
) -> Message:
    """What `Grid.create_message` returns."""
    return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


def become_server(run_id: int) -> None:
    """`Message()` reads a process-global identity: set it before the ServerApp runs.

    On Flower's own engines it is set already, to what their SuperLink wants to see.
    """
    if TaskIdentity._run_id == run_id:
        return
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SERVER_NODE_ID


# --- randomness -----------------------------------------------------------------------------------


def seed_generators(seed: bytes) -> None:
    """Seed `random`, NumPy and, if it is imported, torch."""
    random.seed(seed)
    np.random.seed(np.frombuffer(seed[:32], np.uint32))
    if (torch := _torch("manual_seed")) is not None:
        torch.manual_seed(int.from_bytes(seed[:8], "big") >> 1)


def _torch(needed: str) -> Any:
    """torch, if it is imported; where another thread has only begun to import it, it is not yet."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, needed) else None


@contextmanager
def generators_kept() -> Iterator[None]:
    """Whatever happens inside, the generators outside go on as if it had not."""
    python, numpy = random.getstate(), np.random.get_state()
    torch = _torch("set_rng_state")
    tensor = torch.get_rng_state() if torch is not None else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch is not None:
            torch.set_rng_state(tensor)


# --- handlers -------------------------------------------------------------------------------------


@dataclass
class _Slot:
    records: RecordDict


_slot: ContextVar[_Slot | None] = ContextVar("barnraise.carry", default=None)


def load_carry(context: Context) -> RecordDict:
    """What this member's handlers left behind in this run; empty at first.

    On Flower's own engines, which know no carry file, it lives in `Context.state`.
    """
    if (slot := _slot.get()) is not None:
        return slot.records
    prefix = f"{_CARRY}."
    return RecordDict(
        {k.removeprefix(prefix): v for k, v in context.state.items() if k.startswith(prefix)}
    )


def save_carry(context: Context, records: RecordDict) -> None:
    """Keep `records` for this member's next handler; committed together with state and reply."""
    if (slot := _slot.get()) is not None:
        slot.records = records
        return
    for key in [k for k in context.state if k.startswith(f"{_CARRY}.")]:
        del context.state[key]
    for key, record in records.items():
        context.state[f"{_CARRY}.{key}"] = record


@dataclass(frozen=True)
class Handled:
    """What a handler leaves: the reply's records or its failure, and what to commit with it.

    After an exception, or a reply that is none, `state` and `carry` are None: the member stays as it
    was. An error that the handler itself chose to return is committed like any reply. `log` is for the
    site alone; it may quote data.
    """

    reply: RecordDict | None
    failure: Failure | None
    state: RecordDict | None
    carry: RecordDict | None
    log: str = ""


def run_handler(
    app: ClientApp, message: Message, context: Context, carry: RecordDict, seed: bytes
) -> Handled:
    """Run one order's handler: seed the generators, run it, return what to commit.

    `context.state` and `carry` are this member's own copies and may be changed. Nothing is caught but
    what the handler raises; a reply that is no `Message`, or that carries an error, is a failure.
    """
    seed_generators(seed)
    slot = _Slot(carry)
    token = _slot.set(slot)
    try:
        reply = app(message, context)
    except (Exception, SystemExit) as error:
        said = error.code if isinstance(error, BarnraiseError) else type(error).__name__
        reason = f"{said} at {place_of(error)}"
        log = "".join(traceback.format_exception(error))
        return Handled(None, Failure(RAISED, reason), None, None, log)
    finally:
        _slot.reset(token)
    return _handled(reply, context, slot)


def _handled(reply: object, context: Context, slot: _Slot) -> Handled:
    if not isinstance(reply, Message):
        reason = f"the handler returned {type(reply).__name__}, not a Message"
        failure = Failure(RAISED, reason)
        return Handled(None, failure, None, None, reason)
    if reply.has_error():
        failure = Failure(int(reply.error.code), str(reply.error.reason or ""))
        return Handled(None, failure, context.state, slot.records, failure.reason)
    if not reply.has_content():
        reason = "the handler returned a Message without content"
        failure = Failure(RAISED, reason)
        return Handled(None, failure, None, None, reason)
    return Handled(reply.content, None, context.state, slot.records)


def place_of(error: BaseException) -> str:
    """`file.py:line`, the innermost that is not flwr's, a library's or Python's own."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not _is_library(f.filename)]
    frame = (own or frames)[-1] if frames else None
    return f"{Path(frame.filename).name}:{frame.lineno}" if frame else "an unknown place"


def _is_library(filename: str) -> bool:
    return (
        filename in (__file__, "<string>")
        or filename.startswith(("<frozen ", _STANDARD_LIBRARY))
        or "site-packages" in filename
    )


# --- apps -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Project:
    """A Flower app directory: its two components, its config with overrides, our own switches."""

    directory: Path
    name: str
    server: str
    client: str
    config: UserConfig
    mixed_replies: bool


def project(directory: Path, overrides: UserConfig) -> Project:
    """Read `pyproject.toml` in `directory`. Raises A101, A102 or A104."""
    if not (directory / "pyproject.toml").is_file():
        raise BarnraiseError(
            "A101",
            f"{directory} is not a Flower app",
            "it holds no pyproject.toml" if directory.is_dir() else "there is no such directory",
            next="give the directory that holds the app's pyproject.toml",
        )
    config = _read(directory)
    components = config["tool"]["flwr"]["app"]["components"]
    if "serverapp" not in components or "clientapp" not in components:
        raise BarnraiseError(
            "A104",
            f"{directory} is an AgentApp, which Barnraise does not run",
            f"[tool.flwr.app.components] has {', '.join(sorted(components))}",
            next="give an app with a serverapp and a clientapp",
        )
    try:
        fused = get_fused_config_from_dir(directory, overrides)
    except ValueError as error:
        raise _misconfigured("the configuration does not fit the app", error, directory) from None
    return Project(
        directory,
        str(config["project"]["name"]),
        str(components["serverapp"]),
        str(components["clientapp"]),
        fused,
        _mixed_replies(config, directory),
    )


def _read(directory: Path) -> dict[str, Any]:
    """The app's `pyproject.toml`, with what Flower asks of one. A101 if it is not an app's, A102 if it
    cannot be read."""
    path = directory / "pyproject.toml"
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
        _, missing, _ = validate_fields_in_config(config)
    except (ValueError, OSError) as error:
        raise _misconfigured(f"{path} cannot be used", error, directory) from None
    except (TypeError, AttributeError):
        missing = ["a section of it is a single value"]
    if missing:
        raise BarnraiseError(
            "A101",
            f"{path} does not describe a Flower app",
            "\n".join(missing),
            next="add the [tool.flwr.app.components] that Flower's own `flwr new` writes",
        )
    return config


def _mixed_replies(config: dict[str, Any], directory: Path) -> bool:
    ours = config["tool"].get("barnraise", {})
    value = ours.get("mixed-replies", False) if isinstance(ours, dict) else None
    if not isinstance(value, bool):
        error = ValueError(f"mixed-replies is {value!r}; it must be true or false")
        raise _misconfigured("[tool.barnraise] has a wrong value", error, directory)
    return value


def _misconfigured(what: str, error: Exception, directory: Path) -> BarnraiseError:
    return BarnraiseError(
        "A102",
        what,
        str(error),
        next=f"correct {directory / 'pyproject.toml'}, or the -c that you gave",
    )


class _LoadError(Exception):
    pass


def _load(reference: str, directory: Path, kind: type) -> Any:
    try:
        app = load_app(reference, _LoadError, directory)
    except BarnraiseError:
        raise
    except (Exception, SystemExit) as error:
        raise BarnraiseError(
            "A103",
            f"{reference} could not be imported",
            f"{type(error).__name__}: {error} ({place_of(error)})",
            next=f"make `python -c 'import {reference.partition(':')[0]}'` work in {directory}",
        ) from error
    if not isinstance(app, kind):
        raise BarnraiseError(
            "A103",
            f"{reference} is not a {kind.__name__}",
            f"it is a {type(app).__name__}",
            next="correct [tool.flwr.app.components] in pyproject.toml",
        )
    return app


def load_server_app(reference: str, directory: Path) -> ServerApp:
    """Import the ServerApp; A103 if that fails, A104 for the old `server_fn` API."""
    return check_server_app(cast(ServerApp, _load(reference, directory, ServerApp)), reference)


def check_server_app(app: ServerApp, reference: str = "the ServerApp") -> ServerApp:
    if app._main is None:
        raise BarnraiseError(
            "A104",
            f"{reference} uses Flower's old server_fn API",
            "it has no function under @app.main()",
            next="move it to the message API: @app.main() def main(grid, context), with a strategy "
            "of flwr.serverapp.strategy (Flower's guide: upgrade to the Message API)",
        )
    return app


def load_client_app(reference: str, directory: Path) -> ClientApp:
    """Import the ClientApp; A103 if that fails, A104 for the old `client_fn` API."""
    return check_client_app(cast(ClientApp, _load(reference, directory, ClientApp)), reference)


def check_client_app(app: ClientApp, reference: str = "the ClientApp") -> ClientApp:
    if app._call is not None:
        raise BarnraiseError(
            "A104",
            f"{reference} uses Flower's old client_fn API",
            "it was made with ClientApp(client_fn=…)",
            next="move it to the message API: @app.train() def train(message, context)",
        )
    return app


def new_context(
    run_id: int, node_id: int, node_config: UserConfig, state: RecordDict, run_config: UserConfig
) -> Context:
    return Context(run_id, node_id, dict(node_config), state, dict(run_config))


@contextmanager
def strategy_start_watched(
    grid: Grid,
    started: Callable[[Strategy], None],
    finished: Callable[[Strategy, ArrayRecord], None],
) -> Iterator[None]:
    """Inside, `Strategy.start` on this grid also calls `started`, and `finished` with its arrays.

    `Strategy.start` is the only definition; no Flower strategy overrides it.
    """
    original, watched = Strategy.start, grid

    def start(self: Strategy, grid: Grid, *args: Any, **kwargs: Any) -> Result:
        if grid is watched:
            started(self)
        result = original(self, grid, *args, **kwargs)
        if grid is watched:
            finished(self, result.arrays)
        return result

    Strategy.start = start  # type: ignore[method-assign]
    try:
        yield
    finally:
        Strategy.start = original  # type: ignore[method-assign]


@contextmanager
def roster_is_final() -> Iterator[None]:
    """Inside, a Flower strategy that waits for more nodes asks again at once, not after a second."""
    module = vars(strategy_utils)
    original = module["sleep"]
    module["sleep"] = lambda seconds: None
    try:
        yield
    finally:
        module["sleep"] = original


# --- what the command needs ---------------------------------------------------------------------


def run_config(text: str) -> UserConfig:
    """What flwr's own command makes of one `--run-config`. `ValueError` if it is malformed.

    What is not of the form `key=value` is left out without a word.
    """
    try:
        return parse_config_args([text])
    except click.ClickException:
        raise ValueError("its values are not TOML") from None
