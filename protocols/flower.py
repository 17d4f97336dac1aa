"""The one adapter onto flwr: everything that touches its internals, and nothing else does.

    records ⇄ content      `encode`, `decode`, lazily read arrays
    messages               `instruction`, `reply_to_order`, `failed`
    handlers               `run_handler`, the one function that runs a ClientApp handler
    apps                   `load_server_app`, `load_client_app`, `project`
    strategies             `strategy_start_watched`, which takes `Result.arrays`

Facts about flwr that decide this file stand in DESIGN §11. Nothing in `protocols` imports it.
"""

from __future__ import annotations

import io
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
    UserConfig,
)
from flwr.clientapp import ClientApp
from flwr.common.config import get_fused_config_from_dir, get_project_config
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result, Strategy
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from barnraise.protocols.content import (
    NUMPY,
    ArrayEntry,
    Arrays,
    ContentError,
    Envelope,
    Failure,
    Values,
)
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.tensors import (
    FileTensor,
    MemoryTensor,
    Spec,
    Tensor,
    size_of,
    storable,
)
from barnraise.protocols.tensors import (
    encode as encode_blob,
)

__all__ = ["Grid", "Run"]

SERVER_NODE_ID = 1
RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
CRASHED = ErrorCode.CLIENT_APP_CRASHED
_CARRY = "barnraise.carry"


class BlobSource(Protocol):
    """Where blobs are read from."""

    def path(self, digest: str) -> Path:
        """The file that holds this blob."""
        ...

    def specs(self, digest: str) -> Mapping[str, Spec]:
        """The tensors in this blob."""
        ...


class BlobSink(BlobSource, Protocol):
    """Where blobs are written to."""

    def has(self, digest: str) -> bool: ...

    def put(self, pieces: Iterator[memoryview]) -> str:
        """Store the bytes, hashed while they flow; returns their digest."""
        ...


# --- arrays ---------------------------------------------------------------------------------------


