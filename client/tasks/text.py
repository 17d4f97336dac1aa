"""Documents of a directory, and which of them are held out. Knows nothing of models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from barnraise.client.datafiles import data_files
from barnraise.protocols.errors import BarnraiseError

SUFFIXES = (".txt", ".md", ".py", ".rst", ".jsonl")
BETWEEN = b"\n\n"


def text_files(directory: Path) -> Iterator[Path]:
    """The files under `directory` that hold documents, by path. Raises D201 if there is no such one."""
    return data_files(directory, SUFFIXES)


def documents(directory: Path) -> Iterator[bytes]:
    """The documents under `directory`, by path: each file, of .jsonl files each line's `text`.

    Raises D201 if there is no such directory, D202 for what cannot be read.
    """
    for path in text_files(directory):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from None
        if path.suffix == ".jsonl":
            yield from _lines(path, data)
        elif data.strip():
            yield data


def _lines(path: Path, data: bytes) -> Iterator[bytes]:
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _unreadable(path, f'line {number} is not an object with a "text"') from None
        if not isinstance(text, str):
            raise _unreadable(path, f'the "text" in line {number} is not a string')
        if text.strip():
            yield text.encode(errors="replace")


def split_documents(directory: Path, part: float) -> tuple[list[bytes], list[bytes]]:
    """(train, held out). A document's place follows from the SHA-256 of its bytes, so that it never
    moves when others come or go; of two documents at least one is on each side. Raises D201, D202.
    """
    found = sorted(set(documents(directory)), key=lambda d: hashlib.sha256(d).digest())
    if len(found) < 2:
        raise BarnraiseError(
            "D201",
            f"{directory} holds {len(found) or 'no'} document{'' if len(found) == 1 else 's'}",
            f"of {' '.join(SUFFIXES)}, but for links and what is hidden; at least two are needed, "
            "one of them to be held out",
            next=f"put text files into {directory} (a large one as several, or as .jsonl lines)",
        )
    cut = sum(1 for d in found if _place(d) < part)
    cut = min(max(cut, 1), len(found) - 1)
    return found[cut:], found[:cut]


def _place(document: bytes) -> float:
    """Where in [0, 1) this document falls."""
    return int.from_bytes(hashlib.sha256(document).digest()[:6], "big") / 2.0**48


def joined(parts: Sequence[bytes]) -> NDArray[np.uint8]:
    """The documents as one text, an empty line between them."""
    return np.frombuffer(bytearray(BETWEEN.join(parts)), np.uint8)


def _unreadable(path: Path, why: str) -> BarnraiseError:
    return BarnraiseError("D202", f"{path} cannot be read", why, next=f"mend or remove {path}")
