"""A member's data statement comes in: verified, kept, on record (`data.stated`). Knows no port.

What is refused is refused before anything is kept. The document and the processing code of open data lie in
the blob store under their digests; the entry names the document, the document names the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from barnraise.coordinator.federation import Federation
from barnraise.protocols import stating
from barnraise.protocols.croissant import CroissantFault, Statement
from barnraise.protocols.identity import Member
from barnraise.protocols.statements import StatementError

FILES = 1000  # of processing code
MOST = 200  # statements of one member: each is kept, and so is what it names


class Unacceptable(ValueError):
    """A statement that is not taken. The message says why."""


def judged(
    federation: str,
    member: Member,
    envelope: Any,
    document: bytes,
    code: Iterable[tuple[str, bytes]],
) -> tuple[Statement, dict[str, bytes]]:
    """The statement and its processing code, as `member` may state them; else `Unacceptable`. Pure."""
    files: dict[str, bytes] = {}
    for path, data in code:
        if path in files or len(files) == FILES:
            raise Unacceptable(f"a path stands there twice, or there are more than {FILES} files")
        files[path] = data
    try:
        statement = Statement.read(document)
        said = (statement.digest, statement.open, envelope)
        stating.check_signed(member.public_key, federation, member.name, *said)
        if statement.open:
            stating.check_code(statement, files)
        elif files:
            raise Unacceptable("the code comes with open data alone")
    except (CroissantFault, StatementError) as error:
        raise Unacceptable(str(error)) from None
    return statement, files


def take(
    federation: Federation,
    member: Member,
    envelope: Any,
    document: bytes,
    code: Iterable[tuple[str, bytes]],
) -> None:
    """Keep the statement and put it on record; the one that stands leaves nothing. Raises
    `Unacceptable`, D104, D105."""
    statement, files = judged(federation.name, member, envelope, document, code)
    standing = federation.ledger.read()
    if standing.data.get(member.name) == statement.digest:
        return
    if standing.stated[member.name] >= MOST:
        raise Unacceptable(f"{member.name} has stated its data {MOST} times")
    for data in files.values():
        federation.keep_blob(data)
    federation.keep_blob(document)
    federation.ledger.stated(member.name, statement.digest, statement.open, envelope)
