"""What `barnraise audit` does; imported when it is called. What is found is said on stderr, a line each."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from barnraise.cli import words
from barnraise.cli.watch import console, engines_log_hidden, say
from barnraise.coordinator.audit.audit import Audit
from barnraise.coordinator.audit.contents import Identity
from barnraise.coordinator.audit.counterfactual import LIMIT, Otherwise, otherwise
from barnraise.coordinator.audit.recompute import Recomputed
from barnraise.coordinator.audit.sources import source_of
from barnraise.coordinator.audit.story import RoundRecord
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors

if TYPE_CHECKING:
    from barnraise.auditing.retrain import Retrained

Said = dict[str, Any]
EXECUTES = "the run's own code is executed here, in this process"
_FEW = 12  # rounds that each have a line


@contextmanager
def opened(root: Path, run: str | None, identity: Path | None, verbose: bool) -> Iterator[Work]:
    """The log is checked by then. Raises U101, U104, U105, U107."""
    key = Identity(identity) if identity is not None else None
    hidden = nullcontext() if verbose else engines_log_hidden()
    with (
        hidden,
        disk_errors(root),
        closing(source_of(root)) as source,
        closing(Audit(source, run, key)) as audit,
    ):
        yield Work(audit)


@dataclass(frozen=True)
class Work:
    """On one run. Each verb returns what `--json` shows."""

    audit: Audit

    # --- recomputing -----------------------------------------------------------------------------------

    def recompute(self, number: int | None) -> Said:
        """Rounds again, from their contributions; where that cannot be, what remains."""
        audit, told = self.audit, self._told()
        rounds = audit.chosen(number)
        facts = audit.facts()
        say(*facts)
        if (why := self._not_recomputable()) is not None:
            ending = audit.ending()
            say(*ending, why)
            return {**told, "recomputed": [], "why": why, "facts": [*facts, *ending]}
        started, done = time.monotonic(), list[Recomputed]()
        try:
            for one in _shown(rounds, audit.recompute(rounds)):
                done.append(one)
        except BarnraiseError:
            if done:
                say(f"{_listed(done)}: identical bytes")
            raise
        said = self._summary(done, time.monotonic() - started)
        ending = audit.ending()
        say(*ending)
        return {**told, **said, "facts": [*facts, *ending]}

    def _not_recomputable(self) -> str | None:
        if self.audit.charter is None:
            return (
                "the rounds are not recomputable here: a Flower app's strategy is its own code; "
                "`barnraise sim replay` of the run's directory repeats it"
            )
        if self.audit.sealed:
            return (
                "the contributions are sealed: no round is recomputable, by design of the charter"
            )
        return None

    def _summary(self, done: Sequence[Recomputed], seconds: float) -> Said:
        read = self.audit.contents.read
        count = sum(one.contributions for one in done)
        if len(done) <= _FEW:
            for one in done:
                say(f"round {one.number} · {_of_round(one)} · identical bytes")
        else:
            say(f"{_listed(done)} · {words.count(count, 'contribution')} · identical bytes")
        rate = words.size(round(read / max(seconds, 1e-9)))
        say(f"{words.size(read)} read and hashed in {words.duration(seconds)}, {rate}/s")
        return {
            "recomputed": [one.number for one in done],
            "void": [one.number for one in done if one.void],
            "contributions": count,
            "identical": True,
            "bytes": read,
            "seconds": seconds,
        }

    def _told(self) -> Said:
        audit = self.audit
        name = audit.run.opened["app"]["name"]
        members = words.count(len(audit.run.members), "member")
        rule = f", {audit.charter.strategy.name}" if audit.charter is not None else ""
        say(f"run {audit.run.run} of {name}: {members}{rule}")
        return {"ok": True, "run": audit.run.run, "contributions_are": audit.source.mode}

    def _demand_contents(self, what: str) -> None:
        """U110 where contributions or strategy are not here."""
        if (why := self._not_recomputable()) is not None:
            raise BarnraiseError(
                "U110", f"{what} is not possible here", why, next="barnraise audit DIR says what is"
            )

    # --- training again ----------------------------------------------------------------------------------

    def retrain(
        self, member: str, number: int, data: Path, seed: int | None, node: Path | None
    ) -> Said:
        """One contribution again, from its data."""
        told = self._told()
        self._demand_contents("retraining")
        _known(self.audit, member)
        from barnraise.auditing.handlers import data_of
        from barnraise.auditing.retrain import Retraining
        from barnraise.auditing.seeds import secret_of

        home = data_of(self.audit.run.members[member], data).absolute()
        secret = secret_of(self.audit, member, seed, node)
        again = Retraining(self.audit, member, home, secret)
        rounds = again.rounds(number)
        say(f"the data of {member} are those in {home}; {EXECUTES}")
        if len(rounds) > 1:
            say(
                f"rounds {rounds[0]} to {number} are trained again, one after another: "
                "what a member's optimizer keeps goes from round to round"
            )
        found = again.run(number, lambda one: say(_retrained_line(member, one)))
        return {
            **told,
            "member": member,
            "round": number,
            "trained": rounds,
            "identical": found.identical,
            "gap": found.gap,
            "environment": {k: list(pair) for k, pair in found.differs.items()},
        }

    # --- what would have been ----------------------------------------------------------------------------

    def otherwise(
        self,
        number: int,
        without: Collection[str],
        strategy: tuple[str, Mapping[str, Any]] | None,
        data: Path | None,
    ) -> Said:
        """The round without some members, or by another strategy, beside the real one."""
        told = self._told()
        self._demand_contents("a counterfactual")
        for member in without:
            _known(self.audit, member)
        record = self.audit.round(number)
        found = otherwise(self.audit.bench, record, without, strategy)
        what = _what(without, strategy)
        away, moved = found.moved()
        say(
            f"round {number} {what}: {_counted(found)}",
            f"the model lies {away:.4g} from the real one, whose update has the norm {moved:.4g}",
        )
        if found.fresh:
            say(
                f"{strategy[0] if strategy else ''} began without a state: this run has none for it"
            )
        said = {
            **told,
            "round": number,
            "without": sorted(without),
            "strategy": strategy[0] if strategy is not None else None,
            "counted": list(found.members),
            "stayed": found.stayed or None,
            "distance": away,
            "update": moved,
        }
        if data is None:
            say("its loss needs data: give --data DIR, with a sub-directory for each member")
        else:
            said |= self._losses(record, found, data)
        say(LIMIT)
        return {**said, "limit": LIMIT}

    def _losses(self, record: RoundRecord, found: Otherwise, data: Path) -> Said:
        from barnraise.auditing.evaluate import Evaluator

        say(EXECUTES)
        evaluator = Evaluator(self.audit, data)
        real = evaluator.evaluate(record.number, found.real)
        other = evaluator.evaluate(record.number, found.model)
        recorded = record.seal["report"].get("after") or {}
        if evaluator.lacking:
            say(f"evaluated without {', '.join(evaluator.lacking)}: no data of it at hand")
        for key in real.mean:
            on_record = f"; {_number(recorded[key])} on record" if key in recorded else ""
            change = f"{_number(other.mean[key])}, real {_number(real.mean[key])}{on_record}"
            say(f"{key} on held-out data: {change}")
        return {
            "evaluated": {
                "otherwise": dict(other.mean),
                "real": dict(real.mean),
                "recorded": dict(recorded),
                "members": {
                    name: {"otherwise": dict(one), "real": dict(real.members[name])}
                    for name, one in other.members.items()
                },
            }
        }


def _known(audit: Audit, member: str) -> None:
    if member not in audit.run.members:
        raise BarnraiseError(
            "U104",
            f"the run has no member {member}",
            f"its members are {', '.join(audit.run.members)}",
            next="name one of its members",
        )


def _what(without: Collection[str], strategy: tuple[str, Mapping[str, Any]] | None) -> str:
    parts = [f"without {', '.join(sorted(without))}"] if without else []
    if strategy is not None:
        options = "".join(f" {key}={value}" for key, value in strategy[1].items())
        parts.append(f"by {strategy[0]}{options}")
    return " ".join(parts)


def _counted(found: Otherwise) -> str:
    if found.stayed:
        return f"the model would have stayed: {found.stayed}"
    return f"the contributions of {' '.join(found.members)} count"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def _retrained_line(member: str, one: Retrained) -> str:
    head = f"round {one.number} · {member} trained again"
    if one.identical:
        return f"{head} · identical bytes"
    differs = ", ".join(f"{key} {here} for {there}" for key, (there, here) in one.differs.items())
    return f"{head} elsewhere ({differs}) · within {one.gap:.2g} of the update's norm"


def _of_round(one: Recomputed) -> str:
    if one.number == 0:
        return "the initial model"
    counted = words.count(one.contributions, "contribution")
    return f"{counted}, void: the model stays" if one.void else counted


def _listed(done: Sequence[Recomputed]) -> str:
    first, last = done[0].number, done[-1].number
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def _shown(rounds: Sequence[RoundRecord], work: Iterator[Recomputed]) -> Iterator[Recomputed]:
    """The same, with a bar on a terminal."""
    out = console()
    bar = (BarColumn(), TextColumn("{task.completed}/{task.total} rounds"), TimeRemainingColumn())
    with Progress(*bar, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task("", total=len(rounds))
        for one in work:
            progress.advance(task)
            yield one
