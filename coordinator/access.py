"""Who may call: every RPC at the session port passes here, whichever service it belongs to.

    1. TLS has let in whoever holds a certificate of the federation's authority (DESIGN §7).
    2. The call is entered in the list of its member's calls; beyond the limit, the oldest is cut.
    3. The member is looked up: unknown or revoked, and the call ends here.

In this sequence a member that is revoked at any moment has no call left: either (3) refuses it, or
`cut`, which comes after the revocation, finds it in the list.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeAlias

import grpc

from barnraise.coordinator import refusals
from barnraise.coordinator.refusals import Refused
from barnraise.protocols.identity import Member
from barnraise.protocols.pki import Peer

LIMITS = {"Attend": 2, "Deliver": 1, "Fetch": 4}
OTHERS = 4  # calls of one member to all other methods together, at a time

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
FORMS: Mapping[str, Callable[..., Handler]] = {
    "unary_unary": grpc.stream_unary_rpc_method_handler,
    "unary_stream": grpc.stream_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}
"""What serves each form of method. gRPC would wait for a single request in a thread of the port, before
anybody has looked whose call it is: so here each request is a stream, which on the wire is the same."""

_caller: ContextVar[Member] = ContextVar("barnraise.caller")


def caller() -> Member:
    """The member whose call this thread serves."""
    return _caller.get()


class _Call:
    def __init__(self, context: grpc.ServicerContext) -> None:
        self.context = context
        self.gone = threading.Event()


class Calls:
    """The calls that are being served, by member and method. All state is under `_lock`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[tuple[str, str], list[_Call]] = {}

    @contextmanager
    def entered(self, member: str, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Serve a call; beyond its method's limit the oldest one is cut and waited for."""
        call, key = _Call(context), (member, method if method in LIMITS else "")
        with self._lock:
            calls = self._calls.setdefault(key, [])
            calls.append(call)
            over = calls[: -LIMITS.get(method, OTHERS)]
        try:
            for old in over:
                old.context.cancel()
            for old in over:
                while context.is_active() and not old.gone.wait(1.0):
                    """It ends with its step, which is one message or one piece."""
            if over and not context.is_active():
                raise refusals.displaced()
            yield
        finally:
            with self._lock:
                calls.remove(call)
                if not calls and self._calls.get(key) is calls:
                    del self._calls[key]
            call.gone.set()

    def cut(self, member: str, *, spare: str = "") -> None:
        """Cancel this member's calls, but for one method's."""
        for call in self._of(member, spare):
            call.context.cancel()

    def wait_until_gone(self, member: str, seconds: float) -> None:
        """Wait, at most so long, until the calls that this member has now are over."""
        end = time.monotonic() + seconds
        for call in self._of(member):
            call.gone.wait(max(0.0, end - time.monotonic()))

    def _of(self, member: str, spare: str = "") -> list[_Call]:
        with self._lock:
            return [
                call
                for (name, method), calls in self._calls.items()
                if name == member and method != spare
                for call in calls
            ]

    def count(self, member: str) -> int:
        return len(self._of(member))


class Guard(grpc.ServerInterceptor):
    """Wraps every method of every service that its server has.

    `member` gives the member with an identity fingerprint, None if it is unknown or revoked; it is called
    from many threads.
    """

    def __init__(self, member: Callable[[str], Member | None], calls: Calls) -> None:
        self._member, self._calls = member, calls

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = continuation(details)
        if handler is None:
            return None
        method = details.method.rpartition("/")[2]
        guard = self._streaming if handler.response_streaming else self._single
        for form, make in FORMS.items():
            if (inner := getattr(handler, form)) is not None:
                behaviour = guard(method, inner if handler.request_streaming else _first(inner))
                return make(behaviour, handler.request_deserializer, handler.response_serializer)
        return None

    def _streaming(self, method: str, inner: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with refusing(context), self._admitted(method, context):
                yield from inner(request, context)

        return guarded

    def _single(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            with refusing(context), self._admitted(method, context):
                return inner(request, context)

        return guarded

    @contextmanager
    def _admitted(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        peer = peer_of(context)
        with self._calls.entered(peer.member, method, context):
            member = self._member(peer.fingerprint)
            if member is None or member.name != peer.member:
                raise refusals.revoked()
            _caller.set(member)
            yield


def _first(inner: Callable[..., Any]) -> Callable[..., Any]:
    """A method with a single request, given the stream of its requests."""

    def first(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        if (request := next(requests, None)) is None:
            raise refusals.nonsense("the call brought no request")
        return inner(request, context)

    return first


def peer_of(context: grpc.ServicerContext) -> Peer:
    """Whose certificate the connection has; `Refused` (N201) if it has none that says so."""
    shown = list(context.auth_context().get("x509_pem_cert", ()))
    if len(shown) != 1 or not isinstance(shown[0], bytes):
        raise Refused("UNAUTHENTICATED", "N201", "the connection shows no certificate")
    try:
        return _named(shown[0])
    except ValueError as error:
        raise Refused("UNAUTHENTICATED", "N201", str(error)) from None


@lru_cache(maxsize=256)
def _named(certificate: bytes) -> Peer:
    """Whom a certificate names follows from its bytes; TLS judges each connection's anew."""
    return Peer.of(certificate)


@contextmanager
def refusing(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the call with the status that a `Refused` names."""
    try:
        yield
    except Refused as refused:
        context.abort(grpc.StatusCode[refused.status], str(refused))
