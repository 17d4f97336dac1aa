"""`barnraise node data …`: what a site states of its data, and records of it opened to an auditor."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from barnraise.cli import site, words
from barnraise.cli.config import directory as directory_in
from barnraise.cli.sim import Json, Yes, links_left_out
from barnraise.cli.site import Said
from barnraise.protocols.errors import BarnraiseError

if TYPE_CHECKING:
    from barnraise.client.data.made import Made
    from barnraise.protocols.charter import TaskSection

Dir = Annotated[
    Path | None,
    typer.Option("--dir", metavar="N", parser=directory_in, help="The node's directory."),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The data. [default: the first of policy.toml]"),
]
OPENING = "opening.json"


def _say(*lines: str) -> None:
    from barnraise.cli.watch import say

    say(*lines)


def state(
    data: Data = None,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="F", help="What you say of it. [default: N/data.toml]"),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="The data are published: state each file's address.")
    ] = False,
    yes: Yes = False,
    given: Dir = None,
    as_json: Json = False,
) -> Said:
    """State what this site's data are: drafted, filled in by you, counted, shown, and signed.

    Private data are committed to, record by record, and nothing of them leaves. A first call writes the
    answers to fill in.
    """
    from barnraise.client.data import answers as answering
    from barnraise.client.data import kept, made, reading
    from barnraise.client.node.consent import membership_of

    home = site.home_of(given)
    membership = membership_of(home)
    section, directory = _task(home), data or _directory(home)
    path = answers or home / answering.FILE
    if not path.exists():
        return _drafted(path, section, directory, open_=open_)
    answered = answering.read(path)
    _check_open(path, open_=open_, stated=answered.open is not None)
    with _counting() as progress:
        one = made.made(
            directory.absolute(),
            reading.reading_of(section),
            answered,
            path.absolute().parent,
            kept.salt(home),
            progress,
        )
    _say(*_shown(one))
    site.confirm(f"sign this as {membership.member}, for everybody to read?", yes=yes)
    kept.keep(home, one, directory.absolute(), section, time.time())
    running = site.tell(home, "look") is not None
    _say(f"signed: {one.statement.digest}")
    if not running:
        _say("no node runs here: the statement leaves with the next `barnraise node up`")
    return {"ok": True, **_facts(one), "running": running}


def _task(home: Path) -> TaskSection | None:
    """The task of the newest charter that was approved, or else asked for; None for an app. S101."""
    from barnraise.client.node import consent
    from barnraise.protocols.agreements import Work
    from barnraise.protocols.apps import BUILT_IN
    from barnraise.protocols.charter import Charter

    held, approved = consent.proposals(home), consent.consents(home)
    found = [one for one in held if one.digest in approved] or held
    if not found:
        raise BarnraiseError(
            "S101",
            "nothing says yet how this site's data are read",
            "no charter was proposed to this site, or its node has not run since",
            next="barnraise node up",
        )
    text = found[-1].text
    return Charter.parse(text).task if Work.of(text).component == BUILT_IN else None


def _directory(home: Path) -> Path:
    from barnraise.client.node import policy_file

    policy = policy_file.read(home)
    if policy is None or not policy.data.directories:
        raise BarnraiseError(
            "S101",
            "nothing says where this site's data are",
            "policy.toml names no directory",
            next="give --data DIR, or name it in policy.toml: barnraise node policy edit",
        )
    return Path(policy.data.directories[0])


def _drafted(path: Path, section: TaskSection | None, directory: Path, *, open_: bool) -> Said:
    """Write the answers to fill in, and say what a statement would be of."""
    from barnraise.client.data import answers as answering
    from barnraise.client.data import reading

    read, count = reading.reading_of(section), 0
    with _counting() as progress:
        for _ in read.records(directory):
            count += 1
            progress(count)
    answering.draft(path, open_=open_)
    _say(
        f"{directory} holds {words.count(count, read.kind)}",
        *links_left_out(directory),
        f"what only you can say of it is asked for in {path}",
        "next: fill it in, then give the same command again",
    )
    return {"ok": True, "draft": str(path), "records": count, "kind": read.kind}


def _check_open(path: Path, *, open_: bool, stated: bool) -> None:
    if open_ == stated:
        return
    what = "has no [open] table" if open_ else "has an [open] table, and --open was not given"
    raise BarnraiseError(
        "S103",
        f"{path} {what}",
        "of open data every file is named, with the address at which everybody can have it",
        "nothing was signed or sent",
        next="add [open] with address = …" if open_ else "give --open, or remove [open]",
    )


def _shown(one: Made) -> list[str]:
    """The statement for review, but for what all statements have."""
    document = {k: v for k, v in one.statement.document.items() if k != "@context"}
    files = document.pop("distribution")
    text = json.dumps(document, indent=1, ensure_ascii=False)
    rows = ["This is what everybody may read:", *text.splitlines()]
    rows += [f"  {f['name']}  {f['contentUrl']}  sha256:{f['sha256'][:12]}…" for f in files]
    if files:
        published = ", ".join(one.code) or "none"
        rows.append(f"{words.count(len(files), 'file')}; processing code: {published}")
    return rows


def _facts(one: Made) -> Said:
    statement = one.statement
    root = statement.root
    return {
        "document": statement.digest,
        "open": statement.open,
        "records": statement.records,
        "root": f"sha256:{root.hex()}" if root is not None else None,
        "statement": dict(statement.document),
    }


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """A line that counts records, on a terminal."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from barnraise.cli.watch import console

    columns = (SpinnerColumn(), TextColumn("{task.completed} records read"), TimeElapsedColumn())
    shown = Progress(*columns, console=console(), transient=True)
    task = shown.add_task("", total=None)
    if not shown.console.is_terminal:
        yield lambda done: None
        return
    with shown:
        yield lambda done: shown.update(task, completed=done)


