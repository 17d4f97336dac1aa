"""A site's data as records: what a task reads, one after another, and the files in which they lie.

Of a built-in task these are its documents or rows. Code of one's own is never imported here: beside the
site's keys only files are read, each of which is a record then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from barnraise.client.datafiles import data_files
from barnraise.protocols.charter import TaskSection
from barnraise.protocols.errors import BarnraiseError


@dataclass(frozen=True)
class Reading:
    """`kind` is what a record is called, `form` says of which bytes it consists."""

    kind: str
    form: str
    records: Callable[[Path], Iterator[bytes]]
    files: Callable[[Path], Iterator[Path]]


def reading_of(section: TaskSection | None) -> Reading:
    """How the data of this task are read; of None, and of a task of one's own, as files. Raises C104."""
    if section is None or section.own is not None:
        return Reading("file", "the file's bytes", _contents, data_files)
    from barnraise.client.tasks import Recorded, load_task

    task = load_task(section)
    assert isinstance(task, Recorded), f"{section.name} has no records"
    return Reading(task.record_kind, task.record_form, task.records, task.files)


def _contents(directory: Path) -> Iterator[bytes]:
    for path in data_files(directory):
        try:
            yield path.read_bytes()
        except OSError as error:
            raise BarnraiseError(
                "D202",
                f"{path} cannot be read",
                error.strerror or str(error),
                next=f"mend or remove {path}",
            ) from None
