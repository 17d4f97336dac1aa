"""Contributions for named auditors: each file encrypted to the charter's keys, in the age format.

An encryption is another one each time, so what was encrypted is kept for the next release of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyrage

from barnraise.coordinator.release.write import Held, Writer
from barnraise.protocols import files, release
from barnraise.protocols.canonical import digest as digest_of
from barnraise.protocols.errors import BarnraiseError

FOLDER = "encrypted"


def put(writer: Writer, held: Sequence[tuple[str, Held]], keys: Sequence[str], kept: Path) -> None:
    """Encrypt each under its digest, and write it. Raises D106, G105 for a key that cannot be used."""
    recipients = [_recipient(key) for key in keys]
    folder = kept / FOLDER / digest_of("\n".join(keys).encode())[7:]
    for digest, data in held:
        path = folder / release.blob_path(digest)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, pyrage.encrypt(_whole(digest, data), recipients))
        writer.put(release.CONTRIBUTIONS + release.blob_path(digest) + release.ENCRYPTED, path)


def _whole(digest: str, data: Held) -> bytes:
    whole = data if isinstance(data, bytes) else data.read_bytes()
    if digest_of(whole) != digest:
        raise files.damaged("the store is damaged", f"{digest} holds other bytes")
    return whole


def _recipient(key: str) -> pyrage.x25519.Recipient:
    try:
        return pyrage.x25519.Recipient.from_str(key)
    except pyrage.RecipientError as error:
        raise BarnraiseError(
            "G105",
            f"the auditors' key {key} cannot be used",
            str(error),
            "nothing was released",
            "agree on a charter with the right key: `age-keygen` prints it as age1…",
        ) from None
