"""The signatures that the rules come across, verified in threads: OpenSSL lets go of the interpreter.

They are gathered while entries are read, and verified a few thousand together; what a log's length is does
not matter. Pure but for the threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from barnraise.protocols import statements
from barnraise.protocols.statements import StatementError

_TOGETHER = 4096
_Gathered = tuple[int, bytes, bytes, bytes]


class Signatures:
    """`check` takes a signature for later; `faults` are (entry, reason) of those that did not hold.

    `index` is the entry of which signatures come now. Call `finish` behind the last one.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or min(8, os.cpu_count() or 1)
        self._gathered: list[_Gathered] = []
        self.index = 0
        self.faults: list[tuple[int, str]] = []

    def check(self, public_key: bytes, signature: bytes, message: bytes) -> None:
        self._gathered.append((self.index, public_key, signature, message))
        if len(self._gathered) >= _TOGETHER:
            self.finish()

    def finish(self) -> None:
        gathered, self._gathered = self._gathered, []
        part = -(-len(gathered) // self._threads) or 1
        parts = [gathered[at : at + part] for at in range(0, len(gathered), part)]
        if len(parts) < 2:
            self.faults += [fault for one in parts for fault in _faults(one)]
            return
        with ThreadPoolExecutor(len(parts)) as pool:
            self.faults += [fault for found in pool.map(_faults, parts) for fault in found]


def _faults(gathered: Sequence[_Gathered]) -> list[tuple[int, str]]:
    found = []
    for index, public_key, signature, message in gathered:
        try:
            statements.check_signature(public_key, signature, message)
        except StatementError as error:
            found.append((index, str(error)))
    return found
