"""A whole audit: the log's rules, then the rounds of one run, one after another; what cannot be, said.

Audit(source, identity)   opens, and checks the log; U101, U105
.recompute(numbers)       those rounds, by default all; U102 names the first that differs and how
.facts(), .ending()       what the log alone shows, also where contributions are sealed
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from barnraise.coordinator.audit.contents import Contents, Identity
from barnraise.coordinator.audit.recompute import Bench, Differs, Recomputed, recompute
from barnraise.coordinator.audit.sources import Source
from barnraise.coordinator.audit.story import RoundRecord, RunRecord, Story
from barnraise.protocols import flower
from barnraise.protocols.agreements import Agreement, AgreementError, Work
from barnraise.protocols.apps import BUILT_IN, digest_held
from barnraise.protocols.canonical import digest
from barnraise.protocols.charter import Charter
from barnraise.protocols.content import ContentError
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.log_rules import Rules
from barnraise.protocols.release import SEALED
from barnraise.protocols.tensors import BlobError

SAID = 20  # problems of a log that are told
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, ContentError, BlobError)


@dataclass(frozen=True)
class Checked:
    """What the log alone shows."""

    entries: int
    signatures: int


class Audit:
    """Of one run in `source`; for one thread. `run` names it, by default the last that was opened."""

    def __init__(
        self, source: Source, run: str | None = None, identity: Identity | None = None
    ) -> None:
        self.source = source
        self.checked, runs = _checked(source)
        self.run = _told(source, _named(source, run, runs))
        self.contents = Contents(source, identity)

    def close(self) -> None:
        self.contents.close()

    # --- what kind of run it is ----------------------------------------------------------------------

    @cached_property
    def work(self) -> Work | None:
        """What members agreed to run; None for a Flower app of a simulation, which agrees on nothing."""
        agreed = self.run.opened.get("agreement", "")
        if not agreed:
            return None
        try:
            agreement = Agreement.decode(self._held(agreed))
            return Work.of(self._held(agreement.charter).decode())
        except (AgreementError, UnicodeDecodeError) as error:
            raise _unsound([f"the agreement {agreed}: {error}"]) from None

    @cached_property
    def charter(self) -> Charter | None:
        """None for a Flower app: its strategy is its own code."""
        if self.work is None or self.work.component != BUILT_IN:
            return None
        return Charter.parse(str(self.work.config["charter"]))

    def _held(self, named: str) -> bytes:
        data = self.source.log_blob(named)
        if data is None or digest(data) != named:
            raise _unsound([f"{named} is not there"])
        return data

    @property
    def sealed(self) -> bool:
        return self.source.mode == SEALED

    @cached_property
    def bench(self) -> Bench:
        """What rounds are recomputed with; only for a charter's run that is not sealed."""
        assert self.charter is not None
        return Bench(self.run, self.charter, self.contents)

    # --- recomputing ---------------------------------------------------------------------------------

    def chosen(self, number: int | None) -> list[RoundRecord]:
        """This round, or all. Raises U104."""
        return self.run.rounds if number is None else [self.round(number)]

    def round(self, number: int) -> RoundRecord:
        """Raises U104."""
        if (found := self.run.round(number)) is not None:
            return found
        last = self.run.rounds[-1].number if self.run.rounds else None
        raise BarnraiseError(
            "U104",
            f"the run has no round {number}",
            f"its rounds are 0 to {last}" if last is not None else "no round was sealed",
            next="give --round a round that was sealed",
        )

    def recompute(self, rounds: Sequence[RoundRecord]) -> Iterator[Recomputed]:
        """Each in turn. Raises U102 for the first that differs, U103 for what is missing."""
        self._check_config()
        flower.become_server(int(self.run.run, 16))
        for record in rounds:
            try:
                done = recompute(self.bench, record)
            except Differs as error:
                raise differs(record.number, error.what, error.how) from None
            except BarnraiseError:
                raise
            except _MALFORMED as error:
                why = f"its record is not what a round's is: {error!r}"
                raise differs(record.number, why, ()) from None
            yield done
            self.contents.keep(self._of_seal(record))

    def _of_seal(self, record: RoundRecord) -> list[str]:
        return list(self.contents.envelope(record.seal["content"]).blobs())

    def _check_config(self) -> None:
        """What members were told to run by is what they agreed on."""
        assert self.work is not None
        told = json.loads(self.run.opened.get("config", "{}"))
        if told.get("charter") != self.work.config["charter"]:
            raise _unsound(["run.opened has another charter than the agreement"])

    # --- what the log alone shows ----------------------------------------------------------------------

    def facts(self) -> list[str]:
        """What the log says of the run, a line each."""
        signed = f"{self.checked.signatures} statements signed by enrolled keys"
        lines = [f"the log holds together: {self.checked.entries} entries, {signed}"]
        if rounds := self.run.rounds:
            void = [str(r.number) for r in rounds if r.seal["report"].get("void")]
            said = f"; void: {', '.join(void)}" if void else ""
            lines.append(f"{len(rounds)} seals follow one another{said}")
        if self.run.closed is None:
            lines.append("the run is not closed: it may go on")
        return lines

    def ending(self) -> list[str]:
        """That the last seal is the model of the run, a line each. Raises U102."""
        rounds, closed = self.run.rounds, self.run.closed
        if closed is None or not closed["named"]:
            return []
        lines = []
        if rounds:
            if (last := rounds[-1].seal["model"]) != closed["model"]:
                what = "run.closed names another model than the last seal"
                how = (f"run.closed: {closed['model']}", f"sealed: {last}")
                raise differs(rounds[-1].number, what, how)
            lines.append(f"the last seal is the run's model, {last}")
        return [*lines, *self._published(closed["model"])]

    def _published(self, model: str) -> Iterator[str]:
        path = self.source.root / "model.safetensors"
        if not path.is_file():
            return
        if (found := digest_held(path)) != model:
            how = (f"its SHA-256 is {found}", f"run.closed names {model}")
            what = f"{path} is not the run's model"
            raise differs(self.run.rounds[-1].number if self.run.rounds else 0, what, how)
        yield "model.safetensors is that model"


