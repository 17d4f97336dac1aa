"""A release's files held against what its log says. Pure: each check gets files through `read`.

The log is taken as it was checked before: every entry that is told of here was found good by the rules.
"""

from __future__ import annotations

from collections.abc import Mapping

from barnraise.coordinator.verify.findings import Check, Read
from barnraise.coordinator.verify.story import Story
from barnraise.protocols import notes, release
from barnraise.protocols.agreements import Agreement, AgreementError
from barnraise.protocols.canonical import NotCanonical, canonical, digest, digest_of
from barnraise.protocols.croissant import CroissantFault, Statement
from barnraise.protocols.identity import Member
from barnraise.protocols.log_rules import Rules
from barnraise.protocols.release import Manifest
from barnraise.protocols.telling import Telling, metrics

PROCESSING = "code/processing/"


def check_published(manifest: Manifest, digest_: str, story: Story, rules: Rules) -> Check:
    """The log names this manifest (by its digest), as the release of a run that it opened and closed."""
    check = Check("published", "V112")
    if (manifest.federation, manifest.log) != (rules.federation, rules.log):
        whose = f"it is of {manifest.federation}, the log of {rules.federation}"
        check.wrong(release.MANIFEST, whose)
    if not story.opened:
        check.wrong(release.LOG, f"the run {manifest.run} was never opened in it")
    elif not story.closed:
        check.wrong(release.LOG, f"the run {manifest.run} was never closed in it")
    said = story.published.get(digest_)
    if said is None:
        others = ", ".join(story.published) or "none"
        why = f"the log does not name {digest_} as a release of this run, but {others}"
        check.wrong(release.MANIFEST, why)
        return check
    for name in ("model", "contributions"):
        if said[name] != getattr(manifest, name):
            check.wrong(release.MANIFEST, f"release.published names another {name}: {said[name]}")
    check.saw(f"release.published of the run {manifest.run} names {digest_}")
    if len(story.published) > 1:
        others = ", ".join(sorted(story.published.keys() - {digest_}))
        check.saw(f"the log names other releases of this run as well: {others}")
    return check


# --- who agreed on what ---------------------------------------------------------------------------


def check_agreement(manifest: Manifest, story: Story, read: Read) -> Check:
    """agreement.json, charter.toml and signatures/ are those under which the log opened the run."""
    check = Check("agreement", "V113")
    if manifest.agreement != story.agreement:
        opened = story.agreement or "no agreement"
        check.wrong(release.MANIFEST, f"it names {manifest.agreement!r}, the run has {opened}")
    data, text = read(release.AGREEMENT), read(release.CHARTER)
    if not manifest.agreement:
        _only(check, manifest, release.SIGNATURES, {}, read)
        if data is not None:
            check.wrong(release.AGREEMENT, "the run was opened without an agreement")
        check.saw("the run was opened without an agreement: nobody signed what it does")
        return check
    _check_agreed(check, manifest, data, text)
    signed = {f"{release.SIGNATURES}{name}.json": canonical(s) for name, s in story.signed.items()}
    _only(check, manifest, release.SIGNATURES, signed, read)
    names = ", ".join(sorted(story.signed))
    check.saw(f"{manifest.agreement} is signed by {names}; the run was opened under it")
    return check


def _check_agreed(check: Check, manifest: Manifest, data: bytes | None, text: bytes | None) -> None:
    if data is None or digest(data) != manifest.agreement:
        check.wrong(release.AGREEMENT, "it is not the agreement that the manifest names")
        return
    try:
        agreement = Agreement.decode(data)
    except AgreementError as error:
        check.wrong(release.AGREEMENT, str(error))
        return
    if text is None or digest(text) != agreement.charter:
        check.wrong(release.CHARTER, f"it is not the text that was agreed on, {agreement.charter}")


def check_members(manifest: Manifest, story: Story, read: Read) -> Check:
    """members/ says of each member of the run what the log says."""
    check = Check("members", "V113")
    members = {
        f"{release.MEMBERS}{name}.json": canonical(_member(name, key, story.organisations))
        for name, key in story.members.items()
    }
    _only(check, manifest, release.MEMBERS, members, read)
    check.saw(f"{len(members)} members of the run: {', '.join(sorted(story.members))}")
    return check


def _member(name: str, key: str, organisations: Mapping[str, str]) -> dict[str, str]:
    raw = bytes.fromhex(key)
    return {
        "member": name,
        "key": key,
        "organisation": organisations.get(name, ""),
        "node_id": str(Member(name, raw).node_id),
        "witness": notes.cosigner_key(name, raw),
    }


