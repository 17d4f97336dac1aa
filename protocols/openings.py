"""Records of private data, opened to an auditor: each with its salt and its path to the stated root. Pure.

A leaf of the tree is `salt ‖ record`, under RFC 6962 hashing; a salt is 32 bytes, HMAC-SHA-256 of the
record's place and its SHA-256 under a key that never leaves the site. So a leaf tells nothing of its record,
an opened one tells nothing of any other, and the root commits to all of them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from barnraise.protocols import canonical, merkle
from barnraise.protocols.canonical import NotCanonical, is_digest
from barnraise.protocols.merkle import ProofError
from barnraise.protocols.randomness import derive

FORMAT = "barnraise-opening/v1"
MAX_OPENING = 1 << 30
"""Bytes of the longest opening that is read."""


class OpeningError(ValueError):
    """An opening that does not show what it should. The message says why."""


def salt_of(key: bytes, index: int, record: bytes) -> bytes:
    """The salt of the record at this place, 32 bytes."""
    return derive(key, "record", str(index), hashlib.sha256(record).hexdigest())


def leaf_of(salt: bytes, record: bytes) -> bytes:
    """The leaf's hash."""
    return merkle.leaf_hash(salt + record)


class Tree:
    """The tree over a stream of records, with no more of it in memory than its right edge, and the nodes
    that the paths of the `chosen` of `size` records need."""

    def __init__(self, key: bytes, chosen: Iterable[int] = (), size: int = 0) -> None:
        self._key, self._size = key, size
        self._frontier = merkle.Frontier()
        self._opened: dict[int, tuple[bytes, bytes]] = dict.fromkeys(chosen, (b"", b""))
        self._nodes: dict[tuple[int, int], bytes] = {}
        for index in self._opened:
            merkle.inclusion_path(self._noted, index, size)

    def _noted(self, level: int, index: int) -> bytes:
        self._nodes[level, index] = b""
        return bytes(32)

    def append(self, record: bytes) -> None:
        index = self._frontier.size
        salt = salt_of(self._key, index, record)
        if index in self._opened:
            self._opened[index] = (record, salt)
        for level, place, node in self._frontier.append(leaf_of(salt, record)):
            if (level, place) in self._nodes:
                self._nodes[level, place] = node

    @property
    def size(self) -> int:
        return self._frontier.size

    def root(self) -> bytes:
        return self._frontier.root()

    def opened(self) -> list[Opened]:
        """The chosen records, once all `size` records are in."""

        def node(level: int, index: int) -> bytes:
            return self._nodes[level, index]

        return [
            Opened(i, record, salt, tuple(merkle.inclusion_path(node, i, self._size)))
            for i, (record, salt) in sorted(self._opened.items())
        ]


@dataclass(frozen=True)
class Opened:
    """One record: its place, its bytes, its salt, and its path, hashes from the leaf's sibling up."""

    index: int
    record: bytes
    salt: bytes
    path: tuple[bytes, ...]

    def check(self, size: int, root: bytes) -> None:
        """`OpeningError` unless the record is in the tree of this size and root."""
        try:
            leaf = leaf_of(self.salt, self.record)
            merkle.check_inclusion(leaf, self.index, size, self.path, root)
        except ProofError as error:
            raise OpeningError(f"record {self.index}: {error}") from None


@dataclass(frozen=True)
class Opening:
    """Records opened under the statement whose document has this digest.

    `Opening.decode(o.encode()) == o`.
    """

    document: str
    records: tuple[Opened, ...]

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical.canonical(
            {
                "format": FORMAT,
                "document": self.document,
                "records": [
                    {
                        "index": one.index,
                        "record": base64.b64encode(one.record).decode(),
                        "salt": one.salt.hex(),
                        "path": [node.hex() for node in one.path],
                    }
                    for one in self.records
                ],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Opening:
        """Strict: exactly what `encode` writes. Raises `OpeningError`."""
        try:
            value = canonical.parse(data)
            if value["format"] != FORMAT or not is_digest(value["document"]):
                raise OpeningError(f"it is no {FORMAT}")
            found = cls(value["document"], tuple(map(_opened, value["records"])))
        except (NotCanonical, KeyError, TypeError, ValueError) as error:
            raise OpeningError(f"it is no {FORMAT}: {error}") from None
        if found.encode() != data:
            raise OpeningError(f"it is no {FORMAT}: it has other fields")
        return found

    def check(self, document: str, size: int, root: bytes) -> None:
        """`OpeningError` unless every record is in the tree that the document of this digest states."""
        if self.document != document:
            raise OpeningError(f"it opens the statement {self.document}, not {document}")
        if not self.records:
            raise OpeningError("it opens nothing")
        for one in self.records:
            one.check(size, root)


def _opened(value: Mapping[str, Any]) -> Opened:
    path: Sequence[str] = value["path"]
    if type(value["index"]) is not int:
        raise TypeError("an index is no number")
    record = base64.b64decode(value["record"], validate=True)
    return Opened(
        value["index"], record, bytes.fromhex(value["salt"]), tuple(map(bytes.fromhex, path))
    )
