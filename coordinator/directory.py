"""A run's directory: journal, blobs, members' own things, a copy of the app, and one lock.

    D/journal.db  D/journal.mark  D/blobs/  D/members/  D/app/  D/secret  D/lock  D/logs/  D/model.safetensors

Without a directory of its own a run lives in a temporary one, where nothing is synced. A directory that
is in use for anything else is refused before anything in it is touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barnraise.coordinator.blobs import RunBlobs
from barnraise.coordinator.journal import Failpoint, Journal, kill_from_environment
from barnraise.coordinator.members import MemberStore
from barnraise.protocols import files
from barnraise.protocols.apps import Code
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors

_WORKED = frozenset({"members", "nodes"})  # folders that are made when members begin to work


@dataclass(frozen=True)
class RunDirectory:
    """An opened directory; whoever opened it holds its lock. `durable` is False for temporary ones."""

    root: Path
    durable: bool
    journal: Journal
    blobs: RunBlobs

    def members(self) -> MemberStore:
        return MemberStore(self.root / "members", durable=self.durable)

    @property
    def _secret(self) -> Path:
        return self.root / "secret"

    @property
    def secret(self) -> bytes:
        """The run's secret, which was kept before. D106 if it is gone."""
        try:
            return self._secret.read_bytes()
        except FileNotFoundError:
            raise files.damaged(f"{self._secret} is gone", "the run cannot go on without") from None

    def keep_secret(self, secret: bytes) -> bytes:
        """The run's secret: what the directory holds, or `secret`, which it holds from now on."""
        path, temp = self._secret, self.root / "secret.new"
        if path.exists():
            return self.secret
        temp.unlink(missing_ok=True)
        fd = os.open(temp, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secret)
            file.flush()
            self._sync(file.fileno())
        temp.rename(path)
        if self.durable:
            files.fsync(self.root)
        return secret

    def _sync(self, fd: int) -> None:
        if self.durable:
            os.fsync(fd)

    @property
    def app(self) -> Path:
        """The directory's copy of the app's code."""
        return self.root / "app"

    def forget_start(self) -> None:
        """Drop what a run left behind that failed before it was on record.

        Members begin after that; if they did, it is the record that is lost (D106).
        """
        if any((self.root / name).exists() for name in _WORKED):
            raise BarnraiseError(
                "D106",
                f"the journal of {self.root} is lost",
                f"{self.journal.path} is empty, but the members have worked here",
                next="restore the directory from a backup, or start again in a new one",
            )
        (self.root / "secret").unlink(missing_ok=True)
        shutil.rmtree(self.app, ignore_errors=True)

    @property
    def source(self) -> Path:
        """What describes how the run was started, for its replay."""
        return self.root / "source.json"

    def keep_source(self, source: Mapping[str, Any]) -> None:
        files.replace(self.source, json.dumps(source, indent=1).encode())

    def keep_app(self, code: Code) -> None:
        """Copy the app's code, so that the run can be replayed wherever the directory goes."""
        shutil.rmtree(self.app, ignore_errors=True)
        for name, data in code.items():
            path = self.app / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, bytes):
                path.write_bytes(data)
            else:
                shutil.copyfile(data, path)
        if self.durable:
            files.sync_tree(self.app)

    @property
    def published(self) -> Path:
        return self.root / "model.safetensors"

    def publishes(self, blob: str) -> bool | None:
        """Whether `model.safetensors` holds this blob; None if there is no such file."""
        if not self.published.is_file():
            return None
        with self.published.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == blob.removeprefix("sha256:")

    def publish(self, blob: str) -> Path:
        """`model.safetensors`: the final model, whose SHA-256 is the run's digest. Again does no harm."""
        target = self.published
        temp = self.root / "model.safetensors.new"
        self.blobs.check(blob)
        shutil.copyfile(self.blobs.path(blob), temp)
        with temp.open("rb") as file:
            self._sync(file.fileno())
        temp.rename(target)
        if self.durable:
            files.fsync(self.root)
        return target


@contextmanager
def opened(
    path: Path | None,
    failpoint: Failpoint = kill_from_environment,
    *,
    to_read: bool = False,
) -> Iterator[RunDirectory]:
    """Open a run's directory, made if needed, under its lock. Raises D101, D102, D104, D105, D106.

    `to_read`: whoever opens it writes nothing. If nothing can be written there, it is then opened
    without a lock, which nobody else could hold either.
    """
    if path is None:
        with tempfile.TemporaryDirectory(prefix="barnraise-") as name:
            yield from _open(Path(name), failpoint, durable=False)
        return
    path = path.absolute()  # an app may change the working directory
    _check_ours(path)
    if to_read and not os.access(path, os.W_OK):
        yield from _open_read_only(path)
    else:
        with locked(path):
            yield from _open(path, failpoint, durable=True)


def _check_ours(root: Path) -> None:
    """D105 for a file, D101 for a directory that holds something, but no run."""
    with disk_errors(root):
        if not root.exists():
            return
        if not root.is_dir():
            raise BarnraiseError(
                "D105",
                f"{root} is a file, not a directory",
                next="give a directory, or a path where nothing is yet",
            )
        held = {path.name for path in root.iterdir()} - {"lock"}
    lost = "secret" in held and not _WORKED.isdisjoint(held)  # its journal is gone
    a_run = "journal.db" in held or lost
    if held and not a_run:
        raise BarnraiseError(
            "D101",
            f"{root} is in use for something else than a run",
            f"it has no journal.db, but holds {', '.join(sorted(held)[:8])}",
            next="give a directory that is empty, or does not exist",
        )


def _open(root: Path, failpoint: Failpoint, *, durable: bool) -> Iterator[RunDirectory]:
    journal = Journal(root / "journal.db", durable=durable, failpoint=failpoint)
    try:
        with disk_errors(root):
            blobs = RunBlobs(root / "blobs", durable=durable)
        with closing(blobs):
            yield RunDirectory(root, durable, journal, blobs)
    finally:
        journal.close()


def _open_read_only(root: Path) -> Iterator[RunDirectory]:
    journal = Journal(root / "journal.db", read_only=True)
    with closing(journal), closing(RunBlobs(root / "blobs", read_only=True)) as blobs:
        yield RunDirectory(root, False, journal, blobs)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the directory's lock; D102 if another process does."""
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        fd = os.open(root / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            raise BarnraiseError(
                "D102",
                f"{root} is in use",
                f"process {holder or 'unknown'} holds its lock",
                next="wait for that process, or end it; then run the same command again",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
