"""What a node does for its membership while it is connected: looks at proposals, signs, states, leaves.

Each visit is a thread of its own, one at a time; what it found is told by `tell` and kept for whoever asks
how things stand. Signing is the admin's (`consent.approve`): the clerk carries statements, it makes none.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from barnraise.client.data import kept
from barnraise.client.data.kept import Kept
from barnraise.client.keys import Membership
from barnraise.client.node import consent, leaving, transfers
from barnraise.client.node.material import Asked, look
from barnraise.client.node.sent import Sent
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.federation_pb2_grpc import MembershipStub


@dataclass(frozen=True)
class Visited:
    """A visit is over. `left`: the site has left the federation. `failed`: it may be tried again."""

    left: bool = False
    failed: bool = False


class Clerk:
    """`asked`, `trouble` and `signed` are under `_lock`; `visit` may be called from any thread."""

    def __init__(
        self,
        home: Path,
        membership: Membership,
        key: bytes,
        sent: Sent,
        tell: Callable[[Visited], None],
        log: logging.Logger,
    ) -> None:
        self._home, self._membership, self._key = home, membership, key
        self._sent, self._tell, self._log = sent, tell, log
        self._lock = threading.Lock()
        self._busy = self._again = False
        self._asked: list[Asked] = []
        self._signed: dict[str, tuple[int, int]] = {}
        self._trouble = ""
        self._unwanted = ""  # the data statement that the coordinator has refused

    def as_dict(self) -> dict[str, Any]:
        """What the coordinator asks for, how many have signed, and what is in the way of asking."""
        with self._lock:
            return {
                "asked": [vars(one) for one in self._asked],
                "signed": {name: list(counts) for name, counts in self._signed.items()},
                "trouble": self._trouble,
            }

    def visit(self, stub: MembershipStub | None) -> None:
        """Go and look, over this connection; if a visit is going on, once more after it."""
        if stub is None:
            return
        with self._lock:
            if self._busy:
                self._again = True
                return
            self._busy = True
        threading.Thread(target=self._run, args=(stub,), name="clerk", daemon=True).start()

    def _run(self, stub: MembershipStub) -> None:
        left, failed = False, True
        try:
            left, failed = self._visit(stub), False
            self._note("")
        except (transfers.Failed, transfers.Refused, BarnraiseError) as error:
            self._note(str(error))
        except Exception as error:  # a visit that ends without a word would never be tried again
            self._log.exception("visiting the coordinator")
            self._note(repr(error))
        with self._lock:
            self._busy, again = False, self._again
            self._again = False
        self._tell(Visited(left, failed))
        if again and not left:
            self.visit(stub)

    def _note(self, trouble: str) -> None:
        with self._lock:
            was, self._trouble = self._trouble, trouble
        if trouble and trouble != was:
            self._log.warning("proposals cannot be looked at: %s", trouble)

    def _visit(self, stub: MembershipStub) -> bool:
        """Whether the site has left."""
        if (statement := leaving.statement(self._home)) is not None:
            held = self._carry("leave", stub.Leave, statement).models
            leaving.done(self._home, [str(m)[:200] for m in held])
            self._log.warning("left the federation")
            return True
        asked = look(stub, self._home, self._membership, self._key)
        self._tell_of(asked)
        approved = consent.consents(self._home)
        for one in asked:
            mine = approved.get(one.agreement)
            if mine is not None and (not one.signed or one.agreement not in self._signed):
                reply = self._carry("charter", stub.Sign, mine.statement)
                with self._lock:
                    self._signed[one.agreement] = (reply.signed, reply.quorum)
                self._log.info(
                    "signed %s: %d of %d", one.agreement[:19], reply.signed, reply.quorum
                )
        if (stated := kept.pending(self._home)) is not None:
            self._state(stub, stated)
        return False

    def _state(self, stub: MembershipStub, stated: Kept) -> None:
        """Hand over the data statement; one that was refused is not offered again while this node runs."""
        digest = stated.statement.digest
        if digest == self._unwanted:
            return
        code = [pb.CodeFile(path=path, data=data) for path, data in stated.code.items()]
        said = pb.DataStatement(
            statement=json.dumps(stated.envelope).encode(),
            document=stated.statement.data,
            code=code,
        )
        self._sent.said(
            "statement", "data", said.ByteSize(), time.time(), document=digest, code=len(code)
        )
        try:
            self._send(stub.StateData, said)
        except transfers.Refused as error:
            self._unwanted = digest
            self._log.error("the data statement %s is refused: %s", digest[:19], error)
            raise
        kept.has(self._home, digest)
        self._log.info("stated the data: %s", digest)

    def _tell_of(self, asked: list[Asked]) -> None:
        with self._lock:
            known, self._asked = {one.agreement for one in self._asked}, asked
        for one in asked:
            if one.agreement not in known:
                self._log.info("asked to agree: %s (%s) %s", one.name, one.agreement, one.fault)

    def _carry(self, kind: str, method: Callable[..., Any], statement: Mapping[str, Any]) -> Any:
        data = json.dumps(statement).encode()
        self._sent.said("statement", kind, len(data), time.time())
        return self._send(method, pb.Signed(statement=data))

    def _send(self, method: Callable[..., Any], message: Any) -> Any:
        """What was said of it is on record before it leaves."""
        self._sent.flush()
        try:
            return method(message)
        except grpc.RpcError as error:
            raise transfers.failure_of(error) from None
        except ValueError:
            raise transfers.Failed("the connection is gone") from None
