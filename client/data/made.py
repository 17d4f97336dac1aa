"""From data and answers to a statement: records are counted and committed to, files named, code digested.

It holds one record at a time. Neither keys nor the network are known here; the salt is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from barnraise.client.data.answers import Answers
from barnraise.client.data.quotes import Quotes
from barnraise.client.data.reading import Reading
from barnraise.protocols import stating
from barnraise.protocols.apps import code_files, digest_held
from barnraise.protocols.croissant import CroissantFault, Statement, is_code_path
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.openings import Opening, Tree
from barnraise.protocols.stating import MAX_CODE, Counted, File

Progress = Callable[[int], None]
"""Called with how many records were read."""


def _quiet(done: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Made:
    """A statement, and the processing code that goes with it: empty for private data."""

    statement: Statement
    code: Mapping[str, bytes]


def made(
    directory: Path,
    reading: Reading,
    answers: Answers,
    beside: Path,
    salt: bytes,
    progress: Progress = _quiet,
) -> Made:
    """The statement over the data in `directory`; `beside` is where the answers' paths begin.

    Raises D201, D202, S104, S105, S106, S107.
    """
    code = processing_code(answers, beside)
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in code.items()}
    files: list[File] = []
    if answers.open is not None:
        files = list(_files(directory, reading, answers))
        counted = _counted(directory, reading, progress)
    else:
        counted = _committed(directory, reading, answers, salt, progress)
    if not counted.records:
        raise BarnraiseError(
            "D201",
            f"{directory} holds no {reading.kind}",
            "the charter's task reads nothing there",
            next="give --data the directory of the data",
        )
    try:
        statement = Statement.of(stating.build(answers.told(), counted, digests, files))
    except CroissantFault as error:
        raise BarnraiseError(
            "S104",
            "what was answered makes no data statement",
            str(error),
            "nothing was signed or sent",
            next="correct the answers, then give the same command again",
        ) from None
    return Made(statement, code if answers.open is not None else {})


def _each(records: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    for number, record in enumerate(records, 1):
        yield record
        progress(number)


def _counted(directory: Path, reading: Reading, progress: Progress) -> Counted:
    count = size = 0
    for record in _each(reading.records(directory), progress):
        count, size = count + 1, size + len(record)
    return Counted(reading.kind, reading.form, count, size)


def _committed(
    directory: Path, reading: Reading, answers: Answers, salt: bytes, progress: Progress
) -> Counted:
    tree, size, quotes = Tree(salt), 0, Quotes(answers.prose())
    for record in _each(reading.records(directory), progress):
        if key := quotes.found_in(record):
            raise BarnraiseError(
                "S105",
                f"the answer to {key} quotes the private data",
                f"what it says stands in the {reading.kind} {tree.size}",
                "nothing was signed or sent",
                next="say it in other words: a statement is read by everybody",
            )
        tree.append(record)
        size += len(record)
    root = f"sha256:{tree.root().hex()}"
    return Counted(reading.kind, reading.form, tree.size, size, root)


def _files(directory: Path, reading: Reading, answers: Answers) -> Iterator[File]:
    assert answers.open is not None
    for path in reading.files(directory):
        name = path.relative_to(directory).as_posix()
        address = answers.open.files.get(name) or answers.open.address.replace(
            "{path}", quote(name)
        )
        if not address:
            raise BarnraiseError(
                "S106",
                f"{name} has no address",
                "each file of open data is stated with the address at which it can be had",
                "nothing was signed or sent",
                next="give open.address, or the file's own under open.files",
            )
        yield File(name, address, digest_held(path)[7:], path.stat().st_size)


def processing_code(answers: Answers, beside: Path) -> dict[str, bytes]:
    """The files that the answers name, by their names below what was named. Raises S107."""
    found: dict[str, bytes] = {}
    for named in answers.processing_code:
        path = beside / named
        try:
            files = code_files(path) if path.is_dir() else {path.name: path.read_bytes()}
        except OSError as error:
            raise _no_code(named, error.strerror or str(error)) from None
        for name, data in files.items():
            if name in found or not is_code_path(name):
                raise _no_code(named, f"{name} stands there twice, or has no plain name")
            found[name] = data
    if (size := sum(map(len, found.values()))) > MAX_CODE and answers.open is not None:
        raise _no_code(", ".join(answers.processing_code), f"{size} bytes; at most {MAX_CODE}")
    return found


def _no_code(named: str, why: str) -> BarnraiseError:
    return BarnraiseError(
        "S107",
        f"the processing code {named!r} cannot be used",
        why,
        "nothing was signed or sent",
        next="correct processing_code in the answers",
    )


def opening(
    directory: Path,
    reading: Reading,
    statement: Statement,
    salt: bytes,
    chosen: Iterable[int],
    progress: Progress = _quiet,
) -> Opening:
    """The chosen records of private data, as they were stated. Raises S108, S109, D201, D202."""
    wanted, size = sorted(set(chosen)), statement.records
    if statement.root is None:
        raise BarnraiseError(
            "S108",
            "open data are not opened",
            f"the statement {statement.digest} names each file",
            next="fetch the files that the statement names",
        )
    if outside := [index for index in wanted if not 0 <= index < size]:
        raise BarnraiseError(
            "S108",
            f"there is no record {outside[0]}",
            f"{size} were stated, from 0 to {size - 1}",
            next="choose among them",
        )
    tree = Tree(salt, wanted, size)
    for record in _each(reading.records(directory), progress):
        tree.append(record)
    if (tree.size, tree.root()) != (size, statement.root):
        raise BarnraiseError(
            "S109",
            f"the data in {directory} are not those that were stated",
            f"{tree.size} records with the root sha256:{tree.root().hex()}\n"
            f"stated: {size} with sha256:{statement.root.hex()}",
            "nothing was opened",
            next="restore the data, or state them anew: barnraise node data state",
        )
    return Opening(statement.digest, tuple(tree.opened()))