class LazyArray(Array):
    """A flwr `Array` whose bytes stay in a blob on disk until they are asked for.

    `numpy()` reads them into a private, writable array; `data` builds npy bytes afresh each time.
    Setting any field turns it into an ordinary array. flwr goes by the class name: keep it.
    """

    def __init__(
        self, digest: str, path: Path, spec: Spec, raw: tuple[str, str, tuple[int, ...]] | None
    ) -> None:
        stype, dtype, shape = raw or (NUMPY, spec.dtype_name, spec.shape)
        self.__dict__.update(
            dtype=dtype, shape=shape, stype=stype, _blob=(digest, path, spec), _raw=raw is not None
        )

    @property
    def data(self) -> bytes:
        if (held := self.__dict__.get("_held")) is not None:
            return cast(bytes, held)
        payload = self.tensor().load()
        if self.__dict__["_raw"]:
            return payload.tobytes()
        return _npy_header(payload.dtype, payload.shape) + payload.tobytes()

    @data.setter
    def data(self, value: bytes) -> None:
        self.__dict__["_held"] = value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("dtype", "shape", "stype") and not self.changed:
            self.__dict__["_held"] = self.data
        super().__setattr__(name, value)

    @property
    def changed(self) -> bool:
        """Whether someone has set a field, so that the blob no longer speaks for this array."""
        return "_held" in self.__dict__

    @property
    def blob(self) -> str:
        return cast(str, self.__dict__["_blob"][0])

    @property
    def native(self) -> bool:
        return not self.__dict__["_raw"] and not self.changed

    @property
    def spec(self) -> Spec:
        return cast(Spec, self.__dict__["_blob"][2])

    def tensor(self) -> FileTensor:
        _, path, spec = self.__dict__["_blob"]
        return cast(Spec, spec).open(path)

    def numpy(self) -> NDArray[Any]:
        return self.tensor().load() if self.native else super().numpy()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        return (self.dtype, self.shape, self.stype, self.data) == (
            other.dtype,
            other.shape,
            other.stype,
            other.data,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Array(dtype={self.dtype!r}, shape={self.shape!r}, stype={self.stype!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Array, (self.dtype, self.shape, self.stype, self.data))


LazyArray.__qualname__ = "Array"


@lru_cache(maxsize=4096)
def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The bytes that `np.save` puts before an array of this dtype and shape in C order."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out,
        {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape,
        },
    )
    return out.getvalue()


def array_of(array: NDArray[Any]) -> Array:
    """An ordinary flwr `Array` with the elements of `array`, in C order; copies them once."""
    payload = np.ascontiguousarray(array).reshape(-1).data.cast("B") if array.size else b""
    data = b"".join((_npy_header(array.dtype, array.shape), payload))
    return Array(str(array.dtype), tuple(array.shape), NUMPY, data)


@lru_cache(maxsize=256)
def _dtype_named(name: str) -> np.dtype[Any] | None:
    try:
        return np.dtype(name)
    except TypeError:
        return None


def _native(array: Array) -> NDArray[Any] | None:
    """The elements, without a copy where possible; None if a blob cannot hold them natively."""
    dtype = _dtype_named(array.dtype) if array.stype == NUMPY else None
    if dtype is None or not storable(dtype):
        return None
    shape, data = tuple(array.shape), array.data
    header = _npy_header(dtype, shape)
    if data.startswith(header):
        flat = np.frombuffer(data, np.uint8, offset=len(header))
        if flat.size == size_of(shape) * dtype.itemsize:
            return flat.view(dtype).reshape(shape)
    try:
        loaded = np.load(stream := io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError):
        return None
    if not isinstance(loaded, np.ndarray) or loaded.dtype != dtype or loaded.shape != shape:
        return None
    return np.asarray(loaded, order="C") if stream.tell() == len(data) else None


def tensor_of(array: Array) -> Tensor:
    """The array's elements, read in pieces; `TypeError` if they are not a NumPy array's."""
    if isinstance(array, LazyArray) and array.native:
        return array.tensor()
    elements = _native(array)
    if elements is None:
        raise TypeError(
            f"an array of stype {array.stype!r} and dtype {array.dtype!r} has no elements"
        )
    return MemoryTensor.of(elements)


# --- records ⇄ content ----------------------------------------------------------------------------


def encode(records: RecordDict, sink: BlobSink) -> Envelope:
    """The content of `records`; its blobs go to `sink`. `ContentError` if the format cannot hold it."""
    return Envelope(tuple((name, _encode_record(record, sink)) for name, record in records.items()))


def _encode_record(
    record: ArrayRecord | MetricRecord | ConfigRecord, sink: BlobSink
) -> Arrays | Values:
    if isinstance(record, ArrayRecord):
        return _encode_arrays(record, sink)
    kind = "metrics" if isinstance(record, MetricRecord) else "config"
    return Values(kind, tuple((key, value) for key, value in record.items()))


def _encode_arrays(record: ArrayRecord, sink: BlobSink) -> Arrays:
    if (known := _unchanged_blob(record, sink)) is not None:
        return Arrays(known, tuple(ArrayEntry(key) for key in record))
    arrays: dict[str, NDArray[Any]] = {}
    entries = []
    for key, array in record.items():
        elements = array.numpy() if _is_native_lazy(array) else _native(array)
        if elements is None:
            entries.append(ArrayEntry(key, (array.stype, array.dtype, tuple(array.shape))))
            elements = np.frombuffer(array.data, np.uint8)
        else:
            entries.append(ArrayEntry(key))
        arrays[key] = elements
    return Arrays(sink.put(encode_blob(arrays)), tuple(entries))


def _is_native_lazy(array: Array) -> bool:
    return isinstance(array, LazyArray) and array.native


def _unchanged_blob(record: ArrayRecord, sink: BlobSink) -> str | None:
    """The blob that already holds exactly these arrays under these names, if the sink has it."""
    first = next(iter(record.values()), None)
    if not isinstance(first, LazyArray) or not sink.has(first.blob):
        return None
    for key, array in record.items():
        if not (
            isinstance(array, LazyArray)
            and array.native
            and array.blob == first.blob
            and array.spec.name == key
        ):
            return None
    return first.blob if set(record) == set(sink.specs(first.blob)) else None


def decode(envelope: Envelope, source: BlobSource) -> RecordDict:
    """Fresh records with lazily read arrays. `ContentError` if envelope and blobs contradict."""
    records = RecordDict()
    for name, record in envelope.records:
        if isinstance(record, Arrays):
            records[name] = _decode_arrays(record, source)
        elif record.kind == "metrics":
            records[name] = MetricRecord(dict(record.items))  # type: ignore[arg-type]
        else:
            records[name] = ConfigRecord(dict(record.items))  # type: ignore[arg-type]
    return records


def _decode_arrays(record: Arrays, source: BlobSource) -> ArrayRecord:
    path, specs = source.path(record.blob), source.specs(record.blob)
    if {e.key for e in record.entries} != set(specs):
        raise ContentError("the envelope names other arrays than its blob holds")
    arrays = ArrayRecord()
    for entry in record.entries:
        spec = specs[entry.key]
        if entry.raw is not None and (spec.dtype != np.uint8 or len(spec.shape) != 1):
            raise ContentError("a serialized array whose blob is not bytes")
        arrays[entry.key] = LazyArray(record.blob, path, spec, entry.raw)
    return arrays


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
    """`Message()` reads a process-global identity: set it before the ServerApp runs."""
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SERVER_NODE_ID


# --- randomness -----------------------------------------------------------------------------------


def seed_generators(seed: bytes) -> None:
    """Seed `random`, NumPy and, if it is imported, torch."""
    random.seed(seed)
    np.random.seed(np.frombuffer(seed[:32], np.uint32))
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(int.from_bytes(seed[:8], "big") >> 1)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Whatever happens inside, the generators outside go on as if it had not."""
    python, numpy = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
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

    After a failure `state` and `carry` are None: the member stays as it was. `log` is for the site
    alone; it may quote data.
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
        reason = f"{type(error).__name__} at {_place(error)}"
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
        failure = Failure(reply.error.code, reply.error.reason or "")
        return Handled(None, failure, context.state, slot.records, failure.reason)
    if not reply.has_content():
        reason = "the handler returned a Message without content"
        failure = Failure(RAISED, reason)
        return Handled(None, failure, None, None, reason)
    return Handled(reply.content, None, context.state, slot.records)


def _place(error: BaseException) -> str:
    """The innermost line of code that is not flwr's or a library's, as `file.py:line`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and __file__ != f.filename]
    frame = (own or frames)[-1] if frames else None
    return f"{Path(frame.filename).name}:{frame.lineno}" if frame else "an unknown place"


