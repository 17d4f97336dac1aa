"""What a run that ended in an error leaves behind, said to a person: it hangs on where the run was kept."""

from __future__ import annotations

from pathlib import Path

from barnraise.protocols.errors import BarnraiseError

_OF_THE_APP = frozenset({"A202", "A203", "A204", "R104"})
_NOTHING = "the run had no directory (--dir): nothing of it is kept"


def after_a_stop(code: str) -> str:
    """What to do with a federation's run that stopped by this error. Opened again it takes up what is on
    record, so where that is the reason it would stop again."""
    if code in _OF_THE_APP:
        return "mend it; then barnraise run abort, and open another: this one would stop again"
    return "mend it, and open it again: it goes on; or barnraise run abort"


def say_what_is_kept(error: BarnraiseError, directory: Path | None) -> None:
    """Complete what the error says of the record and of the next step."""
    if directory is None:
        _without(error)
    elif error.code in _OF_THE_APP:
        error.changed = f"what was accepted is on record in {directory}"
        error.next += f"; then in a new directory, since {directory} is this run's"
    elif error.code == "A201":
        error.changed = (
            f"everything up to there is on record in {directory}; no accepted reply is lost"
        )
        error.next += ", and run it in a new directory (in this one if the cause was outside it)"


def _without(error: BarnraiseError) -> None:
    if error.code in _OF_THE_APP | {"A201"}:
        error.changed = _NOTHING
        error.next += ", and run it again"
    elif error.code == "D104":
        error.changed = _NOTHING
        error.next = "make room, and run it again; with --dir it continues where it was"