def _only(
    check: Check, manifest: Manifest, folder: str, wanted: Mapping[str, bytes], read: Read
) -> None:
    """In this folder lie exactly the files that are wanted."""
    for path, data in sorted(wanted.items()):
        if (held := read(path)) is None:
            check.wrong(path, "the log tells of it, and it is not there")
        elif held != data:
            check.wrong(path, "it is not what the log says")
    for path in manifest.files:
        if path.startswith(folder) and path not in wanted:
            check.wrong(path, "the log tells of no such thing")


# --- what ran, and what came of it ----------------------------------------------------------------


def check_code(manifest: Manifest, story: Story, read: Read) -> Check:
    """code/app is the app that the run was opened with, code/versions.json what it ran with."""
    check = Check("code", "V114")
    files = {
        path.removeprefix(release.CODE): f"sha256:{held}"
        for path, (_, held) in manifest.files.items()
        if path.startswith(release.CODE)
    }
    held = digest_of([[path, files[path]] for path in sorted(files)])
    opened = str((story.opened.get("app") or {}).get("digest", ""))
    if held != opened:
        check.wrong(release.CODE, f"the app's digest is {held}, the run was opened with {opened}")
    if read(release.VERSIONS) != canonical(story.opened.get("versions")):
        check.wrong(release.VERSIONS, "these are not the versions that run.opened names")
    check.saw(f"{len(files)} files give the app's digest, {opened}")
    return check


def check_model(manifest: Manifest, story: Story) -> Check:
    """model.safetensors is what the run was closed with, and what its last round sealed."""
    check = Check("weights", "V115")
    held = "sha256:" + manifest.files.get(release.MODEL, (0, ""))[1]
    if held != manifest.model:
        check.wrong(release.MODEL, f"it is {held}, the manifest says {manifest.model}")
    closed = story.closed.get("model", "nothing")
    if closed != held or not story.closed.get("named"):
        check.wrong(release.MODEL, f"it is {held}, the run was closed with {closed}")
    if story.models and story.models[-1] != held:
        check.wrong(release.MODEL, f"it is {held}, the last round sealed {story.models[-1]}")
    sealed = f", and sealed after {len(story.models)} rounds" if story.models else ""
    check.saw(f"{release.MODEL} is {held}: what the run was closed with{sealed}")
    return check


def check_metrics(telling: Telling | None, read: Read) -> Check:
    """metrics.json follows from the log alone, byte for byte. `telling` is None where it cannot be told."""
    check = Check("metrics", "V116")
    held = read(release.METRICS)
    try:
        told = canonical(metrics(telling)) if telling is not None else None
    except NotCanonical as error:
        check.wrong(release.METRICS, f"the log's figures are {error}")
        return check
    if told is None:
        check.wrong(release.METRICS, "the log's entries of the run do not tell its rounds")
    elif held is None:
        check.wrong(release.METRICS, "it is not there")
    elif held != told:
        check.wrong(release.METRICS, f"it is not what the log tells, {digest(told)}")
    rounds = len(telling.rounds) if telling is not None else 0
    check.saw(f"{release.METRICS} of {rounds} rounds follows from the log, byte for byte")
    return check


def check_data(manifest: Manifest, story: Story, read: Read) -> Check:
    """data/ holds each member's last statement of its data before the run was closed, code/processing the
    code that a statement of open data names."""
    check = Check("data", "V118")
    wanted: dict[str, str] = {}
    for name, body in sorted(story.data.items()):
        wanted[f"{release.DATA}{name}.statement.json"] = digest(canonical(body["statement"]))
        path = f"{release.DATA}{name}.croissant.json"
        wanted[path] = body["document"]
        document = read(path)
        if document is not None and digest(document) == body["document"]:
            wanted |= _processing(check, name, path, document, body["open"])
    for path, named in sorted(wanted.items()):
        if path not in manifest.files:
            check.wrong(path, "a member has stated it, and it is not there")
        elif f"sha256:{manifest.files[path][1]}" != named:
            check.wrong(path, f"it is not what a member has stated, {named}")
    for path in manifest.files:
        if path.startswith((release.DATA, PROCESSING)) and path not in wanted:
            check.wrong(path, "no member of the run has stated it")
    stated = ", ".join(sorted(story.data))
    check.saw(
        f"data are stated by {stated}, each signed" if stated else "no member states its data"
    )
    return check


def _processing(
    check: Check, name: str, path: str, document: bytes, is_open: bool
) -> dict[str, str]:
    """Path → digest of the processing code that a statement names, where the data are open."""
    try:
        statement = Statement.read(document)
    except CroissantFault as error:
        check.wrong(path, f"it is no data statement: {error}")
        return {}
    if statement.open != is_open:
        check.wrong(path, f"{name} has signed otherwise whether its data are open")
    code = statement.code.items() if statement.open else ()
    return {f"{PROCESSING}{name}/{file}": f"sha256:{held}" for file, held in code}
