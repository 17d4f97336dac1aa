"""The node between runs: it attends, so that the operator sees it, learns what is proposed, and waits.

It runs nothing and imports nothing, and is a witness of the log all the same. It ends when a run is
open that the site has approved, when its approvals have changed (it then says so anew), or when it is
told to end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from barnraise.client.node import consent, leaving, misconduct
from barnraise.client.node.clerk import Visited
from barnraise.client.node.gate import Gate
from barnraise.client.node.link import Cut, Heard, Link
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.policy import Held
from barnraise.client.node.site import Look, Site, Stop, check_admitted, revoked
from barnraise.client.node.witness import Caught
from barnraise.protocols import federation_pb2 as pb

AGAIN = 10.0  # seconds after which a visit that failed is tried again


@dataclass(frozen=True)
class Begin:
    """A run is open, under an agreement that this site approved."""

    run: str
    run_id: int
    agreement: str


@dataclass(frozen=True)
class Again:
    """The site's approvals have changed."""


class Idle:
    """Owned by the thread that calls `run`. `refused`: agreements whose code may not run, with the reason."""

    def __init__(
        self,
        home: Path,
        federation: str,
        site: Site,
        mail: Mailbox,
        log: logging.Logger,
        gate: Gate,
        visit: Callable[[Link], None],
        refused: Mapping[str, str],
    ) -> None:
        self._home, self._federation, self._site = home, federation, site
        self._mail, self._log, self._gate, self._visit = mail, log, gate, visit
        self._refused = dict(refused)
        self._agreements = [a for a in consent.consents(home) if a not in self._refused]
        self._link = Link(site.connect, self._hello, self._look, leaving=gate.spoken)
        site.witness.speak(self._link.say)
        self._connected, self._last_cut, self._said = False, "", ("", "")
        self._since = time.time()
        self._visit_at: float | None = None  # when a visit that failed is tried again

    def run(self) -> Begin | Again | int:
        """Wait; what comes next, or the node's exit status. Raises N105, and N310 to N312."""
        try:
            self._link.start()
            while True:
                self._say()
                if self._gate.draining:
                    return 0
                if self._visit_at is not None and time.monotonic() >= self._visit_at:
                    self._visit_at = None
                    self._visit(self._link)
                outcome = self._hear(self._mail.take(self._gate.patience()))
                if outcome is not None:
                    return outcome
        finally:
            self._link.stop()
            self._site.witness.close()

    def as_dict(self) -> dict[str, Any]:
        """What is going on; called in another thread."""
        held = self._said[1]
        return {
            "run": "",
            "state": "idle",
            "order": "",
            "held": held,
            "since": self._since,
            "round": None,
            "connected": self._connected,
            "cut": self._last_cut,
            "refusing": next(iter(self._refused.values()), ""),
        }

    def _hello(self) -> pb.Hello:
        return pb.Hello(
            version=version("barnraise"),
            clock=time.time(),
            agreements=self._agreements,
            log_size=self._site.witness.size,
        )

    def _look(self, said: Heard | Cut) -> None:
        """In the link's thread."""
        self._mail.post(self._site.witness.heard(said, self._link))

    def _say(self) -> None:
        decided = self._gate.decide()
        held = str(decided) if isinstance(decided, Held) else ""
        held = held or next(iter(self._refused.values()), "")
        if leaving.statement(self._home) is not None:
            held = "leaving the federation"
        if ("idle", held) != self._said:
            self._said, self._since = ("idle", held), time.time()
            self._link.state("idle", "", held)

    def _hear(self, fact: Any) -> Begin | Again | int | None:
        match fact:
            case Stop():
                return 0
            case Look():
                return self._looked()
            case Visited(left=True):
                return 0
            case Visited():
                self._gate.look()
                self._visit_at = time.monotonic() + AGAIN if fact.failed else None
            case Cut():
                self._connected = False
                if not leaving.final(self._home):
                    check_admitted(fact.why, self._site.member, self._federation)
                if fact.why != self._last_cut:
                    self._log.info("not connected (%s); trying again until it is there", fact.why)
                self._last_cut = fact.why
            case Heard(found=Caught()):
                witness = self._site.witness
                raise misconduct.caught_by(self._home, fact.found, witness, self._link, self._mail)
            case Heard():
                return self._heard(fact.message)
        return None

    def _looked(self) -> Again | None:
        """The admin has changed something."""
        self._gate.look()
        if self._refused or set(consent.consents(self._home)) != set(self._agreements):
            return Again()
        self._visit(self._link)
        return None

    def _heard(self, message: pb.ToNode) -> Begin | int | None:
        match message.WhichOneof("said"):
            case "welcome":
                return self._welcome(message.welcome)
            case "notice":
                self._visit(self._link)
            case "dismissal":
                return self._dismissed(message.dismissal)
        return None

    def _welcome(self, welcome: pb.Welcome) -> Begin | None:
        if (welcome.federation, welcome.member) != (self._federation, self._site.member):
            said = f"{welcome.member!r} of {welcome.federation!r}"
            self._log.error("N304: the coordinator takes this node for %s", said)
            return None
        if not self._connected:
            self._log.info("attending as %s", self._site.member)
        self._connected, self._last_cut = True, ""
        self._visit(self._link)
        if not welcome.run or welcome.agreement not in self._agreements:
            return None
        if leaving.statement(self._home) is not None or not welcome.run_id.isdigit():
            return None
        return Begin(welcome.run, int(welcome.run_id[:20]), welcome.agreement)

    def _dismissed(self, dismissal: pb.Dismissal) -> int | None:
        self._log.warning("dismissed: %s: %s", dismissal.why, dismissal.text)
        if dismissal.why in ("displaced", "left") or leaving.left(self._home) is not None:
            return 0
        if dismissal.why == "revoked":
            raise revoked(self._site.member, self._federation, dismissal.text)
        return None
