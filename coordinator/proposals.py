"""What members are asked to agree on, as it lies on disk until a run is opened under it.

    F/proposals/<agreement>/agreement.json  charter.toml  proposal.json  app/…

The agreement and the charter's text also lie in the blob store, under the digests that the log names.
`propose` writes; whoever serves members reads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from barnraise.coordinator.federation import Federation
from barnraise.coordinator.plans import charter_code
from barnraise.protocols import files, flower
from barnraise.protocols.agreements import Agreement, Value, Work
from barnraise.protocols.apps import Code, app_digest, code_files, digest_held
from barnraise.protocols.canonical import digest
from barnraise.protocols.charter import Charter, read_text
from barnraise.protocols.errors import BarnraiseError


@dataclass(frozen=True)
class Draft:
    """What an operator would have members agree on: the charter's text, and the app's files."""

    work: Work
    text: str
    code: Code

    @classmethod
    def charter(cls, path: Path) -> Draft:
        """The run of a charter, by the built-in app. Raises C101 to C106."""
        text = read_text(path)
        charter = Charter.parse(text, str(path))
        return cls(Work.of(text), text, charter_code(charter, text, path))

    @classmethod
    def app(
        cls, path: Path, config: str, rounds: tuple[int | None, float | None, float | None]
    ) -> Draft:
        """A Flower app's directory, with overrides of its configuration. Raises A101, A102."""
        project = flower.project(path.absolute(), flower.run_config(config))
        values: dict[str, Value] = dict(project.config)
        work = Work(project.name, project.client, values, *rounds)
        return cls(work, work.text(), code_files(path))

    def agreement(self, federation: Federation) -> Agreement:
        """The agreement on this by whoever is a member now. Raises F114."""
        members = federation.ledger.read().active()
        quorum = self.work.quorum or len(members)
        if not members or quorum > len(members):
            raise BarnraiseError(
                "F114",
                f"the agreement needs {max(quorum, 1)} members, and the federation has {len(members)}",
                ", ".join(members) or "nobody has joined yet",
                next="barnraise invite NAME",
            )
        text = digest(self.text.encode())
        return Agreement(
            federation.name,
            federation.authority.vkey,
            text,
            app_digest(self.code),
            members,
            quorum,
        )


@dataclass(frozen=True)
class Proposal:
    """An agreement that was proposed, with where its material lies."""

    folder: Path
    agreement: Agreement
    digest: str
    name: str
    files: tuple[tuple[str, str, int], ...]
    """(path, digest, size) of each of the app's files."""

    @property
    def app(self) -> Path:
        return self.folder / "app"

    @property
    def text(self) -> Path:
        return self.folder / "charter.toml"

    @property
    def work(self) -> Work:
        return Work.of(self.text.read_text(encoding="utf-8"))

    def material(self) -> Mapping[str, Path]:
        """The files that a member may fetch, by digest."""
        found = {held: self.app / path for path, held, _ in self.files}
        return found | {self.agreement.charter: self.text}

    @classmethod
    def read(cls, folder: Path) -> Proposal:
        """Raises D106 for one that is not what `propose` wrote."""
        try:
            data = (folder / "agreement.json").read_bytes()
            said: dict[str, Any] = json.loads((folder / "proposal.json").read_bytes())
            listed = tuple((str(p), str(d), int(s)) for p, d, s in said["files"])
            agreement = Agreement.decode(data)
            return cls(folder, agreement, digest(data), str(said["name"]), listed)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise files.damaged(f"the proposal in {folder} is damaged", str(error)) from None


def folder_of(federation: Federation, agreement: str) -> Path:
    return federation.root / "proposals" / agreement.removeprefix("sha256:")


def proposal(federation: Federation, agreement: str) -> Proposal:
    """The proposal of this agreement. Raises D106."""
    return Proposal.read(folder_of(federation, agreement))


def standing(federation: Federation, held: str = "") -> list[Proposal]:
    """What members are asked to agree on: of each name the newest agreement on record, if its members are
    today's; and `held`, under which a run is open."""
    now = federation.ledger.read()
    active, found, names = now.active(), [], set[str]()
    for adopted in reversed(list(now.agreements.values())):
        folder = folder_of(federation, adopted.agreement)
        if not (folder / "proposal.json").is_file():
            continue
        one = Proposal.read(folder)
        asked = one.name not in names and dict(one.agreement.members) == active
        if asked or adopted.agreement == held:
            found.append(one)
            names.add(one.name)
    return found


def propose(federation: Federation, draft: Draft) -> Proposal:
    """Put the draft's agreement on record (`charter.adopted`), its material beside it; again is harmless.

    Raises F114, D104, D105.
    """
    agreement = draft.agreement(federation)
    folder = folder_of(federation, agreement.digest)
    with files.disk_errors(folder):
        if not (folder / "proposal.json").exists():
            _write(folder, agreement, draft)
        federation.keep_blob(agreement.encode())
        federation.keep_blob(draft.text.encode())
    federation.ledger.adopted(agreement.digest, agreement.charter)
    return Proposal.read(folder)


def _write(folder: Path, agreement: Agreement, draft: Draft) -> None:
    """`proposal.json` comes last: where it is, all of it is."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "app").mkdir(parents=True)
    listed = []
    for name, data in sorted(draft.code.items()):
        path = folder / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            shutil.copyfile(data, path)
        listed.append([name, digest_held(path), path.stat().st_size])
    files.replace(folder / "agreement.json", agreement.encode())
    files.replace(folder / "charter.toml", draft.text.encode())
    files.sync_tree(folder)
    said = {"name": draft.work.name, "files": listed}
    files.replace(folder / "proposal.json", json.dumps(said, indent=1).encode())
