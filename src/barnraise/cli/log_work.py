"""What the verbs of `barnraise log` do; imported when one of them is called."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from barnraise.cli.log_lines import History
from barnraise.coordinator.log import Log
from barnraise.coordinator.log_check import JOURNAL, MOST, Checked, check_log, log_key
from barnraise.coordinator.shelf import Shelf
from barnraise.protocols import notes
from barnraise.protocols.canonical import is_digest
from barnraise.protocols.entries import MAX_ENTRY, Entry, EntryError
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import disk_errors
from barnraise.protocols.log_rules import Rules
from barnraise.protocols.merkle import ProofError
from barnraise.protocols.tlog_proof import MAX_PROOF, TlogProof
from barnraise.protocols.witnessing import quorum


def show(directory: Path, since: str | None, as_json: bool) -> dict[str, Any]:
    """The history in lines; with `as_json` on stderr, and every entry in full in what is returned."""
    start, time = _since(since)
    history, found = History(), list[dict[str, Any]]()
    with closing(Log(directory / JOURNAL)) as log, closing(Shelf(directory / "blobs")) as shelf:
        for index, data in log.entries():
            entry = _entry(index, data, shelf)
            lines = history.lines(entry)
            if index < start or (time is not None and _time(entry.time) < time):
                continue
            if as_json:
                found.append({"index": index, **json.loads(data)})
            for line in lines:
                _say(f"{index:>6}  {entry.time[:19]}  {line}", human=as_json)
        return {"ok": True, "log": log.origin, "size": log.size(), "entries": found}


def prove(entry: str, directory: Path, output: Path | None, as_json: bool) -> dict[str, Any]:
    """The proof on stdout, or in a file with the entry beside it. Raises L101, L102, L105."""
    with closing(_signing(directory)) as log:
        index = _found(log, entry)
        data, proof = log.entry(index), log.prove(index)
        key = Entry.decode(log.entry(0)).body["log"]
    text = proof.encode()
    if output is not None:
        beside = output.with_name(f"{output.name}.entry")
        if not output.absolute().parent.is_dir():
            raise BarnraiseError(
                "D105",
                f"{output} cannot be written",
                f"there is no directory {output.parent}",
                next="give a file in a directory that is there",
            )
        with disk_errors(output):
            output.write_bytes(text)
            beside.write_bytes(data)
        _say(f"{output} proves that the log {log.origin} holds {beside}")
        files = f"{shlex.quote(str(output))} --entry {shlex.quote(str(beside))}"
        _say(f"next: barnraise log check {files} --key {shlex.quote(key)}")
    elif not as_json:
        sys.stdout.write(text.decode())
    return {"ok": True, "index": index, "entry": data.decode(), "proof": text.decode()}


def check(target: Path, entry: Path | None, key: str | None) -> dict[str, Any]:
    """A whole log, or one proof where `target` is a file. Raises L101, L103, L104."""
    if target.is_file():
        return _check_proof(target, entry, key)
    if entry is not None or key is not None:
        raise BarnraiseError(
            "X102",
            "--entry and --key belong to a proof, and this is no file",
            f"there is no file {target}",
            next="barnraise log check --help",
        )
    found = check_log(target)
    lines = [*found.facts, *(f"WRONG: {problem}" for problem in found.problems[:MOST])]
    for number, line in enumerate(lines, 1):
        _say(f"{number}. {line}")
    if found.problems:
        raise _does_not_hold(target, found)
    return {
        "ok": True,
        "entries": found.entries,
        "root": found.root,
        "signatures": found.signatures,
        "witnessed": found.witnessed,
        "cosignatures": found.cosignatures,
        "facts": found.facts,
    }


def _does_not_hold(directory: Path, found: Checked) -> BarnraiseError:
    return BarnraiseError(
        "L103",
        f"the log in {directory} does not hold together",
        "\n".join(found.problems[:MOST]),
        next="keep the directory as it is, and ask the federation's operator",
    )


def _check_proof(path: Path, entry: Path | None, key: str | None) -> dict[str, Any]:
    if entry is None or key is None:
        raise BarnraiseError(
            "X102",
            "a proof is checked against an entry and the log's key",
            "--entry FILE and --key VKEY are needed; an invite and a charter name the key",
            next="barnraise log check --help",
        )
    with disk_errors(path), path.open("rb") as file:
        data = file.read(MAX_PROOF + 1)
    with disk_errors(entry), entry.open("rb") as file:
        held = file.read(MAX_ENTRY + 1)
    try:
        proof = TlogProof.decode(data)
        checkpoint = proof.check(held, key)
    except (ProofError, ValueError) as error:
        raise BarnraiseError(
            "L104", f"{path} does not prove {entry}", str(error), next="ask for the proof again"
        ) from None
    lines = notes.open_checkpoint(proof.note, key).lines
    names = [notes.line_name(line) for line in lines]
    told = (
        f"{entry} is entry {proof.index} of {checkpoint.origin}, which then had {checkpoint.size}"
    )
    _say(told)
    if names:
        _say(f"cosigned, which was not checked, by {', '.join(names)}")
    return {
        "ok": True,
        "index": proof.index,
        "log": checkpoint.origin,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "claimed_cosignatures": names,
    }


# --- what the verbs share ---------------------------------------------------------------------------


def _say(line: str, *, human: bool = True) -> None:
    """A line on stderr, or on stdout where it is what was asked for."""
    (sys.stderr if human else sys.stdout).write(f"{line}\n")


def _signing(directory: Path) -> Log:
    """The log with its key, if the directory holds it, and with its witnesses."""
    with closing(Log(directory / JOURNAL)) as log:
        vkey = Entry.decode(log.entry(0)).body["log"]
        with closing(Shelf(directory / "blobs")) as shelf:
            rules = Rules(shelf.read)
            for index, data in log.entries():
                if index == 0 or _may_name_witnesses(data):
                    rules.see(index, data)
    raw = log_key(directory, vkey)
    key = Ed25519PrivateKey.from_private_bytes(raw) if raw is not None else None
    signing = Log(directory / JOURNAL, key)
    if rules.witnesses:
        keys = {name: bytes.fromhex(k) for name, k in rules.witnesses.items()}
        signing.expect(keys, quorum(len(keys)))
    return signing


def _may_name_witnesses(data: bytes) -> bool:
    kinds = (b"member.", b"charter.", b"run.opened")
    return any(b'"type":"' + kind in data for kind in kinds)


def _found(log: Log, named: str) -> int:
    """The index of the entry that is named by index, by its digest, or by its order's id."""
    index: int | None = None
    if named.isdecimal():
        index = int(named) if int(named) < log.size() else None
    elif is_digest(named):
        index = log.find(named)
        index = log.find_digest(named) if index is None else index
    if index is None:
        raise BarnraiseError(
            "L102",
            f"the log has no entry {named}",
            f"it has {log.size()} entries; {named} is no index, no order that was judged, no digest",
            next="barnraise log show",
        )
    return index


def _entry(index: int, data: bytes, shelf: Shelf) -> Entry:
    """The entry, with the body that it names."""
    try:
        entry = Entry.decode(data)
        if set(entry.body) == {"run", "blob"} and (held := shelf.read(entry.body["blob"])):
            entry = Entry(entry.type, entry.time, json.loads(held))
    except (EntryError, ValueError) as error:
        raise BarnraiseError(
            "L103", f"entry {index} is none", str(error), next="barnraise log check"
        ) from None
    return entry


def _since(text: str | None) -> tuple[int, datetime.datetime | None]:
    if text is None:
        return 0, None
    if text.isdecimal():
        return int(text), None
    try:
        return 0, _time(text)
    except ValueError:
        raise BarnraiseError(
            "X102",
            f"--since {text} is neither a number nor a time",
            "a time is written as 2026-11-24T18:30:00Z; the T, the seconds and the Z may be left out",
            next="barnraise log show --help",
        ) from None


def _time(text: str) -> datetime.datetime:
    """A time without a zone is in UTC."""
    time = datetime.datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=datetime.UTC)