def place_of(error: BaseException) -> str:
    """`file.py:line` where the app's own code raised `error`."""
    return _place(error)


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
    try:
        config = get_project_config(directory)
    except ValueError as error:
        raise BarnraiseError(
            "A101",
            f"{directory / 'pyproject.toml'} does not describe a Flower app",
            str(error),
            next="add the [tool.flwr.app.components] that Flower's own `flwr new` writes",
        ) from None
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
        raise BarnraiseError(
            "A102",
            "the configuration does not fit the app",
            str(error),
            next=f"the app's keys stand in [tool.flwr.app.config] of {directory / 'pyproject.toml'}",
        ) from None
    ours = config.get("tool", {}).get("barnraise", {})
    return Project(
        directory,
        str(config["project"]["name"]),
        str(components["serverapp"]),
        str(components["clientapp"]),
        fused,
        bool(ours.get("mixed-replies", False)),
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
            f"{type(error).__name__}: {error} ({_place(error)})",
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
    original = Strategy.start

    def start(self: Strategy, grid_: Grid | None = None, *args: Any, **kwargs: Any) -> Result:
        target = grid_ if grid_ is not None else kwargs.pop("grid")
        ours = target is grid
        if ours:
            started(self)
        result = original(self, target, *args, **kwargs)
        if ours:
            finished(self, result.arrays)
        return result

    Strategy.start = start  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Strategy.start = original  # type: ignore[method-assign]
