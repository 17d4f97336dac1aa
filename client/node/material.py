"""Proposals come to the site: what is asked for is listed, its charter and code fetched as material.

Everything is bytes until it lies in `proposals/<agreement>/`, complete and held against what the agreement
names; files and folders are made read-only. No size, path or digest that the coordinator names is believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import grpc

from barnraise.client.keys import Membership
from barnraise.client.node import consent, transfers
from barnraise.client.node.consent import APP, CHARTER_TEXT, folder_of
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols import files
from barnraise.protocols.agreements import Agreement, AgreementError
from barnraise.protocols.apps import CODE, INIT
from barnraise.protocols.canonical import digest_of, is_digest
from barnraise.protocols.federation_pb2_grpc import MembershipStub
from barnraise.protocols.transfers import CHUNK

MOST = 32  # proposals that are looked at
FILES = 10_000  # of an app
TEXT = 1 << 20  # bytes of a charter
SPARE = 2  # a proposal may fill one part in so many of what the disk has left


@dataclass(frozen=True)
class Asked:
    """A proposal as the coordinator lists it now. `fault`: why it is not looked at; "" for a good one."""

    agreement: str
    name: str
    signed: bool
    fault: str = ""


def look(stub: MembershipStub, home: Path, membership: Membership, key: bytes) -> list[Asked]:
    """List what is asked of this site and fetch what is not here yet.

    Raises `transfers.Failed` where it may be tried again, `transfers.Refused` else, D104, D105.
    """
    try:
        listed = stub.Proposals(pb.ProposalsRequest()).proposals
    except grpc.RpcError as error:
        raise transfers.failure_of(error) from None
    except ValueError:
        raise transfers.Failed("the connection is gone") from None
    return [_take(stub, home, membership, key, said) for said in list(listed)[:MOST]]


def _take(
    stub: MembershipStub, home: Path, membership: Membership, key: bytes, said: pb.Proposal
) -> Asked:
    name = "".join(c for c in said.name[:80] if c.isprintable())
    try:
        agreement = Agreement.decode(said.agreement)
        consent.check_ours(agreement, membership, key)
        _check_listed(agreement, said)
    except AgreementError as error:
        return Asked("", name, False, str(error))
    folder = folder_of(home, agreement.digest)
    if not folder.is_dir():
        with files.disk_errors(home):
            if fault := _fetch(stub, home, agreement, name, said):
                return Asked(agreement.digest, name, said.signed, fault)
    return Asked(agreement.digest, name, said.signed)


def _check_listed(agreement: Agreement, said: pb.Proposal) -> None:
    """Raise `AgreementError` unless the list of files is the agreed app's, and harmless."""
    if len(said.files) > FILES or said.charter_size > TEXT:
        raise AgreementError(
            f"it has more than {FILES} files, or a charter of more than {TEXT} bytes"
        )
    paths = [file.path for file in said.files]
    if len({p.casefold() for p in paths}) != len(paths) or not all(map(_is_plain, paths)):
        raise AgreementError("a file of its app has a path that no app's file has")
    if not all(is_digest(file.digest) for file in said.files):
        raise AgreementError("a file of its app has no digest")
    if digest_of(sorted([file.path, file.digest] for file in said.files)) != agreement.app:
        raise AgreementError("its files are not those of the agreed app")


def _is_plain(path: str) -> bool:
    """Whether the path is one that `apps.code_kept` finds again: relative, of code, nothing hidden."""
    parts = path.split("/")
    fits = 0 < len(path) <= 1024 and path.isprintable() and "\\" not in path
    inside = all(part and not part.startswith(".") and part != "__pycache__" for part in parts)
    return fits and inside and (PurePosixPath(path).suffix in CODE or path == INIT)


def _fetch(
    stub: MembershipStub, home: Path, agreement: Agreement, name: str, said: pb.Proposal
) -> str:
    """Fetch it whole; why it cannot be had, or "". Cut off, it goes on where it was the next time."""
    shelf = home / consent.PROPOSALS / ".coming" / agreement.digest[7:]
    shelf.mkdir(parents=True, exist_ok=True)
    parts = [(agreement.charter, TEXT), *((f.digest, f.size) for f in said.files)]
    room = shutil.disk_usage(home).free // SPARE
    if sum(size for _, size in parts) > room:
        return f"it has more than {room} bytes, which is too much for this disk"
    for held, size in dict(parts).items():
        _blob(stub, held, size, shelf / held[7:])
    _lay_out(home, shelf, agreement, name, said)
    return ""


def _blob(stub: MembershipStub, held: str, size: int, path: Path) -> None:
    """Fetch what is missing of one file of at most `size` bytes; what has another digest is dropped."""
    with path.open("a+b") as file:
        at = file.tell()
        hasher = hashlib.sha256()
        file.seek(0)
        while piece := file.read(CHUNK):
            hasher.update(piece)
        if "sha256:" + hasher.hexdigest() == held:
            return
        for data in _pieces(stub, pb.FetchRequest(digest=held, offset=at)):
            at += len(data)
            if len(data) > CHUNK or at > size:
                break
            hasher.update(data)
            file.write(data)
    if at > size or "sha256:" + hasher.hexdigest() != held:
        path.unlink()
        raise transfers.Failed(f"what came as {held} is not it")


def _pieces(stub: MembershipStub, request: pb.FetchRequest) -> Iterator[bytes]:
    try:
        call = stub.Material(request)
        try:
            for chunk in call:
                yield chunk.data
        finally:
            call.cancel()
    except grpc.RpcError as error:
        raise transfers.failure_of(error) from None
    except ValueError:
        raise transfers.Failed("the connection is gone") from None


def _lay_out(home: Path, shelf: Path, agreement: Agreement, name: str, said: pb.Proposal) -> None:
    """Put the material where it is reviewed, in one rename, for reading only."""
    new = shelf.with_name(f"{shelf.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    (new / APP).mkdir(parents=True)
    shutil.copyfile(shelf / agreement.charter[7:], new / CHARTER_TEXT)
    for file in said.files:
        path = new / APP / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shelf / file.digest[7:], path)
    listed = [[f.path, f.digest, (new / APP / f.path).stat().st_size] for f in said.files]
    (new / "agreement.json").write_bytes(agreement.encode())
    document = {"name": name, "adopted": said.adopted[:40], "files": listed}
    (new / "proposal.json").write_text(json.dumps(document, indent=1))
    _settle(new)
    new.rename(folder_of(home, agreement.digest))
    files.fsync(home / consent.PROPOSALS)
    shutil.rmtree(shelf)


def _settle(folder: Path) -> None:
    """Make everything below durable and read-only."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(root) / name
            path.chmod(stat.S_IRUSR)
            files.fsync(path)
        files.fsync(Path(root))
        if Path(root) != folder:
            Path(root).chmod(stat.S_IRUSR | stat.S_IXUSR)
