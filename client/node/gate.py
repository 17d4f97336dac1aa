"""The gate through which work comes into a site and replies leave it: the policy, held against the facts.

The decisions are `policy`'s; here the facts are gathered: the policy's file, approvals and pauses as they
are now, the clock, what was used and sent today. Owned by the daemon's main thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from barnraise.client.node import consent, policy_file
from barnraise.client.node.confinement import Confinement
from barnraise.client.node.norms import update_norms
from barnraise.client.node.plain import Words
from barnraise.client.node.policy import (
    Allowed,
    Facts,
    Forbidden,
    Held,
    Policy,
    may_leave,
    may_run,
    may_say,
    may_start,
)
from barnraise.client.node.processor import Meter
from barnraise.client.node.sent import Sent, Under
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.apps import Code
from barnraise.protocols.canonical import digest
from barnraise.protocols.content import Arrays, Envelope, Values
from barnraise.protocols.errors import BarnraiseError

MEMORY = 0.2  # seconds for which a decision holds
QUIET = 5.0  # seconds between two looks while nothing is held back
LOOK = 1.0  # seconds for which what was read of the files holds; a command's word makes it look at once
TRAIN = "train"
MEASURED = (TRAIN, "evaluate")


@dataclass(frozen=True)
class Errand:
    """For what the gate is open: a run, its app and charter, and the agreement under which it is; "" where
    there is none. `coded` as in `norms.update_norms`."""

    run: str = ""
    app: str = ""
    charter: str = ""
    agreement: str = ""
    coded: str | None = None


def _local() -> datetime:
    return datetime.now().astimezone()


class Gate:
    def __init__(
        self,
        home: Path,
        sent: Sent,
        errand: Errand = Errand(),
        code: Code | None = None,
        clock: Callable[[], datetime] = _local,
    ) -> None:
        """`code` is the approved app's, whose names an error may say."""
        self.sovereign = bool(errand.agreement) or (home / policy_file.FILE).exists()
        self._home, self._sent, self._errand, self._clock = home, sent, errand, clock
        self._meter = Meter()
        self._read_at = float("-inf")
        self._policy: Policy = Policy()  # type: ignore[call-arg]
        self._file: tuple[int, int, int] | None = None
        self._unreadable = ""
        self._hindered: Mapping[str, str] = {}
        self._said = ""
        self._paused, self._runs = "", frozenset[str]()
        self._draining = False
        self._decided: tuple[float, Allowed | Held] | None = None
        self._withheld: dict[str, str] = {}  # an order -> why its reply may not leave now
        self._words = Words(code or {}) if self.sovereign else None
        self.look()

    # --- what is allowed --------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        return self._policy

    @property
    def under(self) -> Under:
        """Under what everything leaves now."""
        errand = self._errand
        return Under(errand.run, errand.agreement or errand.app, self._policy.digest)

    def look(self) -> None:
        """Read what the admin may have changed. A policy that cannot be read holds everything back."""
        self._read_at, self._decided = time.monotonic(), None
        self._paused, self._runs = consent.paused(self._home), consent.runs(self._home)
        path = self._home / policy_file.FILE
        try:
            fact = path.stat()
            seen: tuple[int, int, int] | None = (fact.st_mtime_ns, fact.st_size, fact.st_ino)
        except OSError:
            seen = None
        if seen != self._file or self._unreadable:
            self._file = seen
            self._read_policy()
        self._sent.under(self.under)

    def _read_policy(self) -> None:
        try:
            before = self._policy
            self._policy = policy_file.read(self._home) or Policy()  # type: ignore[call-arg]
            self._unreadable = ""
            if before != self._policy:
                self._hindered = {}
        except BarnraiseError as error:
            self._unreadable = (  # the operator sees it: no path of this site's
                f"{policy_file.FILE} is no policy: {error.evidence.splitlines()[0]}"
            )

    def decide(self) -> Allowed | Held:
        """Whether work may be taken up now."""
        now = time.monotonic()
        if now - self._read_at > LOOK:
            self.look()
        if self._decided is None or now - self._decided[0] > MEMORY:
            self._decided = (now, self._judged())
        return self._decided[1]

    def _judged(self) -> Allowed | Held:
        if self._unreadable:
            return Held(self._unreadable)
        started = may_start(self._policy, self._hindered)
        if isinstance(started, Held):
            return started
        return may_run(self._policy, self._facts())

    def drain(self) -> None:
        """Take nothing up any more."""
        self._draining, self._decided = True, None

    @property
    def missing(self) -> Mapping[str, str]:
        """What the worker is not cut off from, with the reasons."""
        return {what: why for what, why in self._hindered.items() if why}

    def hindered(self, hindered: Mapping[str, str]) -> bool:
        """Told what the worker is not cut off from; whether it may go on all the same."""
        self._hindered, self._decided = hindered, None
        return isinstance(may_start(self._policy, hindered), Allowed)

    def confinement(self) -> Confinement | None:
        """What the worker is to be confined to; None in a simulation, where it may use what its user may."""
        if not self.sovereign:
            return None
        policy = self._policy
        launcher = tuple(policy.worker.launcher)
        return Confinement(
            tuple(policy.data.directories),
            policy.isolation.required,
            launcher,
            policy.worker.network,
        )

    def node_config(self) -> dict[str, bool | int | float | str]:
        """What the policy has the app be told of this site."""
        told = dict(self._policy.data.config)
        if self._policy.data.directories:
            told.setdefault("data", self._policy.data.directories[0])
        return told

    def agreements(self) -> list[str]:
        """Under which agreement the errand is, as a session says it."""
        return [self._errand.agreement] if self._errand.agreement else []

    def patience(self) -> float:
        """Seconds after which to look again without being told to."""
        return LOOK if isinstance(self.decide(), Held) or self._withheld else QUIET

    def withheld(self) -> str:
        """Why a reply that is ready does not leave now; "" if none is kept back."""
        return next(iter(self._withheld.values()), "")

    @property
    def draining(self) -> bool:
        return self._draining

    def _facts(self) -> Facts:
        now, errand = self._clock(), self._errand
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        spent = self._sent.spent(f"{now:%Y-%m-%d}", midnight.timestamp())
        return Facts(
            now,
            spent,
            errand.app,
            errand.charter,
            errand.run,
            self._runs,
            self._paused,
            self._draining,
        )

    # --- what is used -----------------------------------------------------------------------------

    def spoken(self, message: pb.FromNode) -> None:
        """A message leaves in the session. Any thread; it is counted, and written down later."""
        kind = message.WhichOneof("said") or "nothing"
        what, detail = "", dict[str, Any]()
        match kind:
            case "state":
                what = f"held: {message.state.held}" if message.state.held else message.state.state
            case "progress":
                said = message.progress
                what, detail = f"{said.what} of {said.order}", {"done": said.done, "of": said.total}
        self._sent.said(kind, what, message.ByteSize(), time.time(), **detail)

    def took_up(self, kind: str) -> None:
        """An order of this kind is being worked on from now on."""
        if kind.partition(".")[0] == TRAIN:
            self._use(rounds=1)

    def metered(
        self, worker: int | None, at_work: bool, *, last: bool = False, used: float | None = None
    ) -> None:
        """Put on record what the worker, a process of this machine, used since the last time."""
        processor, gpu = self._meter.read(worker, at_work, last=last, used=used)
        if processor or gpu:
            self._use(processor=processor, gpu=gpu)

    def _use(self, **used: Any) -> None:
        self._sent.use(f"{self._clock():%Y-%m-%d}", **used)
        self._decided = None

    # --- what leaves ------------------------------------------------------------------------------

    def measures(self, kind: str) -> bool:
        """Whether replies to orders of this kind are measured. Queries, which ask for no update, are not."""
        limited = self._policy.limits.update_norm is not None
        return limited and kind.partition(".")[0] in MEASURED

    def forbids(self, order: Envelope, reply: Envelope, blob: Callable[[str], Path]) -> str:
        """Why this reply to this order must never leave; "" if it may. `blob` finds a file by digest."""
        norms = update_norms(order, reply, blob, self._errand.coded)
        said = may_say(self._policy, norms)
        return said.reason if isinstance(said, Forbidden) else ""

    def plain(self, reason: str) -> str:
        """An error's reason as it may leave. A simulation's leaves as it is."""
        return self._words.plain(reason) if self._words is not None else reason

    def leaves(self, order: str, reply: Envelope, size: int) -> Allowed | Held | Forbidden:
        """Whether a committed reply may leave now; if so it is on record when this returns. Raises N320."""
        if self._unreadable:
            return Held(self._unreadable)
        decided = may_leave(self._policy, self._facts(), size)
        if isinstance(decided, Held):
            self._withheld[order] = str(decided)
        if not isinstance(decided, Allowed):
            return decided
        self._withheld.pop(order, None)
        error = reply.failure is not None
        detail = {"reason": reply.failure.reason} if reply.failure is not None else _said(reply)
        content = digest(reply.encode())
        now = self._clock().timestamp()
        self._sent.reply(order, content, size, self.under, now, error=error, **detail)
        return decided


def _said(reply: Envelope) -> dict[str, Any]:
    """What a reply says beside its arrays, which are named: for the record of what left."""
    said: dict[str, Any] = {}
    for name, record in reply.records:
        match record:
            case Values():
                said[name] = {key: _short(value) for key, value in record.items}
            case Arrays():
                said[name] = [entry.key for entry in record.entries]
    return said


def _short(value: Any) -> Any:
    text = value if isinstance(value, bool | int | float) else str(value)[:200]
    return text if not isinstance(text, int) or abs(text) < 2**63 else str(text)
