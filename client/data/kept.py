"""What a node keeps of its data statements; the daemon reads it, commands write it.

N/stated/salt.key        from which the salts of private records follow; it never leaves
N/stated/<document>/     croissant.json  statement.json  code/…
N/stated/current.json    which one stands; written last, in one rename
N/stated/told.json       which one the coordinator has on record
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barnraise.client.data.made import Made
from barnraise.client.keys import Membership, NodeKeys, not_enrolled
from barnraise.protocols import files, statements, stating
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.charter import TaskSection
from barnraise.protocols.croissant import CroissantFault, Statement
from barnraise.protocols.errors import BarnraiseError

FOLDER, CURRENT, TOLD = "stated", "current.json", "told.json"


@dataclass(frozen=True)
class Kept:
    """A statement as it was signed: when (seconds since 1970), over which data, read by which task."""

    statement: Statement
    envelope: Mapping[str, Any]
    at: float
    directory: Path
    task: Mapping[str, Any] | None
    code: Mapping[str, bytes]

    @property
    def section(self) -> TaskSection | None:
        return TaskSection(**self.task) if self.task is not None else None


def salt(home: Path) -> bytes:
    """The key from which salts follow; made when it is first asked for. Raises D104, D105, N115."""
    path = home / FOLDER / "salt.key"
    with files.disk_errors(home):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        key = files.keep(path, secrets.token_bytes(32))
    if len(key) != 32:
        raise BarnraiseError(
            "N115", f"{path} cannot be read", "it has not 32 bytes", next="restore it from a backup"
        )
    return key


def keep(home: Path, made: Made, directory: Path, section: TaskSection | None, now: float) -> Kept:
    """Sign the statement with the identity key, and put it where the daemon finds it.

    The one that stands is not signed again. Raises D104, D105, N115, N116.
    """
    keys, membership = NodeKeys.open(home), Membership.read(home)
    if membership is None:
        raise not_enrolled(home)
    statement = made.statement
    standing = current(home)
    if standing is not None and standing.statement == statement:
        return standing
    payload = stating.payload(membership.federation, membership.member, statement)
    envelope = statements.sign(keys.identity, membership.member, "data", payload)
    task = {"name": section.name, **section.options} if section is not None else None
    said = {"at": now, "directory": str(directory), "task": task, "statement": envelope}
    with files.disk_errors(home):
        folder = home / FOLDER / statement.digest[7:]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, data in made.code.items():
            target = folder / "code" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            files.replace(target, data)
        files.replace(folder / "croissant.json", statement.data)
        files.replace(folder / "statement.json", json.dumps(said, indent=1).encode())
        files.replace(home / FOLDER / CURRENT, _named(statement.digest))
    return _read(home, statement.digest)


def _named(document: str) -> bytes:
    return json.dumps({"document": document}).encode()


def current(home: Path) -> Kept | None:
    """The statement that stands; None if nothing was stated. Raises D106."""
    document = _pointed(home / FOLDER / CURRENT)
    return _read(home, document) if document else None


def pending(home: Path) -> Kept | None:
    """The statement that the coordinator has not got yet. Raises D106."""
    document = _pointed(home / FOLDER / CURRENT)
    return _read(home, document) if document and document != told(home) else None


def told(home: Path) -> str:
    """The digest of the document that the coordinator has; "" if it has none."""
    return _pointed(home / FOLDER / TOLD)


def has(home: Path, document: str) -> None:
    """The coordinator has it on record."""
    with files.disk_errors(home):
        files.replace(home / FOLDER / TOLD, _named(document))


def _pointed(path: Path) -> str:
    try:
        document = json.loads(path.read_bytes())["document"]
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        document = None
    if not is_digest(document):
        raise files.damaged(f"{path} is damaged", "it names no document")
    return str(document)


def _read(home: Path, document: str) -> Kept:
    folder = home / FOLDER / document[7:]
    try:
        said = json.loads((folder / "statement.json").read_bytes())
        statement = Statement.read((folder / "croissant.json").read_bytes())
        if statement.digest != document:
            raise ValueError(f"its document is {statement.digest}")
        code = {path: (folder / "code" / path).read_bytes() for path in statement.code}
        if not statement.open:
            code = {}
        envelope, directory = dict(said["statement"]), Path(said["directory"])
        return Kept(statement, envelope, float(said["at"]), directory, said["task"], code)
    except (OSError, ValueError, KeyError, TypeError, CroissantFault) as error:
        raise files.damaged(f"the data statement in {folder} is damaged", str(error)) from None


def as_dict(home: Path) -> dict[str, Any] | None:
    """The statement that stands, for `node status`; None if there is none."""
    kept = current(home)
    if kept is None:
        return None
    digest = kept.statement.digest
    return {
        "document": digest,
        "at": kept.at,
        "open": kept.statement.open,
        "records": kept.statement.records,
        "told": told(home) == digest,
    }
