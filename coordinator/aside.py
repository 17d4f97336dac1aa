"""Puts blobs in a thread of its own, while the next handler runs: SHA-256 and writing need no Python."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from barnraise.protocols.blobs import BlobStore


class Aside:
    """One thread, which puts in the sequence in which it was asked to."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="blobs")

    def put(self, data: bytes) -> Future[str]:
        """The blob's digest, once it is in the store. What keeps it out is raised by the future."""
        return self._thread.submit(self._blobs.put, [data])

    def close(self) -> None:
        """What was asked for and has not begun is dropped."""
        self._thread.shutdown(cancel_futures=True)
