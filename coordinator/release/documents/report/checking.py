"""Section: what anyone can and cannot know of this release, and how to check it."""

from __future__ import annotations

from collections.abc import Sequence

from barnraise.coordinator.release.documents.report.markup import Child, Element, tag
from barnraise.coordinator.release.documents.report.section import Section
from barnraise.coordinator.release.documents.report.story import Story

_MODES = {
    "open": "Contributions are open: the members’ updates are in this release, so anyone can compute"
    " the model again from them.",
    "auditors": "Contributions are for auditors: the members’ updates are in this release, encrypted"
    " to the keys that the charter names. Who holds one of them can compute the model again.",
    "sealed": "Contributions are sealed: the members’ updates are not in this release, so the model"
    " cannot be computed again from it.",
}
_FOLLOWS = "that the weights follow from the members’ signed updates, by the charter’s strategy."
_CAN = (
    "that every file here is, to the byte, the one that the log names;",
    "who signed what, and in which order: the charter, each reply, each data statement;",
    "that the log was not rewritten between the states that members witnessed and cosigned;",
)
_CAN_TOO = {
    "open": f"by an audit, {_FOLLOWS}",
    "auditors": f"by an audit, with an auditor’s key, {_FOLLOWS}",
    "sealed": "which updates, by digest, the model was made of; not the updates themselves.",
}
_CANNOT = (
    "that an update came from the data that its member states;",
    "that a data statement is true;",
    "that none of the accepted updates was poisoned.",
)
_FEW = (
    "With fewer than four members, a single one could deceive the witnesses together with the"
    " coordinator."
)


def limits(story: Story) -> Section:
    """What a verifier learns, what nobody can learn from a release, and the commands."""
    mode = story.facts.contributions
    columns = (_column("You can check", _can(mode)), _column("You cannot know", _cannot(story)))
    body = (tag("div", columns, class_="two"), tag("div", _commands(story)))
    return Section("checking", "What can be checked", (tag("p", _MODES.get(mode, mode)),), body)


def _column(heading: str, items: Sequence[str]) -> Element:
    return tag("div", tag("h3", heading), tag("ul", [tag("li", one) for one in items]))


def _can(mode: str) -> Sequence[str]:
    return (*_CAN, *([_CAN_TOO[mode]] if mode in _CAN_TOO else []))


def _cannot(story: Story) -> Sequence[str]:
    found = list(_CANNOT)
    if story.facts.contributions == "sealed":
        found.insert(0, "that the weights follow from the updates, which are sealed;")
    if len(story.names) < 4:
        found.append(_FEW)
    if story.simulated:
        found.append("That institutions took part at all: this was a simulation.")
    return found


def _commands(story: Story) -> list[Child]:
    verify, mode = story.facts.clause, story.facts.contributions
    said = "Every signature, digest and cosignature, offline; it says too what it could not know."
    found = _command("To verify", said, verify)
    audit = verify.replace(" verify ", " audit ", 1)
    if mode in ("open", "auditors") and audit != verify:
        key = " An auditor’s key is needed." if mode == "auditors" else ""
        said = f"It computes the rounds again from the members’ updates, and compares bytes.{key}"
        found += _command("To audit", said, audit)
    return found


def _command(heading: str, said: str, command: str) -> list[Child]:
    return [tag("h3", heading), tag("p", said), tag("code", command, class_="command")]
