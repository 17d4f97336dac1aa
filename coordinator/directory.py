"""A run's directory: journal, blobs, members' own things, a copy of the app, and one lock.

    D/journal.db  D/blobs/  D/members/  D/app/  D/secret  D/lock  D/logs/  D/model.safetensors

Without a directory of its own a run lives in a temporary one, where nothing is synced.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from barnraise.coordinator.blobs import RunBlobs
from barnraise.coordinator.journal import Failpoint, Journal, kill_from_environment
from barnraise.coordinator.members import MemberStore
from barnraise.protocols.apps import Code
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors


@dataclass(frozen=True)
class RunDirectory:
    """An opened directory; whoever opened it holds its lock. `durable` is False for temporary ones."""

    root: Path
    durable: bool
    journal: Journal
    blobs: RunBlobs

    def members(self) -> MemberStore:
        return MemberStore(self.root / "members", durable=self.durable)

    def keep_secret(self, secret: bytes) -> bytes:
        """The run's secret: what the directory holds, or `secret`, which it holds from now on."""
        path, temp = self.root / "secret", self.root / "secret.new"
        if path.exists():
            return path.read_bytes()
        temp.unlink(missing_ok=True)
        fd = os.open(temp, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secret)
            self._sync(file.fileno())
        temp.rename(path)
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
        if (self.root / "members").exists():
            raise BarnraiseError(
                "D106",
                f"the journal of {self.root} is lost",
                f"{self.journal.path} is empty, but the members have worked here",
                next="restore the directory from a backup, or start again in a new one",
            )
        (self.root / "secret").unlink(missing_ok=True)
        shutil.rmtree(self.app, ignore_errors=True)

    def keep_app(self, files: Code) -> None:
        """Copy the app's code, so that the run can be replayed wherever the directory goes."""
        shutil.rmtree(self.app, ignore_errors=True)
        for name, data in files.items():
            path = self.app / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, bytes):
                path.write_bytes(data)
            else:
                shutil.copyfile(data, path)

    @property
    def published(self) -> Path:
        return self.root / "model.safetensors"

    def publish(self, blob: str) -> Path:
        """`model.safetensors`: the final model, whose SHA-256 is the run's digest. Again does no harm."""
        target = self.published
        temp = self.root / "model.safetensors.new"
        self.blobs.check(blob)
        shutil.copyfile(self.blobs.path(blob), temp)
        with temp.open("rb") as file:
            self._sync(file.fileno())
        temp.rename(target)
        return target


@contextmanager
def opened(
    path: Path | None, failpoint: Failpoint = kill_from_environment
) -> Iterator[RunDirectory]:
    """Open a run's directory, made if needed, under its lock. Raises D102, D104, D105, D106."""
    if path is None:
        with tempfile.TemporaryDirectory(prefix="barnraise-") as name:
            yield from _open(Path(name), failpoint, durable=False)
    else:
        with _locked(path):
            yield from _open(path, failpoint, durable=True)


def _open(root: Path, failpoint: Failpoint, *, durable: bool) -> Iterator[RunDirectory]:
    journal = Journal(root / "journal.db", durable=durable, failpoint=failpoint)
    try:
        with disk_errors(root):
            blobs = RunBlobs(root / "blobs", durable=durable)
        with closing(blobs):
            yield RunDirectory(root, durable, journal, blobs)
    finally:
        journal.close()


@contextmanager
def _locked(root: Path) -> Iterator[None]:
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