def open_records(
    chosen: Annotated[list[int], typer.Argument(metavar="INDEX…", help="Which records, from 0.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="F", help="Where the opening is written.")
    ] = Path(OPENING),
    data: Data = None,
    given: Dir = None,
    as_json: Json = False,
) -> Said:
    """Open records of private data to an auditor: each with its salt and its path to the stated root.

    F then holds these records themselves, and of all others nothing. It is for the auditor alone.
    """
    from barnraise.client.data import kept, made, reading
    from barnraise.client.node.sent import FILE, Sent
    from barnraise.protocols import files

    home = site.home_of(given)
    standing = kept.current(home)
    if standing is None:
        raise BarnraiseError(
            "S111",
            "this site has stated nothing of its data",
            next="barnraise node data state",
        )
    directory = (data or standing.directory).absolute()
    with _counting() as progress:
        read = reading.reading_of(standing.section)
        opening = made.opening(
            directory, read, standing.statement, kept.salt(home), chosen, progress
        )
    encoded = opening.encode()
    sent = Sent(home / FILE)
    try:
        indices = [one.index for one in opening.records]
        what = f"records {', '.join(map(str, indices))}"
        sent.handed(
            "opening", what[:200], opening.document, len(encoded), time.time(), to=str(output)
        )
    finally:
        sent.close()
    with files.disk_errors(output):
        files.replace(output, encoded)
    _say(
        f"{words.count(len(opening.records), 'record')} of {standing.statement.records}: {output}",
        f"check: barnraise node data check {output} --statement STATEMENT",
    )
    return {
        "ok": True,
        "opening": str(output),
        "document": opening.document,
        "records": indices,
        "bytes": len(encoded),
    }


def check(
    opening: Annotated[Path, typer.Argument(metavar="F", help="What `node data open` wrote.")],
    statement: Annotated[
        Path, typer.Option("--statement", metavar="S", help="The member's .croissant.json.")
    ],
    as_json: Json = False,
) -> Said:
    """Check opened records against a data statement. Needs no node: it is for auditors.

    S is data/MEMBER.croissant.json of a release.
    """
    from barnraise.protocols.croissant import CroissantFault, Statement
    from barnraise.protocols.openings import Opening, OpeningError

    try:
        stated = Statement.read(_read(statement))
        if stated.root is None:
            raise OpeningError("the statement is of open data, which are not opened")
        opened = Opening.decode(_read(opening))
        opened.check(stated.digest, stated.records, stated.root)
    except (CroissantFault, OpeningError) as error:
        raise BarnraiseError(
            "S110",
            f"{opening} does not hold",
            str(error),
            "nothing that it says is shown to be so",
            next="ask the member for the opening again, and take the statement from a release",
        ) from None
    rows = [{"index": one.index, "bytes": len(one.record)} for one in opened.records]
    for one in opened.records:
        _say(f"record {one.index}: {words.size(len(one.record))}", _excerpt(one.record))
    _say(f"they are among the {stated.records} records that {stated.digest} states")
    return {"ok": True, "document": stated.digest, "size": stated.records, "records": rows}


def _excerpt(record: bytes) -> str:
    """The beginning of a record as text; what is no text is told as such."""
    try:
        text = record.decode()
    except UnicodeDecodeError:
        return f"  {record[:32].hex()}…"
    shown = "".join(c if c.isprintable() else " " for c in text[:200])
    return f"  {shown}{'…' if len(text) > 200 else ''}"


def _read(path: Path) -> bytes:
    from barnraise.protocols.openings import MAX_OPENING

    try:
        with path.open("rb") as file:
            data = file.read(MAX_OPENING + 1)
    except OSError as error:
        raise BarnraiseError(
            "D105",
            f"{path} cannot be used",
            error.strerror or str(error),
            next="give a file that you may read",
        ) from None
    if len(data) > MAX_OPENING:
        raise BarnraiseError(
            "D105",
            f"{path} is too large",
            f"more than {MAX_OPENING} bytes",
            next="give another file",
        )
    return data


def verbs() -> typer.Typer:
    """`barnraise node data …`."""
    app = typer.Typer(help="What this site states of its data.", no_args_is_help=True)
    app.command("state")(state)
    app.command("open", no_args_is_help=True)(open_records)
    app.command("check", no_args_is_help=True)(check)
    return app
