"""The life of a node that has joined a federation: idle, at work for a run, idle again, until it is ended.

    N/approved/   what may run           N/policy.toml   what is allowed        N/sent.db   what left
    N/node.sock   where `barnraise node …` asks and tells; all that it changes lies in files

Whatever is wrong with one run's code or approval is said, and the node goes on attending without it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from barnraise.client.keys import Membership
from barnraise.client.node import consent, control, leaving, policy_file
from barnraise.client.node.approval import Approval
from barnraise.client.node.clerk import Clerk
from barnraise.client.node.gate import Errand, Gate
from barnraise.client.node.idle import Again, Begin, Idle
from barnraise.client.node.link import Link
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.node import Look, Node, Site, Stop
from barnraise.client.node.sent import FILE, Sent
from barnraise.protocols.apps import BUILT_IN, code_kept
from barnraise.protocols.charter import Charter
from barnraise.protocols.errors import BarnraiseError

REFUSALS = frozenset({"N303", "P103", "P105", "C102", "C103", "C104"})
"""What is wrong with one run's approval or code, and no reason for the node to end."""


class Life:
    """`run` belongs to the main thread; `answer` is called in the control socket's."""

    def __init__(
        self,
        home: Path,
        membership: Membership,
        site: Callable[[], Site],
        key: bytes,
        log: logging.Logger,
    ) -> None:
        self._home, self._membership, self._site, self._log = home, membership, site, log
        self._sent = Sent(home / FILE)
        self._clerk = Clerk(home, membership, key, self._sent, self._urge, log)
        self._lock = threading.Lock()  # _mail, _now, _stopped
        self._mail = Mailbox()
        self._now: Idle | Node | None = None
        self._gate: Gate | None = None
        self._stopped = self._draining = False
        self._refused: dict[str, str] = {}

    # --- its thread -------------------------------------------------------------------------------

    def run(self) -> int:
        """Until the node is told to end, is displaced, or has left; its exit status."""
        policy_file.make(self._home)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        try:
            with control.listening(self._home, self.answer):
                return self._phases()
        finally:
            self._sent.close()

    def _phases(self) -> int:
        while True:
            outcome = self._idle()
            if isinstance(outcome, int):
                return outcome
            if isinstance(outcome, Again):
                self._refused.clear()
                continue
            try:
                ended = self._work(outcome)
            except BarnraiseError as error:
                if error.code not in REFUSALS:
                    raise
                self._log.error("%s", error)
                self._refused[outcome.agreement] = _refusal(error)
                continue
            if ended is not None:
                return ended

    def _idle(self) -> Begin | Again | int:
        gate = Gate(self._home, self._sent)
        idle = Idle(
            self._home,
            self._membership.federation,
            self._site(),
            self._fresh(),
            self._log,
            gate,
            self._visit,
            self._refused,
        )
        self._enter(idle, gate)
        return idle.run()

    def _work(self, begin: Begin) -> int | None:
        """Work for a run; None when it is over."""
        told = Gate(self._home, self._sent).node_config()
        approval, charter = consent.approval_for(
            self._home, begin.agreement, begin.run, begin.run_id, told
        )
        approval.check_code()
        code = code_kept(approval.code)
        errand = Errand(begin.run, approval.app, charter, begin.agreement, _codec(approval))
        gate = Gate(self._home, self._sent, errand, code)
        self._log.info(
            "%s: run %s begins, of %s", self._membership.member, begin.run, begin.agreement
        )
        node = Node(self._home, approval, self._site(), self._fresh(), self._log, gate, self._visit)
        self._enter(node, gate)
        ended = node.run()
        self._sent.flush()
        return None if node.over else ended

    def _fresh(self) -> Mailbox:
        """A mailbox without what the phase before has left unread."""
        with self._lock:
            self._mail = Mailbox()
            return self._mail

    def _enter(self, now: Idle | Node, gate: Gate) -> None:
        with self._lock:
            self._now, self._gate = now, gate
            stopped, draining = self._stopped, self._draining
        if stopped:
            self._urge(Stop())
        if draining:
            gate.drain()

    def _visit(self, link: Link) -> None:
        self._clerk.visit(link.membership())

    def _stop(self) -> None:
        """Called from a signal handler, so without a lock: whoever holds it may be this very thread."""
        self._stopped = True
        self._mail.urge(Stop())

    def _urge(self, fact: Any) -> None:
        with self._lock:
            mail = self._mail
        mail.urge(fact)

    # --- what is asked on this machine --------------------------------------------------------------

    def answer(self, verb: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """`status`, `look` (something was changed in the files), `drain`, `stop`."""
        match verb:
            case "status":
                return self._status()
            case "look":
                self._urge(Look())
            case "drain":
                self._drain()
            case "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            case _:
                raise ValueError(f"a node knows no {verb!r}")
        return {}

    def _drain(self) -> None:
        with self._lock:
            self._draining = True
            gate = self._gate
        if gate is not None:
            gate.drain()
        self._urge(Look())

    def _status(self) -> dict[str, Any]:
        with self._lock:
            now = self._now
        at_work = now.as_dict() if now is not None else {}
        return {"running": True, "pid": os.getpid(), "draining": self._draining, **at_work} | {
            "coordinator": self._clerk.as_dict(),
            "refused": dict(self._refused),
            "left": leaving.left(self._home),
        }


def _refusal(error: BarnraiseError) -> str:
    return f"{error.code}: {error.what}; {error.next}"


def _codec(approval: Approval) -> str | None:
    """The codec of the built-in app's updates, "" for whole models; None for another app."""
    if approval.client != BUILT_IN:
        return None
    return Charter.parse(str(approval.run_config["charter"])).training.codec or ""
