"""A run as its log and its store tell it, for a release: facts, and what the log's entries need.

Everything that becomes a file comes from entries, from blobs that they name, or from the app's copy.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from barnraise.coordinator.release.facts import DataFacts, Facts, MemberFacts
from barnraise.coordinator.release.source import Source
from barnraise.protocols import files, release
from barnraise.protocols.agreements import Agreement, Work
from barnraise.protocols.apps import code_kept, digest_held
from barnraise.protocols.canonical import digest as digest_of
from barnraise.protocols.charter import NO_TERMS, Charter, ReleaseSection
from barnraise.protocols.content import ContentError, Envelope, Values
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member
from barnraise.protocols.log_rules import Rules
from barnraise.protocols.telling import Telling
from barnraise.protocols.tensors import BlobError, open_blob, size_of

STATING = frozenset({"member.enrolled", "data.stated", "run.opened", "run.closed"})
"""Entries from which it follows what a run's members had stated of their data."""


@dataclass
class Gathered:
    """What a pass over the log found. `contents`: digests of what this run's entries name as contents;
    `stating`: the entries that tell of data statements. `organisations` and `signed` are as of when the
    run was closed, so that a release made again later is the same."""

    telling: Telling
    rules: Rules
    agreement: Agreement | None = None
    charter_text: str = ""
    organisations: dict[str, str] = field(default_factory=dict)
    signed: dict[str, Any] = field(default_factory=dict)
    contents: dict[str, None] = field(default_factory=dict)
    stating: list[Entry] = field(default_factory=list)
    work: dict[str, MemberWork] = field(default_factory=dict)


@dataclass
class MemberWork:
    steps: int = 0
    examples: int = 0


def gather(source: Source) -> Gathered:
    """Read the log once. Raises D106, L103 for a log that does not hold together."""
    found = Gathered(Telling(source.run), Rules(source.shelf.read))
    signatures: dict[str, dict[str, Any]] = {}
    organisations: dict[str, str] = {}
    train: set[int] = set()
    for index, data in source.log.entries():
        if problems := found.rules.see(index, data):
            raise _broken(source.root, index, problems[0])
        entry = found.rules.entry
        assert entry is not None
        body = entry.body
        if entry.type in STATING:
            found.stating.append(entry)
        found.telling.see(entry)
        if entry.type == "member.enrolled":
            organisations[body["member"]] = body["organisation"]
        elif entry.type == "charter.signed":
            signatures.setdefault(body["agreement"], {})[body["member"]] = body["statement"]
        elif body.get("run") == source.run:
            _of_run(found, source, entry, train)
            if entry.type == "run.closed":
                found.organisations = dict(organisations)
                agreed = str(found.telling.opened.get("agreement", ""))
                found.signed = dict(signatures.get(agreed, {}))
    if agreed := str(found.telling.opened.get("agreement", "")):
        found.agreement = Agreement.decode(_held(source, agreed))
        found.charter_text = _held(source, found.agreement.charter).decode()
    return found


def needed(source: Source, size: int) -> set[str]:
    """The digests of blobs without which the first `size` entries of the log cannot be read."""
    found: set[str] = set()
    for _, data in source.log.entries(0, size):
        if b'"blob":' not in data and b'"type":"charter.adopted"' not in data:
            continue
        entry = Entry.decode(data)
        if entry.body.keys() == {"run", "blob"}:
            found.add(entry.body["blob"])
        elif entry.type == "charter.adopted":
            found |= {entry.body["agreement"], entry.body["charter"]}
    return found


def _of_run(found: Gathered, source: Source, entry: Entry, train: set[int]) -> None:
    body = entry.body
    if entry.type == "batch.sent":
        found.contents |= dict.fromkeys(group["content"] for group in body["orders"])
        if any(group["type"].partition(".")[0] == "train" for group in body["orders"]):
            train.add(body["batch"])
    elif entry.type == "batch.closed":
        found.contents |= dict.fromkeys(body["accepted"].values())
    elif entry.type == "reply.accepted" and body["batch"] in train:
        _note_work(found, source, body)
    elif entry.type == "round.sealed":
        found.contents[body["content"]] = None


def _note_work(found: Gathered, source: Source, body: Mapping[str, Any]) -> None:
    """Steps and examples that a train reply reports; nothing where its envelope is gone."""
    work = found.work.setdefault(body["member"], MemberWork())
    data = source.shelf.envelope(body["content"])
    try:
        records = dict(Envelope.decode(data).records) if data is not None else {}
    except ContentError:
        return
    for record in records.values():
        if isinstance(record, Values) and record.kind == "metrics":
            values = dict(record.items)
            steps, examples = values.get("steps"), values.get("num-examples")
            work.steps += steps if type(steps) is int else 0
            work.examples = max(work.examples, examples if type(examples) is int else 0)


def _held(source: Source, digest: str) -> bytes:
    data = source.shelf.read(digest)
    if data is None or digest_of(data) != digest:
        raise files.damaged(
            f"the store of {source.root} is damaged", f"{digest} is not there, or other"
        )
    return data