def _checked(source: Source) -> tuple[Checked, list[str]]:
    """The whole log held against its rules, and the runs that it opened. Raises U105."""
    rules, problems, runs, size = Rules(source.log_blob), list[str](), list[str](), 0
    for index, data in source.entries():
        size += 1
        problems += [f"entry {index}: {why}" for why in rules.see(index, data)]
        if len(problems) >= SAID:
            break
        if b'"type":"run.opened"' in data:
            runs.append(str(Entry.decode(data).body["run"]))
    if problems:
        raise _unsound(problems)
    return Checked(size, rules.signatures), runs


def _named(source: Source, named: str | None, runs: Sequence[str]) -> str:
    wanted = source.run(named) or (runs[-1] if runs else "")
    if wanted in runs:
        return wanted
    raise BarnraiseError(
        "U104",
        f"there is no run {named}" if named else "the log has no run",
        f"the log has {', '.join(runs) or 'none'}",
        next="barnraise log show",
    )


def _told(source: Source, run: str) -> RunRecord:
    story = Story(run, source.log_blob)
    for _, data in source.entries():
        story.see(data)
    assert story.told is not None
    return story.told


def _unsound(problems: Sequence[str]) -> BarnraiseError:
    return BarnraiseError(
        "U105",
        "the log does not hold together, so nothing was recomputed",
        "\n".join(problems[:SAID]),
        next="barnraise verify, or barnraise log check, says more",
    )


def differs(number: int, what: str, how: Sequence[str]) -> BarnraiseError:
    """U102."""
    return BarnraiseError(
        "U102",
        f"round {number} does not follow from its contributions: {what}",
        "\n".join(how),
        next="keep what you have as it is, and ask the federation's operator and members",
    )