def _broken(root: Path, index: int, problem: str) -> BarnraiseError:
    return BarnraiseError(
        "L103",
        f"the log in {root} does not hold together",
        f"entry {index}: {problem}",
        "nothing was released",
        f"barnraise log check {root}",
    )


# --- facts -----------------------------------------------------------------------------------------


def facts(
    source: Source,
    found: Gathered,
    statements: Mapping[str, DataFacts],
    comparison: Mapping[str, Any] | None,
) -> Facts:
    """Raises G102 for a run that names no model, G106 for one in which nobody signs."""
    told = found.telling
    if told.opened.get("unsigned"):
        raise BarnraiseError(
            "G106",
            "nobody signs in this run, so a release of it would prove nothing",
            f"{source.run} was run on Flower's own engine, which knows no members' keys",
            next="train with `barnraise serve`, or show the journal: barnraise log show",
        )
    if not told.closed.get("named"):
        raise BarnraiseError(
            "G102",
            "the run names no model",
            f"its app never called Strategy.start, so {source.run} ends in a digest of its batches",
            next="release a run of an app that starts a strategy",
        )
    charter = _charter(found.charter_text)
    terms = Work.of(found.charter_text).release if found.charter_text else NO_TERMS
    model = told.closed["model"]
    size, tensors = _tensors(source, model)
    return Facts(
        federation=found.rules.federation,
        log=found.rules.log,
        run=source.run,
        name=str(told.opened["app"]["name"]),
        charter=charter,
        charter_text=found.charter_text,
        terms=terms,
        licence=charter.licence if charter is not None else None,
        agreement=found.agreement,
        signed=tuple(sorted(found.signed)),
        members=tuple(_members(found, statements)),
        opened=told.opened,
        opened_at=told.opened_at,
        closed_at=told.closed_at,
        model=model,
        model_bytes=size,
        tensors=tensors,
        parameters=sum(size_of(shape) for _, _, shape in tensors),
        rounds=told.rounds,
        sent=dict(_sent(source, found)),
        final=(told.closed.get("report") or {}).get("metrics") or {},
        contributions=mode(terms, statements, [name for name, _ in told.opened["members"]]),
        code={path: digest_held(data)[7:] for path, data in sorted(code_kept(source.app).items())},
        versions=told.opened.get("versions") or {},
        comparison=comparison,
    )


def mode(terms: ReleaseSection, statements: Mapping[str, DataFacts], members: list[str]) -> str:
    """The charter's word; else open where every member's data are open, and sealed where not."""
    if terms.contributions is not None:
        return terms.contributions
    stated = [statements.get(name) for name in members]
    return release.OPEN if all(one is not None and one.open for one in stated) else release.SEALED


def _charter(text: str) -> Charter | None:
    if not text or "app" in tomllib.loads(text):
        return None
    return Charter.parse(text)


def _members(found: Gathered, statements: Mapping[str, DataFacts]) -> Iterator[MemberFacts]:
    seconds: dict[str, float] = {}
    for one in found.telling.rounds:
        for name, taken in one.seconds_of.items():
            seconds[name] = seconds.get(name, 0.0) + taken
    for name, key in sorted(found.telling.opened["members"]):
        work = found.work.get(name, MemberWork())
        yield MemberFacts(
            name,
            found.organisations.get(name, ""),
            key,
            str(Member(name, bytes.fromhex(key)).node_id),
            work.steps,
            work.examples,
            seconds.get(name, 0.0),
            statements.get(name),
        )


def _tensors(
    source: Source, model: str
) -> tuple[int, tuple[tuple[str, str, tuple[int, ...]], ...]]:
    path = source.shelf.path(model)
    if not path.is_file():
        raise files.damaged(
            f"the store of {source.root} is damaged", f"the model {model} is not there"
        )
    try:
        held = open_blob(path)
    except BlobError as error:
        raise files.damaged(f"the model of {source.root} is damaged", str(error)) from None
    named = [(name, str(spec.dtype), tuple(spec.shape)) for name, spec in held.items()]
    return path.stat().st_size, tuple(named)


def _sent(source: Source, found: Gathered) -> Iterator[tuple[int, int]]:
    """Round → bytes that its orders carried; rounds of which something is gone are left out."""
    sizes: dict[str, int | None] = {}
    for one in found.telling.rounds:
        for content, _ in one.contents:
            if content not in sizes:
                sizes[content] = _size(source, content)
        known = [(sizes[content], members) for content, members in one.contents]
        if all(size is not None for size, _ in known):
            yield one.number, sum((size or 0) * members for size, members in known)


def _size(source: Source, content: str) -> int | None:
    data = source.shelf.envelope(content)
    if data is None:
        return None
    paths = [source.shelf.path(blob) for blob in Envelope.decode(data).blobs()]
    if not all(path.is_file() for path in paths):
        return None
    return len(data) + sum(path.stat().st_size for path in paths)
